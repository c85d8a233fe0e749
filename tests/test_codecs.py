"""Codecs: exact round trips, the same bytes every time, and refusals that name the place."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dref_django.codecs import Codec, InvalidCodec, JsonCodec, MsgpackCodec, PickleCodec, get_codec
from dref_django.exceptions import DRefError, InvalidValue

ZONES = ("Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC", "Etc/GMT+12")
zones = (
    st.none()
    | st.sampled_from([UTC, *map(ZoneInfo, ZONES)])
    | st.builds(lambda seconds: timezone(timedelta(seconds=seconds)), st.integers(-86_399, 86_399))
)
strings = st.text(st.characters(codec="utf-8"), max_size=12)
datetimes = st.builds(lambda value, fold: value.replace(fold=fold), st.datetimes(timezones=zones), st.integers(0, 1))
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False),
    strings,
    st.binary(max_size=12),
    st.decimals(allow_nan=False),
    datetimes,
    st.dates(),
    st.builds(lambda value, fold: value.replace(fold=fold), st.times(timezones=zones), st.integers(0, 1)),
    st.timedeltas(),
    st.uuids(),
)
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
    ),
    max_leaves=12,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)


def traits(value: Any) -> Any:
    """Everything that `==` overlooks: types, signs of zero, exponents, folds, time zones, the order of dicts."""
    kind = type(value)
    if kind is float:
        return kind, value.hex()
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind in (datetime, time):
        return kind, value.replace(tzinfo=None), value.fold, zone_traits(value.tzinfo), value.utcoffset()
    if kind in (list, tuple):
        return kind, [traits(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(traits(item)) for item in value)
    if kind is dict:
        return kind, [(traits(key), traits(item)) for key, item in value.items()]
    return kind, value


def zone_traits(zone: tzinfo | None) -> Any:
    return type(zone), str(zone)


@given(value=values)
@example(value=datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1))
@example(value=datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")))  # a local time that never was
@example(value=datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1))
@example(value=[2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -0.0])
@example(value=timedelta.min)
@example(value=timedelta.max)
def test_msgpack_gives_back_the_same_type_and_value(value: Any) -> None:
    codec = MsgpackCodec()
    assert traits(codec.decode(codec.encode(value))) == traits(value)


@pytest.mark.parametrize(
    "text", ["NaN", "-NaN123", "sNaN", "Infinity", "-Infinity", "-0", "1E+999999", "1.500", "0E-20"]
)
def test_msgpack_keeps_decimals_to_the_digit(text: str) -> None:
    codec = MsgpackCodec()
    found = codec.decode(codec.encode([Decimal(text)]))
    assert isinstance(found, list)
    assert found[0].as_tuple() == Decimal(text).as_tuple()


def test_msgpack_keeps_nan() -> None:
    codec = MsgpackCodec()
    found = codec.decode(codec.encode(math.nan))
    assert isinstance(found, float)
    assert math.isnan(found)


@given(value=values)
def test_msgpack_encodes_a_decoded_value_to_the_same_bytes(value: Any) -> None:
    codec = MsgpackCodec()
    data = codec.encode(value)
    assert codec.encode(codec.decode(data)) == data


@given(items=st.lists(hashables, max_size=8), random=st.randoms(use_true_random=False))
def test_sets_built_in_another_order_encode_to_the_same_bytes(items: list[Any], random: Any) -> None:
    codec = MsgpackCodec()
    unique = list({repr(traits(item)): item for item in set(items)}.values())
    shuffled = random.sample(unique, len(unique))
    first, second = set(unique), set(shuffled)
    assert codec.encode(first) == codec.encode(second)
    assert codec.encode(frozenset(unique)) == codec.encode(frozenset(shuffled))


SEEDED = """
from dref_django.codecs import Schema, get_codec
words = [f"word-{number}" for number in range(50)]
value = {"words": set(words), "nested": [frozenset(words), (frozenset(words[:9]), 1)]}
print(get_codec("msgpack").encode(value).hex())
for codec in ("msgpack", "json"):
    print(Schema("s", set[str], get_codec(codec), 10_000).encode(set(words)).hex())
    print(Schema("s", frozenset[str | int], get_codec(codec), 10_000).encode(frozenset([*words, 1, 2])).hex())
"""


def test_the_hash_seed_of_a_process_does_not_show_in_the_bytes() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SEEDED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_a_dict_keeps_its_order_in_the_bytes() -> None:
    codec = MsgpackCodec()
    assert codec.encode({"a": 1, "b": 2}) != codec.encode({"b": 2, "a": 1})


def documented_ext(code: int, payload: bytes) -> Any:
    """The table of docs/format.md, as a reader in another language would write it."""
    match code:
        case 1:
            return ("int", int.from_bytes(payload, "big", signed=True))
        case 2 | 3 | 4 | 5 | 6:
            return ({2: "decimal", 3: "datetime", 4: "date", 5: "time", 6: "duration"}[code], payload.decode("ascii"))
        case 7:
            return ("uuid", payload.hex())
        case 8 | 9 | 10:
            return ({8: "tuple", 9: "set", 10: "frozenset"}[code], plain_msgpack(payload))
    raise AssertionError(f"{code} is not documented")


def plain_msgpack(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=documented_ext, strict_map_key=False)


BERLIN = ZoneInfo("Europe/Berlin")
DOCUMENTED = [
    (None, None),
    (True, True),
    (-(2**63), -(2**63)),
    (2**64 - 1, 2**64 - 1),
    (1.5, 1.5),
    ("ü", "ü"),
    (b"\x00", b"\x00"),
    ([1, {"a": 2, 3: 4}], [1, {"a": 2, 3: 4}]),
    (2**64, ("int", 2**64)),
    (-(2**63) - 1, ("int", -(2**63) - 1)),
    (Decimal("1.50"), ("decimal", "1.50")),
    (datetime(2024, 1, 2, 3, 4, 5, 6), ("datetime", "2024-01-02T03:04:05.000006")),  # noqa: DTZ001 -- naive on purpose
    (datetime(2024, 1, 2, 3, 4, tzinfo=UTC), ("datetime", "2024-01-02T03:04:00+00:00")),
    (datetime(2024, 7, 2, 3, 4, tzinfo=BERLIN), ("datetime", "2024-07-02T03:04:00+02:00[Europe/Berlin]")),
    (
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        ("datetime", "2024-10-27T02:30:00+01:00[Europe/Berlin][_fold=1]"),
    ),
    (date(2024, 1, 2), ("date", "2024-01-02")),
    (time(3, 4, tzinfo=UTC), ("time", "03:04:00+00:00")),
    (timedelta(days=1, microseconds=1), ("duration", "PT86400.000001S")),
    (timedelta(seconds=-90.5), ("duration", "-PT90.5S")),
    (UUID(int=5), ("uuid", "0" * 31 + "5")),
    ((1, "a"), ("tuple", [1, "a"])),
    ({2, 1}, ("set", [1, 2])),
    (frozenset({"b", "a"}), ("frozenset", ["a", "b"])),
]


@pytest.mark.parametrize(
    ("value", "plain"),
    DOCUMENTED,
    ids=lambda value: str(value)[:30] if not isinstance(value, (set, frozenset)) else type(value).__name__,
)
def test_plain_msgpack_reads_what_was_written_with_the_documented_ext_types(value: Any, plain: Any) -> None:
    assert plain_msgpack(MsgpackCodec().encode(value)) == plain


@pytest.mark.parametrize(
    ("number", "size"), [(2**64, 9), (2**71 - 1, 9), (2**71, 10), (-(2**71), 9), (-(2**71) - 1, 10)]
)
def test_a_big_int_takes_as_few_bytes_as_hold_it_and_its_sign(number: int, size: int) -> None:
    sizes = msgpack.unpackb(MsgpackCodec().encode(number), ext_hook=lambda code, payload: len(payload))
    assert sizes == size


def test_a_timestamp_of_another_msgpack_library_is_read_as_an_aware_datetime() -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert MsgpackCodec().decode(msgpack.packb(moment, datetime=True)) == moment


def test_the_offset_alone_names_the_later_of_two_equal_local_times() -> None:
    written = msgpack.packb(msgpack.ExtType(3, b"2024-10-27T02:30:00+01:00[Europe/Berlin]"))
    found = MsgpackCodec().decode(written)
    assert isinstance(found, datetime)
    assert found.fold == 1
    assert found.tzinfo == BERLIN


def test_the_instant_wins_when_the_rules_of_a_zone_have_changed() -> None:
    written = msgpack.packb(msgpack.ExtType(3, b"2024-07-02T12:00:00+05:00[Europe/Berlin]"))
    assert MsgpackCodec().decode(written) == datetime(2024, 7, 2, 7, 0, tzinfo=UTC)


def test_an_unknown_time_zone_keeps_instant_and_offset() -> None:
    written = msgpack.packb(msgpack.ExtType(3, b"2024-07-02T12:00:00+05:00[Mars/Olympus_Mons]"))
    found = MsgpackCodec().decode(written)
    assert isinstance(found, datetime)
    assert found.utcoffset() == timedelta(hours=5)


class Colour(IntEnum):
    RED = 1


class OwnZone(tzinfo):
    def tzname(self, moment: datetime | None) -> str:
        return "own"

    def dst(self, moment: datetime | None) -> None:
        return None

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else timedelta(hours=1)


class LostZone(OwnZone):
    def utcoffset(self, moment: datetime | None) -> None:
        return None


def test_a_time_zone_of_another_library_keeps_instant_and_offset() -> None:
    moment = datetime(2024, 1, 2, tzinfo=OwnZone())
    codec = MsgpackCodec()
    found = codec.decode(codec.encode(moment))
    assert isinstance(found, datetime)
    assert found == moment
    assert found.utcoffset() == timedelta(hours=1)


def a_knot() -> list[Any]:
    """Each level holds itself twice: whoever walks it without a bound never ends."""
    knot: list[Any] = []
    knot.extend([knot, knot])
    return knot


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


class Plain:
    pass


MSGPACK_REFUSALS: list[tuple[Any, str]] = [
    ({"items": [0, 1, 2, {"price": len}]}, ".items[3].price: cannot store a builtin_function_or_method"),
    ({"items": [0, 1, 2, {"price": a_knot}]}, ".items[3].price: cannot store a function"),
    (Plain(), "the value: cannot store a Plain"),
    ({"unit price": Plain()}, "['unit price']: cannot store a Plain"),
    ({5: Plain()}, "[5]: cannot store a Plain"),
    ([(1, Plain())], "[0][1]: cannot store a Plain"),
    ({"a": bytearray(b"x")}, ".a: cannot store a bytearray"),
    ([memoryview(b"x")], "[0]: cannot store a memoryview"),
    ([msgpack.ExtType(8, b"x")], "[0]: cannot store an ExtType, it would come back as tuple; convert it first"),
    ([msgpack.Timestamp(1)], "[0]: cannot store a Timestamp"),
    ([OrderedDict()], "[0]: cannot store an OrderedDict, it would come back as dict; convert it first"),
    ([Colour.RED], "[0]: cannot store a Colour, it would come back as int; convert it first"),
    ({Colour.RED: 1}, "[key Colour]: cannot store a Colour"),
    ({"a": "\ud800"}, ".a: cannot store text with lone surrogates"),
    ({"\ud800": 1}, "lone surrogates"),
    ([(time(1, tzinfo=OwnZone()),)], "[0][0]: cannot store a time zone without offset or key: OwnZone"),
    ([{datetime(2024, 1, 1, tzinfo=LostZone())}], "cannot store a time zone without offset or key: LostZone"),
    ({"at": datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=1)))}, ".at: cannot store a UTC offset with a"),
    (1j, "the value: cannot store a complex"),
    (nested(102), "nested deeper than 100 levels"),
    (a_knot(), "nested deeper than 100 levels (or it contains itself)"),
]


@pytest.mark.parametrize(("value", "message"), MSGPACK_REFUSALS, ids=range(len(MSGPACK_REFUSALS)))
def test_msgpack_refuses_what_would_not_come_back_and_names_the_place(value: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        MsgpackCodec().encode(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=lambda codec: codec.name)
def test_the_deepest_value_that_is_stored_can_be_read(codec: Codec) -> None:
    value = nested(100)
    assert codec.decode(codec.encode(value)) == value


def test_the_deepest_tuple_that_is_stored_can_be_read() -> None:
    value: tuple[Any, ...] = ()
    for _ in range(99):
        value = (value,)
    codec = MsgpackCodec()
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\x81\x90\x01",
        msgpack.packb(msgpack.ExtType(99, b"")),
        msgpack.packb(msgpack.ExtType(2, b"one")),
        msgpack.packb(msgpack.ExtType(3, b"yesterday")),
        msgpack.packb(msgpack.ExtType(6, b"P1M")),
        msgpack.packb(msgpack.ExtType(7, b"short")),
        msgpack.packb(msgpack.ExtType(8, b"\x01")),
        msgpack.packb(msgpack.ExtType(9, b"\x91\x90")),
    ],
    ids=range(11),
)
def test_bytes_that_are_not_ours_are_refused_when_read(data: bytes) -> None:
    with pytest.raises(InvalidValue, match="msgpack"):
        MsgpackCodec().decode(data)


# --- JSON ---------------------------------------------------------------------------------------------------------


@given(value=json_values)
def test_json_gives_back_the_same_type_and_value_in_ascii(value: Any) -> None:
    codec = JsonCodec()
    data = codec.encode(value)
    assert data.isascii()
    assert traits(codec.decode(data)) == traits(value)
    assert codec.encode(codec.decode(data)) == data


def test_json_reads_utf8_of_another_writer() -> None:
    assert JsonCodec().decode('{"größe": "ü"}'.encode()) == {"größe": "ü"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [math.nan]}, ".a[0]: JSON has no nan"),
        ([-math.inf], "[0]: JSON has no -inf"),
        ({"a": b"x"}, ".a: cannot store a bytes"),
        ({"a": {1}}, ".a: cannot store a set"),
        ({"a": (1,)}, ".a: cannot store a tuple"),
        ({"a": {1: 2}}, ".a[key 1]: cannot store an int as a key"),
        ({None: 2}, "[key None]: cannot store a NoneType as a key"),
        ([Decimal(1)], "[0]: cannot store a Decimal"),
        ([Colour.RED], "[0]: cannot store a Colour, it would come back as int; convert it first"),
        ({"a": ["\ud83d\ude00"]}, ".a[0]: cannot store text with lone surrogates"),
        ({"\ud800": 1}, "lone surrogates"),
        ([1 << 20_000], "[0]: cannot store an int of 20001 bits as JSON"),
        (a_knot(), "or it contains itself"),
    ],
)
def test_json_refuses_what_would_not_come_back_and_names_the_place(value: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        JsonCodec().encode(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"1 2", b"[" * 100_000])
def test_bytes_that_are_no_json_are_refused_when_read(data: bytes) -> None:
    with pytest.raises(InvalidValue, match="not readable as JSON"):
        JsonCodec().decode(data)


# --- pickle -------------------------------------------------------------------------------------------------------


def test_pickle_stores_any_class_with_a_fixed_protocol() -> None:
    codec = PickleCodec()
    data = codec.encode({"colour": Colour.RED})
    assert data[:2] == b"\x80\x05"
    assert codec.decode(data) == {"colour": Colour.RED}


def test_pickle_says_what_it_cannot_store_or_read() -> None:
    with pytest.raises(InvalidValue, match="cannot pickle a function"):
        PickleCodec().encode(lambda: None)
    with pytest.raises(InvalidValue, match="cannot be unpickled"):
        PickleCodec().decode(b"\x00")


# --- choosing one -------------------------------------------------------------------------------------------------


class Reversed:
    name = "reversed"

    def __init__(self) -> None:
        self.inner = MsgpackCodec()

    def encode(self, value: object) -> bytes:
        return self.inner.encode(value)[::-1]

    def decode(self, data: bytes) -> object:
        return self.inner.decode(data[::-1])


class NeedsArguments:
    def __init__(self, level: int) -> None:
        self.level = level


reversed_codec = Reversed()


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("msgpack", "msgpack"),
        ("json", "json"),
        ("pickle", "pickle"),
        (f"{__name__}.Reversed", "reversed"),
        (f"{__name__}.reversed_codec", "reversed"),
        (Reversed, "reversed"),
        (reversed_codec, "reversed"),
    ],
)
def test_a_codec_is_found_by_short_name_dotted_path_class_or_instance(spec: Any, name: str) -> None:
    codec = get_codec(spec)
    assert codec.name == name
    assert codec.decode(codec.encode([1])) == [1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("yaml", "unknown codec 'yaml': use 'msgpack', 'json', 'pickle' or a dotted path"),
        ("no_such_module.Codec", "the codec 'no_such_module.Codec' cannot be imported: No module named"),
        (f"{__name__}.Missing", "cannot be imported"),
        (".Codec", "unknown codec '.Codec'"),
        ("..Codec", "unknown codec '..Codec'"),
        (".relative.Codec", "cannot be imported"),
        (f"{__name__}.ZONES", "is a tuple without name, encode"),
        (f"{__name__}.NeedsArguments", "cannot be made without arguments"),
        (5, "the codec 5 is a int without name, encode"),
    ],
)
def test_a_wrong_codec_is_explained(spec: Any, message: str) -> None:
    with pytest.raises(InvalidCodec) as caught:
        get_codec(spec)
    assert message in str(caught.value)
    assert isinstance(caught.value, DRefError)


def test_uuids_of_every_kind_come_back() -> None:
    codec: Codec = MsgpackCodec()
    made: list[Callable[[], UUID]] = [lambda: UUID(int=0), lambda: uuid5(UUID(int=1), "name")]
    assert codec.decode(codec.encode([make() for make in made])) == [make() for make in made]
