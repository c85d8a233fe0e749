"""What a default says of the type, and which values readers may share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from dref_django.codecs import immutable, type_of_default
from tests.typed_values.shapes import Circle, Colour, Derived, Item, Point, Price, Square, Unknown, schema


@dataclass(frozen=True)
class FrozenWithList:
    items: list[int]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, True),
        ("a", True),
        (None, True),
        (b"a", True),
        (Decimal(1), True),
        (datetime(2024, 1, 1, tzinfo=UTC), True),
        (UUID(int=1), True),
        (Colour.RED, True),
        ((1, ("a", frozenset({1}))), True),
        (Price(Decimal(1)), True),
        (Point(1), True),
        (Circle("c"), True),
        ((1, []), False),
        ([], False),
        ({}, False),
        (set(), False),
        (bytearray(), False),
        (Item("x"), False),
        (Derived(3), False),
        (FrozenWithList([1]), False),
        (Square("s"), False),
        (Unknown(), False),
    ],
    ids=range(22),
)
def test_only_values_that_cannot_change_are_shared(value: Any, expected: bool) -> None:
    assert immutable(value) is expected
    assert schema(None).shares(value) is expected


def test_two_decodes_share_nothing_that_can_change() -> None:
    made = schema(Item)
    data = made.encode(Item("x", tags=["a"]))
    first, second = made.decode(data), made.decode(data)
    first.tags.append("b")
    assert second.tags == ["a"]


@pytest.mark.parametrize(
    ("default", "type_"),
    [
        (None, None),
        ({}, None),
        ([], None),
        (set(), None),
        (frozenset(), None),
        ((), None),
        (5, int),
        (True, bool),
        ("", str),
        (0.5, float),
        (Decimal(1), Decimal),
        (Colour.RED, Colour),
        (Item("x"), Item),
        (Point(1), Point),
        (Square("s"), Square),
    ],
    ids=range(15),
)
def test_the_type_is_taken_from_a_default_that_says_enough(default: Any, type_: Any) -> None:
    assert type_of_default(default) is type_
