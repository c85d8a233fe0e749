"""The JSON view of values."""

import enum
import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dref_django import InvalidValue
from dref_django.live.view import to_json, view_of


class Colour(enum.Enum):
    RED = "red"
    DEEP = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Shop:
    name: str
    since: date


class Point(NamedTuple):
    x: int
    y: int


class Item(msgspec.Struct, rename="camel"):
    unit_price: Decimal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-5, "-5"),
        (1.5, "1.5"),
        ("é", '"\\u00e9"'),
        (2**53 - 1, "9007199254740991"),
        (2**53, '"9007199254740992"'),
        (-(2**63), '"-9223372036854775808"'),
        (float("nan"), '"NaN"'),
        (float("inf"), '"Infinity"'),
        (float("-inf"), '"-Infinity"'),
        ({"a": [1, (2, {3})]}, '{"a":[1,[2,[3]]]}'),
        ({3, 1, 2}, "[1,2,3]"),
        ({1: "a", None: "b", (1, 2): "c", 1.5: "d"}, '{"1":"a","null":"b","[1,2]":"c","1.5":"d"}'),
        ({date(2024, 1, 2): 1, 2**60: 2}, '{"2024-01-02":1,"1152921504606846976":2}'),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), '"2024-01-02T03:04:05+00:00"'),
        (time(3, 4), '"03:04:00"'),
        (timedelta(seconds=90.5), '"PT90.5S"'),
        (Decimal("1.50"), '"1.50"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (b"\xff", '"/w=="'),
        (Colour.RED, '"red"'),
        (Colour.DEEP, '"DEEP"'),
        (Level.HIGH, "3"),
        (Shop("corner", date(2024, 1, 2)), '{"name":"corner","since":"2024-01-02"}'),
        (Point(1, 2), '{"x":1,"y":2}'),
        (Item(Decimal(2)), '{"unitPrice":"2"}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
    ],
)  # fmt: skip
def test_view(value: Any, text: str) -> None:
    assert to_json(view_of(value)) == text


def test_what_has_no_view_is_refused() -> None:
    with pytest.raises(InvalidValue, match="object cannot be shown"):
        view_of({"a": [object()]})


integers = st.integers(-(2**53) + 1, 2**53 - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_values_are_their_own_view_and_ascii(value: Any) -> None:
    text = to_json(view_of(value))
    assert text.isascii()
    assert json.loads(text) == value
