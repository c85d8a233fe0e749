"""One blocking connection at work: redis-py connects and authenticates, from then on the socket is read here.

redis-py's layers cost as much as the round trip itself on a local server, and take any type and any protocol. Here
packed commands go out and RESP2 replies come back; https://redis.io/docs/latest/develop/reference/protocol-spec/.
"""

from __future__ import annotations

import select
import time
from typing import Any

from redis.exceptions import InvalidResponse

from . import outcome

CHUNK = 65536
LARGEST_CHUNK = 1 << 20
WORTH_COUNTING = 0.05
"""Seconds: a smaller difference does not change the socket's time limit, as that is a system call."""
CLOSED = "the server closed the connection"


class Wire:
    """A connection of redis-py with its socket, for one thread at a time."""

    __slots__ = ("_connection", "_data", "_deadline", "_poll", "_position", "_socket", "_timeout")

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._socket = connection._sock  # no public name; the same since redis-py 2
        self._timeout = timeout
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._data = b""
        self._position = 0
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
        if replies == 1:
            data = self._socket.recv(CHUNK)
            # Nearly always it is one bulk string, and all of it: then nothing is to be kept.
            if data[:1] == b"$":
                end = data.find(b"\r\n")
                if end > 0 and len(data) == end + 4 + int(data[1:end]):
                    return [data[end + 2 : -2]]
            if not data:
                raise ConnectionResetError(CLOSED)
            self._data = data
        answers = [self._reply() for _ in range(replies)]
        if self._position != len(self._data):
            raise InvalidResponse("more came than was asked for")
        self._data, self._position = b"", 0
        return answers

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._exactly(size)
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        if kind == b"+":
            return rest
        if kind == b"-":
            return outcome.parse_error(rest.decode(errors="replace"))
        raise InvalidResponse(f"no RESP2 reply begins with {line[:20]!r}")

    def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n", self._position)) < 0:
            self._fill(1)
        line = self._data[self._position : end]
        self._position = end + 2
        return line

    def _exactly(self, size: int) -> bytes:
        missing = self._position + size + 2 - len(self._data)
        if missing > 0:
            self._fill(missing)
        start = self._position
        self._position += size + 2
        return self._data[start : start + size]

    def _fill(self, missing: int) -> None:
        """Reads on until at least so many bytes came."""
        chunks = [self._data[self._position :]]
        while missing > 0:
            self._limit_rest()
            chunk = self._socket.recv(min(max(missing, CHUNK), LARGEST_CHUNK))
            if not chunk:
                raise ConnectionResetError(CLOSED)
            chunks.append(chunk)
            missing -= len(chunk)
        self._data, self._position = b"".join(chunks), 0

    def _limit_rest(self) -> None:
        """The socket's limit counts for each piece; a reply that trickles in must end by the same moment."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply came too slowly")
        if left < self._timeout - WORTH_COUNTING:
            self._timeout = left
            self._socket.settimeout(left)
