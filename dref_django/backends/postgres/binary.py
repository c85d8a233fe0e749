"""PostgreSQL's binary format: parameters to bytes, columns of a result to values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

Bound: TypeAlias = bytes | None
"""A parameter as it travels; None is NULL."""

BOOL, BYTES, INT8, INT2, TEXT = 16, 17, 20, 21, 25
BOOLS, BYTES_ARRAY, INT8S, INT2S, TEXTS = 1000, 1001, 1016, 1005, 1009

TRUE: Final = b"\x01"
FALSE: Final = b"\x00"

_int8 = struct.Struct("!q")
_int4 = struct.Struct("!i")
_int2 = struct.Struct("!h")
_array = struct.Struct("!iiIii")
_EMPTY_ARRAY = struct.Struct("!iiI")
_NULL = _int4.pack(-1)

int8 = _int8.pack
int2 = _int2.pack


def maybe_int8(number: int | None) -> Bound:
    return None if number is None else _int8.pack(number)


def boolean(truth: bool) -> bytes:
    return TRUE if truth else FALSE


def _make_array(oid: int, items: Sequence[Bound]) -> bytes:
    parts = [_array.pack(1, int(None in items), oid, len(items), 1)] if items else [_EMPTY_ARRAY.pack(0, 0, oid)]
    for item in items:
        parts += (_NULL,) if item is None else (_int4.pack(len(item)), item)
    return b"".join(parts)


def texts(items: Sequence[str]) -> bytes:
    return _make_array(TEXT, [item.encode() for item in items])


def int8s(items: Sequence[int | None]) -> bytes:
    return _make_array(INT8, [maybe_int8(item) for item in items])


def int2s(items: Sequence[int]) -> bytes:
    return _make_array(INT2, [_int2.pack(item) for item in items])


def booleans(items: Sequence[bool]) -> bytes:
    return _make_array(BOOL, [boolean(item) for item in items])


def blobs(items: Sequence[bytes | None]) -> bytes:
    return _make_array(BYTES, items)


class Line:
    """One row of a result; each column is read by its type."""

    __slots__ = ("_result", "_row")

    def __init__(self, result: PGresult, row: int = 0) -> None:
        self._result = result
        self._row = row

    def blob(self, column: int) -> bytes | None:
        return self._result.get_value(self._row, column)

    def number(self, column: int) -> int | None:
        """int8, int4 or int2; None for NULL."""
        value = self._result.get_value(self._row, column)
        return None if value is None else int.from_bytes(value, "big", signed=True)

    def integer(self, column: int) -> int:
        """As `number`, of a column that is never NULL."""
        return int.from_bytes(self._result.get_value(self._row, column) or b"", "big", signed=True)

    def truth(self, column: int) -> bool:
        return self._result.get_value(self._row, column) == TRUE

    def text(self, column: int) -> str:
        return (self._result.get_value(self._row, column) or b"").decode()

    def texts(self, column: int) -> tuple[str, ...]:
        """A text[] without NULLs; of NULL, ()."""
        value = self._result.get_value(self._row, column) or b""
        items: list[str] = []
        place = _array.size
        while place < len(value):
            end = place + 4 + _int4.unpack_from(value, place)[0]
            items.append(value[place + 4 : end].decode())
            place = end
        return tuple(items)
