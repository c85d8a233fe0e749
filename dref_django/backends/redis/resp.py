"""RESP2, what Redis answers: a generator that says how many more bytes it wants, and is sent some. No I/O here.

Threads, tasks and the listener read by it (`wire.py`), for less than half of what redis-py's readers cost.
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, TypeAlias, TypeVar

from redis.exceptions import InvalidResponse

from . import outcome

EOL: Final = b"\r\n"

T = TypeVar("T")
Reading: TypeAlias = Generator[int, bytes, T]
"""Yields how many bytes are missing at least; is sent those that came, which may be fewer or more."""


class Replies:
    """The replies of one connection, one after the other; bytes beyond the last one are kept for the next."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def is_empty(self) -> bool:
        return self._at == len(self._data)

    def answers(self, begin: bytes, count: int) -> Reading[list[Any]]:
        """So many replies, of which `begin` came first, and nothing else may come."""
        self._data, self._at = begin, 0
        found = yield from self.read(count)
        if not self.is_empty():
            raise InvalidResponse("more came than was asked for")
        return found

    def read(self, count: int) -> Reading[list[Any]]:
        """So many replies; errors of the server stand among them. Raises InvalidResponse for what is no RESP2."""
        answers = []
        for _ in range(count):
            answers.append((yield from self.reply()))  # noqa: PERF401
        return answers

    def reply(self) -> Reading[Any]:
        line = yield from self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return outcome.parse_error(rest.decode(errors="replace"))
        number = _number(rest)
        if number is not None:
            if kind == b":":
                return number
            if kind == b"$":
                return None if number < 0 else (yield from self._exactly(number))
            if kind == b"*":
                return None if number < 0 else (yield from self.read(number))
        raise InvalidResponse(f"no reply of RESP2 begins with {line[:20]!r}")

    def _line(self) -> Reading[bytes]:
        while (end := self._data.find(EOL, self._at)) < 0:
            yield from self._fill(1)
        line = self._data[self._at : end]
        self._at = end + len(EOL)
        return line

    def _exactly(self, size: int) -> Reading[bytes]:
        missing = self._at + size + len(EOL) - len(self._data)
        if missing > 0:
            yield from self._fill(missing)
        start = self._at
        self._at += size + len(EOL)
        return self._data[start : start + size]

    def _fill(self, missing: int) -> Reading[None]:
        chunks = [self._data[self._at :]]
        while missing > 0:
            chunk = yield missing
            chunks.append(chunk)
            missing -= len(chunk)
        self._data, self._at = b"".join(chunks), 0


def _number(text: bytes) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def lone(data: bytes) -> bytes | None:
    """What these bytes are nearly always, when one reply was asked for: one bulk string, all of it. Else None."""
    if data[:1] != b"$":
        return None
    end = data.find(EOL)
    size = _number(data[1:end]) if end > 0 else None
    return data[end + 2 : -2] if size is not None and len(data) == end + 4 + size else None
