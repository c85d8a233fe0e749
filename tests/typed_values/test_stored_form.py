"""What the bytes look like: a stable order, numbers, codecs of others."""

from __future__ import annotations

import math
from datetime import date

import msgpack
import msgspec
import pytest

from dref_django.exceptions import InvalidValue
from tests.typed_values.shapes import JSON, Album, encoded, schema


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
