"""A proxy that rewrites what a server says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def another_process_id(said: bytes) -> bytes:
    """As a pooler does, which makes it up. BackendKeyData: 'K', its length 12, process id, secret."""
    place = said.find(b"K\x00\x00\x00\x0c")
    return said if place < 0 else said[: place + 5] + b"\x7f\x00\x00\x01" + said[place + 9 :]


@contextmanager
def rewriting(host: str, port: int, rewrite: Callable[[bytes], bytes]) -> Iterator[int]:
    """The port of something between that rewrites what the server says, as far as it comes in one piece."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, port))
                threading.Thread(target=pump, args=(client, server, bytes), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, rewrite), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket, rewrite: Callable[[bytes], bytes]) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(rewrite(data))
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
