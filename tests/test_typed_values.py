"""Schemas: typed values in and out, refusals with the ref's name and path, rolling deploys, sizes."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dref_django.codecs import Codec, Schema, get_codec, immutable, type_of_default
from dref_django.exceptions import CounterOverflow, InvalidValue, ValueTooLarge

T = TypeVar("T")
LIMIT = 1_000_000
MSGPACK = get_codec("msgpack")
JSON = get_codec("json")


def schema(type_: object | None, codec: Codec = MSGPACK, limit: int = LIMIT) -> Schema:
    return Schema("feature-flags", type_, codec, limit)


def encoded(made: Schema, value: object, base: bytes | int | None = None) -> bytes:
    data = made.encode(value, base)
    assert isinstance(data, bytes)
    return data


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)
    MARS = (6.42e23, 3.39e6)


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


UserId = NewType("UserId", int)


@dataclass(frozen=True)
class Price:
    amount: Decimal
    currency: str = "EUR"


@dataclass
class Item:
    name: str
    price: Price | None = None
    tags: list[str] = field(default_factory=list)


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(TypedDict):
    verbose: bool
    depth: NotRequired[int]


@dataclass
class Node:
    label: str
    children: list[Node] = field(default_factory=list)
    parent: Optional[Node] = None  # noqa: UP045 -- the spelling is what is tested


@dataclass
class Derived:
    width: int
    area: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.area = self.width**2


@dataclass
class Picky:
    percent: int

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError("percent must be 0 to 100")


class Shape(msgspec.Struct, tag=True):
    name: str


class Circle(msgspec.Struct, tag=True, frozen=True):
    name: str
    radius: float = 1.0


class Square(Shape):
    side: Annotated[int, msgspec.Meta(ge=0)] = 1


class Album(msgspec.Struct, rename="camel"):
    album_title: str
    released: date | None = None
    labels: set[str] = msgspec.field(default_factory=set)
    covers: dict[str, bytes] = msgspec.field(default_factory=dict)


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


# --- refusals -----------------------------------------------------------------------------------------------------


WRONG_VALUES: list[tuple[Any, Any, str]] = [
    (int, True, "feature-flags: expected int, got bool True"),
    (int, "5", "feature-flags: expected int, got str '5'"),
    (int, 5.0, "feature-flags: expected int, got float 5.0"),
    (bool, 1, "feature-flags: expected bool, got int 1"),
    (str, b"a", "feature-flags: expected str, got bytes b'a'"),
    (str, None, "feature-flags: expected str, got None"),
    (float, True, "feature-flags: expected float, got bool True"),
    (float, 2**53 + 1, "feature-flags: expected float, got an int that no float equals: 9007199254740993"),
    (float, 10**400, "feature-flags: expected float, got an int that no float equals: of 1329 bits"),
    (date, datetime(2024, 1, 1, tzinfo=UTC), "feature-flags: expected date, got a datetime"),
    (Level, 1, "feature-flags: expected Level, got int 1"),
    (Rights, 1, "feature-flags: expected Rights, got int 1"),
    (Colour, "red", "feature-flags: expected Colour, got str 'red'"),
    (Literal[1], True, "feature-flags: expected Literal[1], got bool True"),
    (Literal["a"], [], "feature-flags: expected Literal['a'], got a list"),
    (int | None, "x", "feature-flags: expected int | None, got str 'x'"),
    (list[int], (1,), "feature-flags: expected list[int], got a tuple"),
    (list[int], [1, 2, "x"], "feature-flags[2]: expected int, got str 'x'"),
    (tuple[int, ...], [1], "feature-flags: expected tuple[int, ...], got a list"),
    (tuple[int, str], (1, 2), "feature-flags[1]: expected str, got int 2"),
    (tuple[int, str], (1,), "feature-flags: expected tuple[int, str], got 1 items"),
    (set[int], frozenset({1}), "feature-flags: expected set[int], got a frozenset"),
    (dict[str, int], {"a b": "x"}, "feature-flags['a b']: expected int, got str 'x'"),
    (dict[str, int], {1: 1}, "feature-flags[1]: expected str, got int 1"),
    (dict[tuple[int, int], int], {(1, 2): "x"}, "feature-flags[tuple]: expected int, got str 'x'"),
    (dict[str, list[Item]], {"a": [Item("x"), Item(5)]}, "feature-flags.a[1].name: expected str, got int 5"),  # type: ignore[arg-type]
    (Item, {"name": "x"}, "feature-flags: expected Item, got a dict"),
    (Item, Item("x", tags=["a", None]), "feature-flags.tags[1]: expected str, got None"),  # type: ignore[list-item]
    (Point, (1, 2), "feature-flags: expected Point, got a tuple"),
    (Options, {"depth": 1}, "feature-flags.verbose: missing, and Options requires it"),
    (Options, {"verbose": True, "dept": 1}, "feature-flags.dept: Options has no such field"),
    (Options, {"verbose": 1}, "feature-flags.verbose: expected bool, got int 1"),
    (Square, Square("s", side="x"), "feature-flags.side: expected int, got str"),  # type: ignore[arg-type]
    (Square, Square("s", side=-1), "feature-flags.side: expected int >= 0"),
    (Square, Circle("s"), "feature-flags: expected Square, got a Circle"),
    (Album, Album(album_title=5), "feature-flags.albumTitle: expected str, got int"),  # type: ignore[arg-type]
    (None, {"items": [{"price": len}]}, "feature-flags.items[0].price: cannot store a builtin_function_or_method"),
    (dict[str, Any], {"a": [object()]}, "feature-flags.a[0]: cannot store an object"),
    (None, object(), "feature-flags: cannot store an object"),
]


@pytest.mark.parametrize(("type_", "value", "message"), WRONG_VALUES, ids=range(len(WRONG_VALUES)))
def test_a_value_of_another_type_is_refused_with_ref_and_path(type_: Any, value: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        schema(type_).encode(value)
    assert str(caught.value).startswith(message)


@dataclass
class Rollout:
    rollout: int
    beta: bool = False


WRONG_DATA: list[tuple[Any, Any, str]] = [
    (Rollout, {"rollout": "abc"}, "feature-flags.rollout: expected int, got str 'abc'"),
    (Rollout, {"beta": True}, "feature-flags.rollout: missing, and Rollout has no default for it"),
    (Rollout, [1], "feature-flags: expected Rollout, got a list"),
    (list[Rollout], [{"rollout": 1}, {"rollout": True}], "feature-flags[1].rollout: expected int, got bool True"),
    (dict[str, Rollout], {"a": None}, "feature-flags.a: expected Rollout, got None"),
    (dict[tuple[int, int], str], [[1]], "feature-flags: expected dict[tuple[int, int], str] as a list of"),
    (Point, {"y": 1}, "feature-flags.x: missing, and Point has no default for it"),
    (Options, {}, "feature-flags.verbose: missing, and Options has no default for it"),
    (Picky, {"percent": 500}, "feature-flags: Picky does not accept what is stored: percent must be 0 to 100"),
    (Colour, "green", "feature-flags: expected Colour, got str 'green'"),
    (Rights, 8, "feature-flags: expected Rights, got int 8"),
    (Level, True, "feature-flags: expected Level, got bool True"),
    (set[int], 5, "feature-flags: expected set[int], got int 5"),
    (bool, 1, "feature-flags: expected bool, got int 1"),
    (Square, {"type": "Square", "name": "s", "side": -1}, "feature-flags.side: expected int >= 0"),
    (Square, {"type": "Circle", "name": "s"}, "feature-flags.type: invalid value 'Circle'"),
    (Circle | Square, {"type": "Oval", "name": "s"}, "feature-flags.type: invalid value 'Oval'"),
]


@pytest.mark.parametrize(("type_", "plain", "message"), WRONG_DATA, ids=range(len(WRONG_DATA)))
def test_stored_data_of_another_type_is_refused_with_ref_and_path(type_: Any, plain: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        schema(type_).decode(msgpack.packb(plain))
    assert str(caught.value).startswith(message)


def test_a_number_where_a_record_is_expected_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^feature-flags: expected Rollout, got int 5$"):
        schema(Rollout).decode(5)


def test_text_that_is_no_date_is_refused_by_a_typed_json_ref() -> None:
    with pytest.raises(InvalidValue, match=r"^feature-flags\[0\]: expected date, got str 'soon'$"):
        schema(list[date], JSON).decode(b'["soon"]')


def test_damaged_bytes_are_refused_with_the_name_of_the_ref() -> None:
    with pytest.raises(InvalidValue, match=r"^feature-flags: the stored 1 bytes are not readable as msgpack"):
        schema(Rollout).decode(b"\xc1")


def test_a_value_that_contains_itself_is_refused() -> None:
    node = Node("a")
    node.children.append(node)
    with pytest.raises(InvalidValue, match=r"^feature-flags: nested deeper than"):
        schema(Node).encode(node)


class OwnProtocol(Protocol):
    def run(self) -> None: ...


class Unknown:
    pass


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class HasUnknown:
    known: int
    unknown: list[Unknown]


@dataclass
class Unresolved:
    other: NoSuchName  # type: ignore[name-defined]  # noqa: F821


@dataclass
class NeedsInitVar:
    seed: dataclasses.InitVar[int]


UNSUPPORTED: list[tuple[Any, Codec, str]] = [
    (OwnProtocol, MSGPACK, "OwnProtocol is not supported: a Protocol says nothing about how to store it"),
    (Unknown, MSGPACK, "Unknown is not supported"),
    (HasUnknown, MSGPACK, "HasUnknown.unknown: Unknown is not supported"),
    (Unresolved, MSGPACK, "the annotations of Unresolved cannot be resolved: name 'NoSuchName' is not defined"),
    (NeedsInitVar, MSGPACK, "NeedsInitVar.seed: an InitVar without default is not stored"),
    (Box[int], MSGPACK, "not supported: generic classes are not"),
    (Sequence[int], MSGPACK, "not supported; use list or tuple"),
    (Mapping[str, int], MSGPACK, "not supported; use dict"),
    (Item | Price, MSGPACK, "Item and Price cannot be told apart when stored"),
    (list[int] | tuple[int, ...], MSGPACK, "list[int] and tuple[int, ...] cannot be told apart when stored"),
    (datetime | str, JSON, "cannot be told apart when stored"),
    (Item | Square, MSGPACK, "cannot be told apart when stored"),
    (complex, MSGPACK, "complex is not supported"),
    (type[int], MSGPACK, "not supported"),
]


@pytest.mark.parametrize(("type_", "codec", "message"), UNSUPPORTED, ids=range(len(UNSUPPORTED)))
def test_an_unsupported_annotation_is_refused_when_the_ref_is_declared(type_: Any, codec: Codec, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        schema(type_, codec)
    assert str(caught.value).startswith("feature-flags: a ref cannot have the type ")
    assert message in str(caught.value)


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [None, bytes])
def test_a_value_at_the_limit_is_stored_and_one_byte_more_is_not(type_: Any) -> None:
    made = schema(type_, limit=102)
    assert len(encoded(made, b"x" * 100)) == 102
    with pytest.raises(ValueTooLarge) as caught:
        made.encode(b"x" * 101)
    assert "feature-flags: the encoded value has 103 bytes, more than the 102 that MAX_VALUE_SIZE" in str(caught.value)


def test_fields_that_survive_count_for_the_size() -> None:
    base = msgpack.packb({"name": "x", "price": None, "tags": [], "cover": b"x" * 200})
    with pytest.raises(ValueTooLarge):
        schema(Item, limit=100).encode(Item("y"), base)


# --- rolling deploys ----------------------------------------------------------------------------------------------


@dataclass
class OldLine:
    sku: str
    count: int


@dataclass
class NewLine:
    sku: str
    count: int
    note: str = ""


@dataclass
class OldCart:
    owner: str
    first: OldLine | None = None
    lines: list[OldLine] = field(default_factory=list)
    by_sku: dict[str, OldLine] = field(default_factory=dict)
    pair: tuple[OldLine, int] | None = None


@dataclass
class NewCart:
    coupon: str = ""
    owner: str = ""
    first: NewLine | None = None
    lines: list[NewLine] = field(default_factory=list)
    by_sku: dict[str, NewLine] = field(default_factory=dict)
    pair: tuple[NewLine, int] | None = None


class OldStruct(msgspec.Struct):
    owner: str
    lines: list[OldLine] = msgspec.field(default_factory=list)


class NewStruct(msgspec.Struct):
    owner: str
    lines: list[NewLine] = msgspec.field(default_factory=list)
    coupon: str = ""


def updated_by_old(new_value: Any, change: Any, old_type: Any, codec: Codec = MSGPACK) -> Any:
    """`new_value` after a process that knows only `old_type` has updated it, read by the new process."""
    new, old = schema(type(new_value), codec), schema(old_type, codec)
    base = new.encode(new_value)
    value = old.decode(base)
    change(value)
    return new.decode(old.encode(value, base))


def a_cart() -> NewCart:
    return NewCart(
        "SAVE10",
        "ann",
        NewLine("a", 1, "gift"),
        [NewLine("a", 1, "one"), NewLine("b", 2, "two"), NewLine("c", 3, "three")],
        {"a": NewLine("a", 1, "wrap")},
        (NewLine("p", 1, "pair"), 1),
    )


@pytest.mark.parametrize(("new", "old"), [(NewCart, OldCart), (NewStruct, OldStruct)])
def test_a_new_process_reads_what_an_old_one_wrote_and_the_other_way_round(new: Any, old: Any) -> None:
    assert schema(new).decode(schema(old).encode(old("ann"))) == new(owner="ann")
    assert schema(old).decode(schema(new).encode(new(owner="ann", coupon="X"))) == old("ann")


@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=lambda codec: codec.name)
def test_fields_that_an_old_process_does_not_know_survive_its_update(codec: Codec) -> None:
    def change(cart: OldCart) -> None:
        assert cart.first is not None
        assert cart.pair is not None
        cart.owner = "bob"
        cart.first.count = 7
        cart.lines[1].count = 8
        cart.by_sku["a"].count = 9
        cart.by_sku["new"] = OldLine("new", 1)
        cart.pair[0].count = 10

    found = updated_by_old(a_cart(), change, OldCart, codec)
    assert found == NewCart(
        "SAVE10",
        "bob",
        NewLine("a", 7, "gift"),
        [NewLine("a", 1, "one"), NewLine("b", 8, "two"), NewLine("c", 3, "three")],
        {"a": NewLine("a", 9, "wrap"), "new": NewLine("new", 1, "")},
        (NewLine("p", 10, "pair"), 1),
    )


def test_list_items_keep_their_unknown_fields_when_they_move() -> None:
    def rotate(cart: OldCart) -> None:
        cart.lines.append(cart.lines.pop(0))

    assert updated_by_old(a_cart(), rotate, OldCart).lines == [
        NewLine("b", 2, "two"),
        NewLine("c", 3, "three"),
        NewLine("a", 1, "one"),
    ]


def test_a_list_item_that_is_new_takes_no_unknown_fields_of_another() -> None:
    def replace_first(cart: OldCart) -> None:
        del cart.lines[0]
        cart.lines.append(OldLine("d", 4))

    assert updated_by_old(a_cart(), replace_first, OldCart).lines == [
        NewLine("b", 2, "two"),
        NewLine("c", 3, "three"),
        NewLine("d", 4, ""),
    ]


def test_equal_list_items_keep_their_unknown_fields_in_order() -> None:
    cart = NewCart(lines=[NewLine("a", 1, "one"), NewLine("a", 1, "two"), NewLine("b", 1, "three")])

    def drop_last(old: OldCart) -> None:
        old.lines.pop()

    assert updated_by_old(cart, drop_last, OldCart).lines == [NewLine("a", 1, "one"), NewLine("a", 1, "two")]


def test_unknown_fields_of_structs_survive_nested_ones_included() -> None:
    def change(value: OldStruct) -> None:
        value.owner = "bob"
        value.lines[0].count = 5

    found = updated_by_old(NewStruct("ann", [NewLine("a", 1, "one")], "SAVE10"), change, OldStruct)
    assert found == NewStruct("bob", [NewLine("a", 5, "one")], "SAVE10")


def test_an_update_leaves_the_stored_order_of_fields_so_that_deltas_stay_small() -> None:
    new, old = schema(NewCart), schema(OldCart)
    base = encoded(new, a_cart())
    assert old.encode(old.decode(base), base) == base


def test_a_known_field_that_was_taken_out_does_not_come_back() -> None:
    made = schema(Options)
    base = encoded(made, {"verbose": True, "depth": 3})
    assert made.decode(made.encode({"verbose": True}, base)) == {"verbose": True}


def test_keys_taken_out_of_a_mapping_do_not_come_back() -> None:
    made = schema(dict[str, OldLine])
    base = encoded(made, {"a": OldLine("a", 1), "b": OldLine("b", 1)})
    assert made.decode(made.encode({"b": OldLine("b", 2)}, base)) == {"b": OldLine("b", 2)}


def test_a_recursive_type_keeps_unknown_fields_at_every_level() -> None:
    base = msgpack.packb({"label": "a", "x": 1, "children": [{"label": "b", "y": 2, "children": [], "parent": None}]})
    made = schema(Node)
    value = made.decode(base)
    value.children[0].label = "c"
    assert msgpack.unpackb(encoded(made, value, base)) == {
        "label": "a",
        "x": 1,
        "children": [{"label": "c", "y": 2, "children": [], "parent": None}],
        "parent": None,
    }


def test_records_under_keys_that_no_map_can_have_keep_their_unknown_fields() -> None:
    new, old = schema(dict[Price, NewLine]), schema(dict[Price, OldLine])
    base = encoded(new, {Price(Decimal(1)): NewLine("a", 1, "one"), Price(Decimal(2)): NewLine("b", 1, "two")})
    value = old.decode(base)
    value[Price(Decimal(2))].count = 5
    del value[Price(Decimal(1))]
    assert new.decode(old.encode(value, base)) == {Price(Decimal(2)): NewLine("b", 5, "two")}


def test_a_struct_of_another_tag_takes_no_unknown_fields() -> None:
    made = schema(Circle | Square)
    base = msgpack.packb({"type": "Circle", "name": "c", "radius": 1.0, "colour": "red"})
    assert msgpack.unpackb(encoded(made, Square("s", 2), base)) == {"type": "Square", "name": "s", "side": 2}
    kept = msgpack.unpackb(encoded(made, Circle("d", 2.0), base))
    assert kept == {"type": "Circle", "name": "d", "radius": 2.0, "colour": "red"}


@pytest.mark.parametrize(
    "base", [None, 5, b"\xc1", b"", msgpack.packb([1]), msgpack.packb({"lines": 5, "by_sku": [1]})]
)
def test_a_base_that_holds_nothing_to_keep_does_not_hinder_the_write(base: Any) -> None:
    made = schema(OldCart)
    cart = OldCart("ann", None, [OldLine("a", 1)], {"a": OldLine("a", 1)})
    assert made.decode(made.encode(cart, base)) == cart


# --- what else ----------------------------------------------------------------------------------------------------


def test_sets_inside_a_struct_are_stored_in_a_stable_order() -> None:
    words = [f"word-{number}" for number in range(30)]
    backwards = words[::-1]
    made = schema(Album)
    assert made.encode(Album("x", labels=set(words))) == made.encode(Album("x", labels=set(backwards)))
    plain = msgpack.unpackb(encoded(made, Album("x", labels=set(words))), strict_map_key=False)
    assert plain["labels"] == sorted(words)


def test_the_items_of_a_typed_set_stand_in_the_order_of_their_encoded_bytes() -> None:
    assert msgpack.unpackb(encoded(schema(set[float]), {10.0, 2.0})) == [2.0, 10.0]
    assert encoded(schema(set[float], JSON), {10.0, 2.0}) == b"[10.0,2.0]"


def test_a_struct_without_sets_keeps_the_order_of_its_dicts() -> None:
    made = schema(Ordered)
    assert list(made.decode(made.encode(Ordered({"b": 1, "a": 2}))).entries) == ["b", "a"]


class Ordered(msgspec.Struct):
    entries: dict[str, int]


def test_an_int_in_a_float_field_comes_back_as_the_equal_float() -> None:
    found = schema(float).decode(schema(float).encode(5))
    assert type(found) is float
    assert found == 5.0


def test_nan_is_kept_by_msgpack_and_refused_by_json() -> None:
    assert math.isnan(schema(float).decode(schema(float).encode(math.nan)))
    with pytest.raises(InvalidValue, match=r"^feature-flags\[0\]: JSON has no nan"):
        schema(list[float], JSON).encode([math.nan])


class Minimal:
    """A third party's codec, with what JSON has and no refusals of its own kind."""

    name = "minimal"

    def encode(self, value: object) -> bytes:
        return repr(value).encode()

    def decode(self, data: bytes) -> object:
        return {"None": None, "'2024-01-02'": "2024-01-02"}[data.decode()]


class Failing(Minimal):
    def encode(self, value: object) -> bytes:
        raise KeyError("no room")


def test_a_third_party_codec_gets_plain_values_and_its_errors_carry_the_ref() -> None:
    made = schema(date | None, Minimal())
    assert made.encode(date(2024, 1, 2)) == b"'2024-01-02'"
    assert made.decode(b"'2024-01-02'") == date(2024, 1, 2)
    with pytest.raises(InvalidValue, match=r"^feature-flags: codec minimal cannot read what is stored"):
        made.decode(b"damaged")
    with pytest.raises(InvalidValue, match=r"^feature-flags: codec minimal cannot store None: 'no room'"):
        schema(None, Failing()).encode(None)


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
