"""A TCP proxy that stands between a client and a real server and breaks their connections on command.

It runs in a thread of the test's process. Every command returns when it has taken effect::

    with TcpProxy("127.0.0.1", server.port) as proxy:
        client = connect(proxy.through(server.url))
        lost = proxy.drop_replies(matching=b"INCR")
        with pytest.raises(OutcomeUnknown):
            client.increment()
        assert lost.is_set()  # the server has incremented, the client cannot know
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakSet

from tests.servers import free_port

CHUNK = 65_536
REMEMBERED = 4096
COMMAND_TIMEOUT = 10.0  # seconds


@dataclass
class _Trap:
    """A cut that waits for its moment: the next bytes that match."""

    matching: bytes
    sprung: threading.Event = field(default_factory=threading.Event)


class _Connection:
    """A client's connection and the one made for it to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)
        self.lost_bytes = False  # swallowed some: what follows would make no sense to the peer
        self.swallowed = False  # this one alone lies in a black hole
        self.said = b""  # what the client sent first
        self.reply_trap: _Trap | None = None  # the request went through, its reply shall not
        self.tasks: list[asyncio.Task[None]] = []

    def cut(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # reaches the peer even if a forked child holds the socket open
            writer.transport.abort()
        self._end_tasks()

    def hang_up(self) -> None:
        """Close after what has been forwarded has been sent."""
        for writer in self._writers:
            writer.close()
        self._end_tasks()

    def _end_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()


class TcpProxy:
    """Forwards ``127.0.0.1:port`` to ``host:target_port`` until told otherwise."""

    def __init__(self, host: str, target_port: int) -> None:
        self._target = (host, target_port)
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._clients: WeakSet[asyncio.StreamWriter] = WeakSet()  # also those not yet connected to the server
        self._serving: set[asyncio.Future[None]] = set()
        self._swallow_requests = False
        self._swallow_replies = False
        self._swallowed: list[tuple[bytes, bool, bool]] = []  # said, and whether its requests and replies are lost
        self._trickle = 0.0
        self._request_traps: list[_Trap] = []
        self._reply_traps: list[_Trap] = []
        self.accepted = 0  # connections since the start

    def through(self, url: str) -> str:
        """``url`` with this proxy's address in the place of its host and port."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[:2]
        return urlunsplit(parts._replace(netloc="".join(credentials) + f"127.0.0.1:{self.port}"))

    # What a test commands

    def cut(self) -> None:
        """Close every connection now; new ones are served."""
        self._run(self._cut)

    def refuse(self) -> None:
        """Close every connection and refuse new ones, as a host without the server does."""
        self._run_coroutine(self._refuse())

    def accept(self) -> None:
        """Listen again after ``refuse()``."""
        self._run_coroutine(self._listen())

    def blackhole(self, *, requests: bool = True, replies: bool = True) -> None:
        """Keep connections open, accept new ones, and swallow what is sent; also who hangs up is not told on.

        With ``replies=False`` only what clients send is lost, with ``requests=False`` only what the server sends.
        """

        def swallow() -> None:
            self._swallow_requests, self._swallow_replies = requests, replies

        self._run(swallow)

    def isolate(self, said: bytes) -> int:
        """A black hole only for the connections whose client has sent ``said``; returns how many those are.

        It is looked for in the first bytes that a client sends, ``REMEMBERED`` of them.
        """
        isolated = 0

        def swallow() -> None:
            nonlocal isolated
            for connection in self._connections:
                if said in connection.said:
                    connection.swallowed = True
                    isolated += 1

        self._run(swallow)
        return isolated

    def swallow(self, said: bytes, *, requests: bool = True, replies: bool = True) -> None:
        """A black hole for the connections, also those to come, of clients who say ``said``, from then on.

        As ``blackhole`` it can be one-way, and as in ``isolate`` what a client says first counts.
        """
        self._run(lambda: self._swallowed.append((said, requests, replies)))

    def trickle(self, seconds: float) -> None:
        """Let replies through byte by byte, with so many seconds between them."""

        def slow_down() -> None:
            self._trickle = seconds

        self._run(slow_down)

    def heal(self) -> None:
        """End the black hole and the trickle; connections that lost bytes are cut, untouched ones go on."""

        def forward_again() -> None:
            self._swallow_requests = self._swallow_replies = False
            self._swallowed.clear()
            self._trickle = 0.0
            for connection in self._connections:
                connection.swallowed = False
            for connection in [each for each in self._connections if each.lost_bytes]:
                self._forget(connection)

        self._run(forward_again)

    def drop_replies(self, matching: bytes = b"") -> threading.Event:
        """Once: let the next request that contains ``matching`` through, then discard its reply and cut the connection.

        The event is set when that has happened. What matches must arrive in one piece, as small requests do.
        """
        return self._lay(self._reply_traps, matching)

    def drop_requests(self, matching: bytes = b"") -> threading.Event:
        """Once: discard the next request that contains ``matching`` and cut its connection; the server never sees it.

        The event is set when that has happened.
        """
        return self._lay(self._request_traps, matching)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    @property
    def robbed(self) -> int:
        """How many of them have lost bytes in a black hole."""
        return sum(connection.lost_bytes for connection in list(self._connections))

    def start(self) -> Self:
        self._thread.start()
        self._run_coroutine(self._listen())
        return self

    def close(self) -> None:
        self._run_coroutine(self._refuse())
        self._run_coroutine(_settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_TIMEOUT)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # How commands get into the loop's thread

    def _run(self, action: Callable[[], None]) -> None:
        async def act() -> None:
            action()

        self._run_coroutine(act())

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(COMMAND_TIMEOUT)

    # What happens in the loop's thread

    def _lay(self, traps: list[_Trap], matching: bytes) -> threading.Event:
        trap = _Trap(matching)
        self._run(lambda: traps.append(trap))
        return trap.sprung

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            for sock in listener.sockets:
                self._loop.remove_reader(sock.fileno())
            await _breathe()  # asyncio breaks off whom it is accepting when the listener closes, and leaves it open
            for sock in listener.sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._cut()

    def _cut(self) -> None:
        for connection in list(self._connections):
            self._forget(connection)
        for serving in self._serving:
            serving.cancel()
        for client in list(self._clients):
            client.transport.abort()

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        connection.cut()

    def _accepted(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._clients.add(to_client)
        serving = asyncio.ensure_future(self._serve(from_client, to_client))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(to_client, to_server)
        self._connections.add(connection)
        self.accepted += 1
        connection.tasks = [
            asyncio.create_task(self._pump(connection, from_client, to_server, self._pass_request)),
            asyncio.create_task(self._pump(connection, from_server, to_client, self._pass_reply)),
        ]

    async def _pump(
        self,
        connection: _Connection,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        passes: Callable[[_Connection, bytes], bool],
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                if passes(connection, data):
                    if self._trickle and passes == self._pass_reply:
                        await self._drip(data, target)
                    else:
                        target.write(data)
                        await target.drain()
        if passes(connection, b""):  # the end of the stream is lost in a black hole like everything else
            self._connections.discard(connection)
            connection.hang_up()

    async def _drip(self, data: bytes, target: asyncio.StreamWriter) -> None:
        for place in range(len(data)):
            end = place + 1 if self._trickle else len(data)  # healed: the rest at once
            target.write(data[place:end])
            await target.drain()
            if end == len(data):
                return
            await asyncio.sleep(self._trickle)

    def _pass_request(self, connection: _Connection, data: bytes) -> bool:
        connection.said = (connection.said + data)[:REMEMBERED]
        if self._swallow_requests or connection.swallowed or self._is_swallowed(connection, replies=False):
            connection.lost_bytes = True
            return False
        if trap := _spring(self._request_traps, data):
            trap.sprung.set()  # first: who sees the cut may ask at once
            self._forget(connection)
            return False
        if connection.reply_trap is None:
            connection.reply_trap = _spring(self._reply_traps, data)
        return True

    def _pass_reply(self, connection: _Connection, data: bytes) -> bool:
        if self._swallow_replies or connection.swallowed or self._is_swallowed(connection, replies=True):
            connection.lost_bytes = True
            return False
        if data and connection.reply_trap is not None:
            connection.reply_trap.sprung.set()
            self._forget(connection)
            return False
        return True

    def _is_swallowed(self, connection: _Connection, *, replies: bool) -> bool:
        return any(rule[2 if replies else 1] and rule[0] in connection.said for rule in self._swallowed)


def _spring(traps: list[_Trap], data: bytes) -> _Trap | None:
    """The first trap that the bytes spring, no longer laid."""
    for trap in traps:
        if data and trap.matching in data:
            traps.remove(trap)
            return trap
    return None


async def _settle() -> None:
    """End every task and let closed transports say that they are, before the loop closes."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await _breathe()


async def _breathe() -> None:
    """Lets the loop finish what is a few turns away: accepting a client, closing a transport."""
    for _ in range(8):
        await asyncio.sleep(0)
