"""A typed value comes back with its type; integers are stored as such."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dref_django.codecs import get_codec
from dref_django.exceptions import CounterOverflow
from tests.typed_values.shapes import (
    JSON,
    MSGPACK,
    Album,
    Circle,
    Colour,
    Derived,
    Item,
    Level,
    Node,
    Options,
    Planet,
    Point,
    Price,
    Rights,
    Shape,
    Square,
    UserId,
    encoded,
    schema,
)

EVERYTHING: list[tuple[Any, Any]] = [
    (None, {"anything": (1, {2})}),
    (Any, [1, "a"]),
    (int, 5),
    (bool, True),
    (str, "text"),
    (float, 1.5),
    (bytes, b"\x00"),
    (Decimal, Decimal("1.50")),
    (UUID, UUID(int=7)),
    (datetime, datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
    (date, date(2024, 1, 2)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UserId, 5),
    (Annotated[str, "a note"], "text"),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Planet, Planet.MARS),
    (Rights, Rights.READ | Rights.WRITE),
    (Literal["on", "off", 1, None], 1),
    (Literal[Colour.RED], Colour.RED),
    (list[int], [1, 2]),
    (list, [1, "a", None]),
    (list[float], [1.0, 2.5]),
    (list[Price], [Price(Decimal(1)), Price(Decimal(2), "USD")]),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[int, str, Price], (1, "a", Price(Decimal(1)))),
    (tuple[()], ()),
    (set[str], {"b", "a"}),
    (set[Price], {Price(Decimal(1)), Price(Decimal(2))}),
    (frozenset[int | str], frozenset({1, "a"})),
    (dict[str, int], {"b": 1, "a": 2}),
    (dict[str, list[Price]], {"a": [Price(Decimal(1))]}),
    (dict[int, str], {5: "a", -1: "b"}),
    (dict[date, Decimal], {date(2024, 1, 2): Decimal("0.10")}),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict[Price, Item], {Price(Decimal(1)): Item("x")}),
    (int | str | None, None),
    (int | str | None, "a"),
    (float | int, 5),
    (datetime | None, datetime(2024, 1, 1, tzinfo=UTC)),
    (dict[str, Any] | list[int] | None, [1]),
    (Price, Price(Decimal("9.99"))),
    (Item, Item("book", Price(Decimal(1)), ["new"])),
    (Item | None, Item("book")),
    (Point, Point(3)),
    (list[Point], [Point(1, 2)]),
    (Options, {"verbose": True}),
    (Options, {"verbose": True, "depth": 3}),
    (Node, Node("a", [Node("b", [Node("c")])], Node("p"))),
    (Derived, Derived(3)),
    (Shape, Shape("s")),
    (Circle | Square | None, Square("s", 2)),
    (list[Circle | Square], [Circle("c", 2.0), Square("s")]),
    (Album, Album("Help!", date(1965, 8, 6), {"b", "a"}, {"front": b"\xff"})),
]


@pytest.mark.parametrize("codec", ["msgpack", "json", "pickle"])
@pytest.mark.parametrize(("type_", "value"), EVERYTHING, ids=range(len(EVERYTHING)))
def test_a_typed_value_comes_back_with_type_and_value(type_: Any, value: Any, codec: str) -> None:
    if codec == "json" and type_ is None:
        value = {"anything": [1]}
    made = schema(type_, get_codec(codec))
    data = made.encode(value)
    found = made.decode(data)
    assert found == value
    assert type(found) is type(value)
    assert repr(type(found)) == repr(type(value))
    if codec != "pickle":
        assert made.encode(found) == data


@given(
    st.lists(
        st.builds(
            Item,
            st.text(st.characters(codec="utf-8")),
            st.none() | st.builds(Price, st.decimals(allow_nan=False), st.sampled_from(["EUR", "USD"])),
            st.lists(st.text("ab"), max_size=3),
        ),
        max_size=3,
    )
)
def test_dataclasses_round_trip_whatever_their_fields_hold(items: list[Item]) -> None:
    for codec in (MSGPACK, JSON):
        made = schema(list[Item], codec)
        assert made.decode(made.encode(items)) == items


def test_a_dataclass_is_stored_as_a_plain_map_of_its_field_names() -> None:
    data = encoded(schema(Item), Item("book", tags=["new"]))
    assert msgpack.unpackb(data) == {"name": "book", "price": None, "tags": ["new"]}
    assert encoded(schema(Item, JSON), Item("book", Price(Decimal("1.50")))) == (
        b'{"name":"book","price":{"amount":"1.50","currency":"EUR"},"tags":[]}'
    )


def test_a_typed_tuple_or_set_is_read_from_a_plain_array_of_another_writer() -> None:
    data = msgpack.packb([1, 2])
    assert schema(tuple[int, ...]).decode(data) == (1, 2)
    assert schema(tuple[int, int]).decode(data) == (1, 2)
    assert schema(set[int]).decode(data) == {1, 2}


@pytest.mark.parametrize("type_", [tuple[int, ...], tuple[int, int], set[int], frozenset[int]])
def test_a_ref_that_gets_a_type_reads_what_it_stored_without_one(type_: Any) -> None:
    kind = type_.__origin__
    assert schema(type_).decode(schema(None).encode(kind([1, 2]))) == kind([1, 2])


# --- integers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [None, int, int | None, UserId])
@pytest.mark.parametrize("number", [0, 5, -(2**63), 2**63 - 1])
def test_an_integer_is_stored_as_the_number_itself(type_: Any, number: int) -> None:
    made = schema(type_)
    data = made.encode(number)
    assert type(data) is int
    assert data == number
    assert made.decode(data) == number


@pytest.mark.parametrize("type_", [None, int])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_an_integer_beyond_64_bits_names_the_ref(type_: Any, number: int) -> None:
    with pytest.raises(CounterOverflow, match=r"^feature-flags: int .* is not a signed 64-bit integer"):
        schema(type_).encode(number)


@pytest.mark.parametrize("type_", [None, bool])
def test_a_bool_is_no_integer(type_: Any) -> None:
    assert type(schema(type_).encode(True)) is bytes
    assert schema(type_).decode(encoded(schema(type_), True)) is True
