"""How one ref turns values into stored data and back: its type, its codec, its limit."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn
from uuid import UUID

from dref_django.exceptions import CounterOverflow, DRefError, InvalidValue, ValueTooLarge
from dref_django.protocol import INT_MAX, INT_MIN, Data

from . import records
from .base import Codec
from .merge import Merger, merger_for
from .plan import ANY, Plan, Unsupported
from .refusal import TOO_DEEP, Refused, describe
from .typed import compiled, title_of

IMMUTABLE: Final = frozenset(
    {int, float, bool, str, bytes, type(None), Decimal, datetime, date, time, timedelta, UUID}
)  # fmt: skip


class Schema:
    """Encodes and decodes the values of the ref `name`. Made once, when the ref is declared; thread-safe.

    `type_` is the ref's type, None for any value that the codec stores; `max_size` is the setting MAX_VALUE_SIZE, in
    bytes. Raises `InvalidValue`, with the ref and the annotation, for a type that cannot be stored: records are
    dataclasses, NamedTuples, TypedDicts and msgspec Structs, in dict, list, tuple, set, frozenset, Optional and unions
    whose members can be told apart when stored, with Literal, Enum and the scalars that the msgpack codec has.

    Nothing is coerced, except an int to a float that equals it. Types that the codec lacks are stored as text.
    """

    __slots__ = ("_lift", "_lower", "_merger", "_untyped", "codec", "max_size", "name", "type_")

    def __init__(self, name: str, type_: object | None, codec: Codec, max_size: int) -> None:
        self.name = name
        self.type_ = type_
        self.codec = codec
        self.max_size = max_size
        try:
            plan = ANY if type_ is None else _plan(type_, codec)
            self._merger: Merger | None = None if type_ is None else merger_for(type_, codec.encode)
        except Unsupported as unsupported:
            raise InvalidValue(f"{name}: a ref cannot have the type {title_of(type_)}: {unsupported}") from unsupported
        self._untyped = plan is ANY
        self._lower: Callable[[Any], Any] = plan.lower
        self._lift: Callable[[Any], Any] = plan.lift

    def encode(self, value: object, base: Data | None = None) -> Data:
        """What is stored for `value`: an int for a value whose plain form is an int, else the codec's bytes.

        `base` is the stored data that it replaces: fields in it that this process's types do not know survive. A base
        that cannot be read is ignored, there is nothing in it to keep.

        Raises `InvalidValue` with ref and path for a value of another type or one that the codec cannot store,
        `CounterOverflow` for an int beyond signed 64 bits, `ValueTooLarge` beyond `max_size` bytes.
        """
        try:
            plain = value if self._untyped else self._lower(value)
            if type(plain) is int:
                return self._counter(plain)
            if self._merger is not None and type(base) is bytes:
                plain = self._merged(self._merger, plain, base)
            data = self.codec.encode(plain)
        except DRefError as error:
            self._refuse(error)
        except RecursionError as error:
            raise InvalidValue(f"{self.name}: {TOO_DEEP}") from error
        except Exception as error:  # a third party's codec may raise anything
            raise InvalidValue(
                f"{self.name}: codec {self.codec.name} cannot store {describe(value)}: {error}"
            ) from error
        if len(data) > self.max_size:
            raise ValueTooLarge(
                f"{self.name}: the encoded value has {len(data)} bytes, more than the {self.max_size} that"
                " MAX_VALUE_SIZE allows; store less, or raise the setting"
            )
        return data

    def decode(self, data: Data) -> Any:
        """The value that `data` stands for, newly made. Raises `InvalidValue` with ref and path if it does not fit."""
        try:
            plain = data if type(data) is int else self.codec.decode(data)  # type: ignore[arg-type]
            return plain if self._untyped else self._lift(plain)
        except DRefError as error:
            self._refuse(error)
        except Exception as error:  # a third party's codec may raise anything, deep data a RecursionError
            raise InvalidValue(f"{self.name}: codec {self.codec.name} cannot read what is stored: {error}") from error

    def shares(self, value: object) -> bool:
        """Whether this decoded value may be handed to many readers: nothing in it can be changed."""
        return immutable(value)

    def _counter(self, number: int) -> int:
        if not INT_MIN <= number <= INT_MAX:
            raise CounterOverflow(
                f"{self.name}: {describe(number)} is not a signed 64-bit integer; larger ones fit inside a dict or list"
            )
        return number

    def _merged(self, merger: Merger, plain: Any, base: bytes) -> Any:
        try:
            stored = self.codec.decode(base)
        except Exception:  # unreadable: another codec's, or damaged
            return plain
        return merger.merge(plain, stored)

    def _refuse(self, error: DRefError) -> NoReturn:
        if isinstance(error, Refused):
            raise InvalidValue(f"{self.name}{error.path}: {error.reason}") from error.__cause__
        raise error


def immutable(value: object) -> bool:
    """Whether nothing in `value` can be changed: scalars, enum members, tuples, frozensets, frozen records of those."""
    kind = type(value)
    if kind in IMMUTABLE:
        return True
    if kind is tuple or kind is frozenset:
        return all(map(immutable, value))  # type: ignore[call-overload]
    if isinstance(value, enum.Enum):
        return True
    if isinstance(value, tuple) and records.is_named_tuple(kind):
        return all(map(immutable, value))
    names = _frozen_fields(kind)
    return names is not None and all(immutable(getattr(value, name, None)) for name in names)


def _frozen_fields(kind: Any) -> tuple[str, ...] | None:
    """The fields of a frozen record class, None for any other class."""
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen and dataclasses.is_dataclass(kind):
        return tuple(kind.__dataclass_fields__)
    if records.is_struct(kind) and kind.__struct_config__.frozen:
        return tuple(kind.__struct_fields__)
    return None


def type_of_default(default: object) -> type | None:
    """The type that a ref takes from its default: the class of a record, scalar or enum member, else None (untyped).

    None, dict, list, tuple, set and frozenset say too little about what they may hold later.
    """
    kind = type(default)
    if default is None or kind in (dict, list, tuple, set, frozenset):
        return None
    return kind


def _plan(type_: object, codec: Codec) -> Plan:
    natives: frozenset[type] = frozenset(getattr(codec, "natives", ()))
    any_keys = bool(getattr(codec, "any_keys", False))
    try:
        return compiled(type_, natives, any_keys, codec.encode)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return compiled.__wrapped__(type_, natives, any_keys, codec.encode)
