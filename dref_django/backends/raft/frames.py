"""Frames: how bytes on a connection are cut into pieces, and how each piece is proven to be the next one of its sender.

    plain (handshake only):  length (4 bytes)  body
    sealed:                  length (1 byte, of long frames 5)  code (16 bytes)  body

The length of a sealed frame below 255 is that byte; else the byte is 255 and the length follows in 4 bytes. The code is
keyed BLAKE2b over the frame's number and its body. The number counts up on both sides and does not travel: a frame that
is repeated, left out, moved or sent back to its sender does not fit. Nothing here does I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from dref_django.exceptions import DRefError

MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes of a body."""
CODE_SIZE: Final = 16

_length = struct.Struct(">I")
_number = struct.Struct(">Q")
LONG: Final = 255
"""In place of the length: it follows in 4 bytes."""


class TransportError(DRefError):
    """A connection between nodes cannot be made, or the other side did not keep to the protocol."""


class FrameError(TransportError):
    """What came is no frame, or not the next one of whom it claims to be from."""


def plain(body: bytes) -> bytes:
    return _length.pack(len(body)) + body


def take_plain(buffer: bytearray, limit: int) -> bytes | None:
    """Takes one plain frame out of the buffer; None when it is not complete. Raises `FrameError`."""
    if len(buffer) < _length.size:
        return None
    (size,) = _length.unpack_from(buffer)
    if size > limit:
        raise FrameError(f"a frame of {size} bytes before authentication; at most {limit} are read")
    end = _length.size + size
    if len(buffer) < end:
        return None
    body = bytes(buffer[_length.size : end])
    del buffer[:end]
    return body


def sealed_length(size: int) -> bytes:
    """How the length of a body is written in a sealed frame."""
    return bytes((size,)) if size < LONG else b"\xff" + _length.pack(size)


def sealed_size(body: bytes) -> int:
    """Bytes that a body takes as a sealed frame."""
    return len(sealed_length(len(body))) + CODE_SIZE + len(body)


class Sealer:
    """The sending end of one direction."""

    __slots__ = ("_keyed", "_sent")

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=CODE_SIZE)
        self._sent = 0

    def seal(self, body: bytes) -> bytes:
        code = self._keyed.copy()
        code.update(_number.pack(self._sent))
        code.update(body)
        self._sent += 1
        return b"".join((sealed_length(len(body)), code.digest(), body))


class Opener:
    """The receiving end of one direction."""

    __slots__ = ("_buffer", "_keyed", "_received")

    def __init__(self, key: bytes, rest: bytearray) -> None:
        """`rest`: what came right behind the handshake."""
        self._keyed = blake2b(key=key, digest_size=CODE_SIZE)
        self._received = 0
        self._buffer = rest

    def open(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes. Raises `FrameError` at the first that is not genuine; the end, then."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while start < end:
                size, head = buffer[start], start + 1
                if size == LONG:
                    if end - head < _length.size:
                        return
                    (size,) = _length.unpack_from(buffer, head)
                    if size > MAX_FRAME:
                        raise FrameError(f"a frame of {size} bytes; at most {MAX_FRAME} are read")
                    head += _length.size
                stop = head + CODE_SIZE + size
                if stop > end:
                    return
                body = bytes(buffer[head + CODE_SIZE : stop])
                code = self._keyed.copy()
                code.update(_number.pack(self._received))
                code.update(body)
                if not compare_digest(code.digest(), bytes(buffer[head : head + CODE_SIZE])):
                    raise FrameError(f"frame {self._received} is not genuine")
                self._received += 1
                start = stop
                yield body
        finally:
            del buffer[:start]
