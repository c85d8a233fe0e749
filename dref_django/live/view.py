"""The JSON view of a value: what a page is shown of it.

One way only: a page can show every value, but the view does not say which Python type it came from. ASCII throughout,
so that a byte, a character and a JavaScript code unit are the same, and a splice of the text means the same to all.

- None, bool, str, finite float, list, dict: as in JSON; tuple, set and frozenset as arrays, a set's in a stable order;
- int up to 2^53 - 1 either way: a number; beyond it, where JavaScript would round: a string of its digits;
- NaN and the infinities: the strings "NaN", "Infinity", "-Infinity";
- datetime, date, time, timedelta, Decimal, UUID, bytes: strings, as docs/format.md writes them;
- dataclass, NamedTuple, msgspec Struct: an object of its fields; Enum: its value when that is a str or int, else its
  name;
- keys of a dict that are no str: the text of their view.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dref_django.codecs.scalars import TEXT
from dref_django.exceptions import InvalidValue

MAX_SAFE_INTEGER: Final = 2**53 - 1

_PLAIN: Final = frozenset({str, bool, type(None)})
_SCALARS: Final = (datetime, date, time, timedelta, Decimal, UUID, bytes)  # datetime is a date: it stands first
_BASES: Final[tuple[Any, ...]] = (int, float, str, dict, list, tuple)
"""Whose subclasses only pickle stores."""
_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"))


def to_json(view: object) -> str:
    """The text of a view, ASCII only."""
    return _ENCODER.encode(view)


def view_of(value: Any) -> Any:
    """The view as what a JSON parser would return. Raises `InvalidValue` for an object that has none."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    if kind is float:
        return value if math.isfinite(value) else _not_finite(value)
    if kind is dict:
        return {_key(key): view_of(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [view_of(item) for item in value]
    return _view_of_other(value)


def _view_of_other(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return view_of(value.value) if isinstance(value.value, str | int) else value.name
    if isinstance(value, set | frozenset):
        return sorted((view_of(item) for item in value), key=to_json)
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return TEXT[scalar][0](value)
    if (fields := _fields(value)) is not None:
        return {shown: view_of(getattr(value, name)) for shown, name in fields}
    for base in _BASES:
        if isinstance(value, base):
            return view_of(base(value))
    raise InvalidValue(f"a {type(value).__qualname__} cannot be shown on a page")


def _fields(value: Any) -> list[tuple[str, str]] | None:
    """(name on the page, attribute) of a record's fields, None for what is no record."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return [(field.name, field.name) for field in dataclasses.fields(kind)]
    if isinstance(value, tuple) and (names := getattr(kind, "_fields", None)) is not None:
        return [(name, name) for name in names]
    if (names := getattr(kind, "__struct_fields__", None)) is not None:
        return list(zip(kind.__struct_encode_fields__, names, strict=True))
    return None


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    view = view_of(key)
    return view if isinstance(view, str) else to_json(view)
