"""Processes of two releases, with different fields, read and update the same values."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgpack
import msgspec
import pytest

from dref_django.codecs import Codec
from tests.typed_values.shapes import JSON, MSGPACK, Circle, Node, Options, Price, Square, encoded, schema


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
