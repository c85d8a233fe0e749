"""What is refused, with the ref's name and the path: wrong values, wrong data, annotations, sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgpack
import pytest

from dref_django.codecs import Codec
from dref_django.exceptions import InvalidValue, ValueTooLarge
from tests.typed_values.shapes import (
    JSON,
    MSGPACK,
    Album,
    Circle,
    Colour,
    Item,
    Level,
    Node,
    Options,
    Picky,
    Point,
    Price,
    Rights,
    Square,
    Unknown,
    encoded,
    schema,
)

T = TypeVar("T")


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
