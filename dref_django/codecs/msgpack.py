"""The default codec: plain msgpack, with a documented ext type for each Python type that msgpack does not have.

The bytes carry no header and can be read and written by any msgpack library; `docs/format.md` lists the ext types.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

import msgpack

from .exact import Gate
from .refusal import Refused
from .scalars import TEXT, zone_objection

BIG_INT: Final = 1
DECIMAL: Final = 2
DATETIME: Final = 3
DATE: Final = 4
TIME: Final = 5
TIMEDELTA: Final = 6
UUID_: Final = 7
TUPLE: Final = 8
SET: Final = 9
FROZENSET: Final = 10

_TEXTS: Final[dict[type, int]] = {
    Decimal: DECIMAL,
    datetime: DATETIME,
    date: DATE,
    time: TIME,
    timedelta: TIMEDELTA,
}  # fmt: skip
_READING: Final[dict[str, Any]] = {"strict_map_key": False, "timestamp": 3}  # msgpack's own timestamps: as datetime


class _Packer(Protocol):
    def pack(self, value: Any, /) -> bytes: ...


class MsgpackCodec:
    """Every value comes back with the same type: dict (any key, in its order), list, tuple, set, frozenset, str, bytes,
    int of any size, float, bool, None, Decimal, datetime, date, time, timedelta, UUID, nested up to 100 levels.

    `encode` raises `InvalidValue` with the path of anything else, subclasses of these included; `decode` raises it for
    bytes that are not msgpack or hold an unknown ext type. Equal values built alike encode alike: sets are sorted by
    their encoded elements, dicts keep their order, since it is part of the value.
    """

    name = "msgpack"
    natives: Final[frozenset[type]] = frozenset(TEXT)
    any_keys: Final = True

    def encode(self, value: object) -> bytes:
        if not _GATE.admits(value):
            raise _refusal(value)
        try:
            return _pack(value)
        except Refused:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise _refusal(value) from error

    def decode(self, data: bytes) -> object:
        try:
            return _unpack(data)
        except Refused:
            raise
        except Exception as error:  # msgpack raises many kinds, and a parser of a payload any
            raise Refused(f"the stored {len(data)} bytes are not readable as msgpack: {error}") from error


def _pack(value: object) -> bytes:
    # A packer of its own for each call: one that is shared can neither be re-entered for an ext nor by a thread.
    packer: _Packer = msgpack.Packer(default=_to_ext, strict_types=True)
    return packer.pack(value)


def _unpack(data: bytes) -> object:
    value: object = msgpack.unpackb(data, ext_hook=_from_ext, **_READING)
    return value


def _to_ext(value: Any) -> msgpack.ExtType:
    kind = type(value)
    if kind is tuple:
        return msgpack.ExtType(TUPLE, _pack(list(value)))
    if kind in _TEXTS:
        if (objection := zone_objection(value)) is not None:
            raise ValueError(objection)
        return msgpack.ExtType(_TEXTS[kind], TEXT[kind][0](value).encode("ascii"))
    if kind is UUID:
        return msgpack.ExtType(UUID_, value.bytes)
    if kind is set or kind is frozenset:
        return msgpack.ExtType(SET if kind is set else FROZENSET, _packed_set(value))
    if kind is int:
        return msgpack.ExtType(BIG_INT, _big_int(value))
    raise TypeError(f"cannot store {kind.__qualname__}")


def _big_int(value: int) -> bytes:
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return value.to_bytes(size, "big", signed=True)


def _packed_set(value: set[Any] | frozenset[Any]) -> bytes:
    items = sorted(_pack(item) for item in value)
    return b"".join((msgpack.Packer().pack_array_header(len(items)), *items))


def _from_ext(code: int, payload: bytes) -> object:
    reader = _READERS.get(code)
    if reader is None:
        raise Refused(f"the stored msgpack holds the unknown ext type {code}")
    return reader(payload)


def _array(payload: bytes) -> list[Any]:
    # Not unpackb: it keeps 40 KB on the C stack, so that nested tuples would overflow it. An Unpacker is on the heap.
    unpacker = msgpack.Unpacker(ext_hook=_from_ext, max_buffer_size=0, **_READING)
    unpacker.feed(payload)
    items = unpacker.unpack()
    if type(items) is not list or unpacker.tell() != len(payload):
        raise ValueError("the payload of a tuple or set is no msgpack array")
    return items


def _text_reader(kind: type) -> Callable[[bytes], object]:
    from_text = TEXT[kind][1]
    return lambda payload: from_text(payload.decode("ascii"))


_READERS: Final[dict[int, Callable[[bytes], object]]] = {
    BIG_INT: lambda payload: int.from_bytes(payload, "big", signed=True),
    UUID_: lambda payload: UUID(bytes=payload),
    TUPLE: lambda payload: tuple(_array(payload)),
    SET: lambda payload: set(_array(payload)),
    FROZENSET: lambda payload: frozenset(_array(payload)),
    **{code: _text_reader(kind) for kind, code in _TEXTS.items()},
}


def _objection(value: object) -> str | None:
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return "cannot store text with lone surrogates"
    return zone_objection(value)


_GATE: Final = Gate(
    MsgpackCodec.natives | {str, int, float, bool, type(None)},
    frozenset({dict, list, tuple, set, frozenset}),
    any_keys=True,
    objection=_objection,
)


def _refusal(value: object) -> Refused:
    return _GATE.refusal(value) or Refused(f"msgpack cannot store this {type(value).__qualname__}")
