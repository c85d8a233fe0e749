"""Connections at work: redis-py connects and authenticates, from then on the socket is read here.

redis-py's layers cost as much as the round trip itself on a local server, and take any type and any protocol. Here
packed commands go out and RESP2 replies come back (`resp.py`).
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

from dref_django.driving import arun, run

from .resp import Replies, lone

CHUNK: Final = 65536
LARGEST_CHUNK: Final = 1 << 20
WORTH_COUNTING: Final = 0.05
"""Seconds: a smaller difference does not change a socket's time limit, as that is a system call."""
CLOSED: Final = "the server closed the connection"


class Wire:
    """A connection of redis-py with its socket, for one thread at a time."""

    __slots__ = ("_connection", "_deadline", "_poll", "_replies", "_socket", "_timeout")

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._socket = connection._sock  # no public name; the same since redis-py 2
        self._timeout = timeout
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._replies = Replies()
        self._deadline = 0.0

    def is_dead(self) -> bool:
        """An idle connection has nothing to read, except its end. One system call."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._connection.disconnect()

    def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        """Sends, and reads as many replies; server errors stand among them. Raises OSError, InvalidResponse."""
        if timeout != self._timeout:
            self._timeout = timeout
            self._socket.settimeout(timeout)
        self._deadline = time.monotonic() + timeout
        self._socket.sendall(payload)
        begin = self._some(CHUNK)
        answer = lone(begin) if replies == 1 else None
        return run(self._replies.answers(begin, replies), self._more) if answer is None else [answer]

    def _some(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        if not data:
            raise ConnectionResetError(CLOSED)
        return data

    def _more(self, missing: int) -> bytes:
        """The socket's limit counts for each piece; a reply that trickles in must end by the same moment."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply came too slowly")
        if left < self._timeout - WORTH_COUNTING:
            self._timeout = left
            self._socket.settimeout(left)
        return self._some(min(max(missing, CHUNK), LARGEST_CHUNK))


class LoopWire:
    """A connection of redis-py's asynchronous kind, for one task at a time. Its reads have no time limit."""

    __slots__ = ("_connection", "_reader", "_replies", "_writer")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._reader = connection._reader  # no public names; the same since redis-py 4.2
        self._writer = connection._writer
        self._replies = Replies()

    def is_dead(self) -> bool:
        """As `Wire.is_dead`. A loop that did not run meanwhile has not heard of the end; the socket tells."""
        if not self._connection.is_connected or self._reader.at_eof() or self._reader._buffer:
            return True  # what is left over would be taken for the next reply
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    async def close(self, *, wait: bool = False) -> None:
        """`wait`: until the transport has ended, too."""
        await self._connection.disconnect(nowait=not wait)

    async def exchange(self, payload: bytes, replies: int) -> list[Any]:
        """As `Wire.exchange`."""
        await self.send(payload)
        begin = await self._some(CHUNK)
        answer = lone(begin) if replies == 1 else None
        return await arun(self._replies.answers(begin, replies), self._some) if answer is None else [answer]

    async def send(self, payload: bytes) -> None:
        self._writer.write(payload)
        await self._writer.drain()

    async def hear(self) -> Any:
        """The next reply, whether asked for or not."""
        return await arun(self._replies.reply(), self._some)

    async def _some(self, missing: int) -> bytes:
        data: bytes = await self._reader.read(max(missing, CHUNK))
        if not data:
            raise ConnectionResetError(CLOSED)
        return data
