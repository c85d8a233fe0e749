"""What a connection that listens hears: RESP2 messages, out of bytes that come in any pieces.

Every process hears every change of what it watches, and reading one with redis-py takes three times as much of the processor.
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from redis.exceptions import InvalidResponse

from . import outcome

EOL: Final = b"\r\n"
SHORTEST: Final = 3
"""Parts of a message: what it is, of which channel, and the payload or a number."""


class Pushes:
    """Takes bytes as they arrive; keeps what is not whole yet."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, chunk: bytes) -> Iterator[list[Any]]:
        """The messages that are whole now. Raises what the server complains of, InvalidResponse for what is no message.

        One that is not whole is read anew with the next bytes: messages have few parts, which are skipped by length.
        """
        data, start = self._rest + chunk, 0
        while (found := _message(data, start)) is not None:
            message, start = found
            yield message
        self._rest = data[start:]


def _message(data: bytes, start: int) -> tuple[list[Any], int] | None:
    """The message that begins there, and where the next one does; None when it is not whole."""
    end = data.find(EOL, start)
    if end < 0:
        return None
    if data[start : start + 1] == b"-":
        raise outcome.parse_error(data[start + 1 : end].decode(errors="replace"))
    parts: list[Any] = []
    try:
        for _ in range(_count(data[start:end])):
            start = end + len(EOL)
            end = data.find(EOL, start)
            if end < 0:
                return None
            kind, number = data[start : start + 1], int(data[start + 1 : end])
            if kind == b"$" and number >= 0:
                start = end + len(EOL)
                end = start + number
                if len(data) < end + len(EOL):
                    return None
                parts.append(data[start:end])
            elif kind == b":":
                parts.append(number)
            elif kind == b"$":
                parts.append(None)
            else:
                raise ValueError
    except ValueError:
        raise InvalidResponse(f"no message of RESP2 has {data[start : start + 20]!r} here") from None
    return parts, end + len(EOL)


def _count(head: bytes) -> int:
    if head[:1] != b"*" or int(head[1:]) < SHORTEST:
        raise ValueError
    return int(head[1:])
