"""A pooler in transaction mode, as far as a test needs one: clients share a few of the server's sessions, and each
transaction goes to the one that has been idle for longest. So what one leaves there is met by the next at once.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
from contextlib import closing, suppress
from typing import IO, Final, Self

SESSIONS: Final = 2
PROTOCOL: Final = 196_608
ASKS_FOR_ENCRYPTION: Final = (80_877_103, 80_877_104)
TIMEOUT: Final = 10.0  # seconds for which a client waits for a session, and a session for its server

PARAMETERS: Final = {"client_encoding": "UTF8", "server_encoding": "UTF8", "standard_conforming_strings": "on"}


class Peer:
    """One end of a connection, message by message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming: IO[bytes] = sock.makefile("rb")

    def read(self, size: int) -> bytes:
        data = self._incoming.read(size)
        if len(data) < size:
            raise OSError("the peer has hung up")
        return data

    def message(self) -> tuple[bytes, bytes]:
        """Its kind, and all of it."""
        head = self.read(5)
        return head[:1], head + self.read(int.from_bytes(head[1:], "big") - 4)

    def first(self) -> tuple[int, bytes]:
        """What begins a connection: its code, and the rest."""
        size, code = struct.unpack("!II", self.read(8))
        return code, self.read(size - 8)

    def say(self, kind: bytes, body: bytes) -> None:
        self.sock.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # whoever reads, reads the end
        self._incoming.close()
        self.sock.close()


class TransactionPooler:
    """Before the server's `database`; `port`."""

    def __init__(self, host: str, port: int, database: str) -> None:
        self._idle: queue.Queue[Peer] = queue.Queue()
        self._sessions = [self._open(host, port, database) for _ in range(SESSIONS)]
        for session in self._sessions:
            self._idle.put(session)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for session in self._sessions:
            session.close()

    @staticmethod
    def _open(host: str, port: int, database: str) -> Peer:
        session = Peer(socket.create_connection((host, port), TIMEOUT))
        wishes = f"user\0postgres\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
        session.say(b"", struct.pack("!I", PROTOCOL) + wishes)
        while session.message()[0] != b"Z":
            pass
        return session

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = Peer(self._listener.accept()[0])
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: Peer) -> None:
        with closing(client), suppress(OSError, queue.Empty):
            self._welcome(client)
            while (first := client.message())[0] != b"X":
                self._transaction(client, first)

    @staticmethod
    def _welcome(client: Peer) -> None:
        while (code := client.first()[0]) != PROTOCOL:
            if code not in ASKS_FOR_ENCRYPTION:
                raise OSError("cancels nothing")
            client.sock.sendall(b"N")
        client.say(b"R", struct.pack("!I", 0))
        for name, value in PARAMETERS.items():
            client.say(b"S", f"{name}\0{value}\0".encode())
        client.say(b"K", b"\x7f\x00\x00\x01\x00\x00\x00\x00")  # made up, as every pooler does
        client.say(b"Z", b"I")

    def _transaction(self, client: Peer, first: tuple[bytes, bytes]) -> None:
        """From its first message to the moment at which the server has none open."""
        session = self._idle.get(timeout=TIMEOUT)
        (kind, message), is_open = first, True
        while is_open:
            session.sock.sendall(message)
            while kind not in (b"Q", b"S"):  # a query, or the end of a series of messages
                kind, message = client.message()
                session.sock.sendall(message)
            while (kind := (answer := session.message())[0]) != b"Z":
                client.sock.sendall(answer[1])
            is_open = not answer[1].endswith(b"I")
            if not is_open:
                self._idle.put(session)  # before its client can come back
            client.sock.sendall(answer[1])
            if is_open:
                kind, message = client.message()
