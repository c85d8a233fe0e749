"""The wire format: everything that is said survives the way, and nothing else is understood."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dref_django import protocol
from dref_django.backends.raft import wire
from dref_django.backends.raft.core import messages
from dref_django.backends.raft.core.messages import MESSAGES, Append, Entry, EntryKind, Members, SnapshotChunk
from dref_django.backends.raft.wire import WireError
from dref_django.protocol import INT_MAX, INT_MIN, KEEP, LeaseInfo, Notice, Patch, Reply, Row, Splice, Status, Wake

numbers = st.integers(0, INT_MAX)
integers = st.integers(INT_MIN, INT_MAX)
texts = st.text(max_size=20)
blobs = st.binary(max_size=40)
flags = st.booleans()
nodes = st.text("abcé0", min_size=1, max_size=8)
ids = st.frozensets(nodes, max_size=4)
members = st.builds(lambda voters, learners: Members(voters, learners - voters), ids, ids)
indexes = st.integers(0, INT_MAX - 9)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """The entries follow upon `prev_index`; many are of the leader's own term."""
    term, before = draw(numbers), draw(indexes)
    terms = st.just(term) | numbers
    sizes = range(draw(st.integers(0, 3)))
    entries = [Entry(before + 1 + at, draw(terms), draw(st.sampled_from(EntryKind)), draw(blobs)) for at in sizes]
    return Append("here", "there", term, before, draw(numbers), draw(numbers), tuple(entries))


splices = st.builds(Splice, numbers, numbers, blobs)
ttls = st.none() | integers | st.just(KEEP)
data = integers | blobs

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "sender": st.just("here"),
    "to": st.just("there"),
    "granted": flags,
    "forced": flags,
    "success": flags,
    "members": members,
    "data": blobs,
}
messages_strategy = appends() | st.one_of(
    [
        st.builds(kind, *(BY_NAME.get(field.name, numbers) for field in fields(kind)))
        for kind in MESSAGES
        if kind is not Append
    ]
)
COMMAND_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": texts,
    "known": st.none() | integers,
    "amount": integers,
    "initial": integers,
    "op": blobs,
    "prefix": texts,
    "after": texts,
    "limit": numbers,
    "values": flags,
    "owner": texts,
    "wait": integers,
    "meta": texts,
    "token": integers,
    "keep": integers,
}
KINDS: list[type[protocol.Command]] = list(protocol.Command.__args__)


def command_field(kind: type[protocol.Command], field: str) -> st.SearchStrategy[Any]:
    if kind is protocol.Write and field in {"data", "ttl"}:
        return {"data": data | splices, "ttl": ttls}[field]
    if field == "expect":
        return integers if kind is protocol.Check else st.none() | integers
    if field == "ttl":
        return st.none() | integers if kind is protocol.Expire else integers
    return COMMAND_FIELDS[field]


commands = st.lists(
    st.one_of([st.builds(kind, *(command_field(kind, field.name) for field in fields(kind))) for kind in KINDS]),
    max_size=4,
)
rows = st.builds(Row, texts, integers, numbers, st.none() | integers, st.none() | data)
leases = st.builds(LeaseInfo, texts, texts, integers, integers, integers, texts, st.lists(texts, max_size=2).map(tuple))
replies = st.lists(
    st.builds(
        Reply,
        st.sampled_from(Status),
        st.none() | data,
        integers,
        st.none() | integers,
        flags,
        integers,
        st.lists(rows, max_size=2).map(tuple) | st.lists(leases, max_size=2).map(tuple),
        texts,
        st.none() | leases,
    ),
    max_size=3,
)
notices = st.builds(
    Notice,
    texts,
    integers,
    integers,
    st.sampled_from(Patch),
    st.none() | data,
    st.none() | splices,
    st.none() | integers,
)
events = st.lists(notices | st.builds(Wake, texts, texts), max_size=3)


def decode_message(data: bytes) -> messages.Message:
    return wire.decode_message(data, "here", "there")


WAYS: list[tuple[Callable[[Any], bytes], Callable[[bytes], Any], st.SearchStrategy[Any]]] = [
    (wire.encode_message, decode_message, messages_strategy),
    (wire.encode_commands, wire.decode_commands, commands),
    (wire.encode_replies, wire.decode_replies, replies),
    (wire.encode_events, wire.decode_events, events),
]
DECODERS = [decode for _, decode, _ in WAYS]
ways = pytest.mark.parametrize(("encode", "decode", "values"), WAYS, ids=["messages", "commands", "replies", "events"])


def same_types(one: Any, other: Any) -> bool:
    """Equal is not enough: 1 == True == Status.CONFLICT."""
    if is_dataclass(one) and not isinstance(one, type):
        return type(one) is type(other) and all(
            same_types(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and all(map(same_types, one, other))
    return type(one) is type(other)


@ways
@given(draw=st.data())
def test_comes_back_as_it_was(
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    values: st.SearchStrategy[Any],
    draw: st.DataObject,
) -> None:
    value = draw.draw(values)
    again = decode(encode(value))
    assert again == value
    assert same_types(again, value)


@pytest.mark.parametrize("decode", DECODERS)
@given(garbage=st.binary(max_size=200))
def test_garbage_is_a_wire_error_or_a_value(decode: Callable[[bytes], Any], garbage: bytes) -> None:
    try:
        decode(garbage)
    except WireError:
        return


plain = st.recursive(
    st.none() | flags | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | blobs,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=20,
)


@pytest.mark.parametrize("decode", DECODERS)
@given(value=st.lists(st.integers(0, 20) | plain, max_size=10) | plain)
def test_well_formed_msgpack_of_other_things_is_a_wire_error_or_a_value(
    decode: Callable[[bytes], Any], value: object
) -> None:
    try:
        decode(msgpack.packb(value))
    except WireError:
        return


@ways
@given(draw=st.data())
def test_whatever_was_cut_off_is_a_wire_error(
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    values: st.SearchStrategy[Any],
    draw: st.DataObject,
) -> None:
    encoded = encode(draw.draw(values))
    with pytest.raises(WireError):
        decode(encoded[: draw.draw(st.integers(0, len(encoded) - 1))])


@ways
@given(draw=st.data())
def test_flipped_bits_are_a_wire_error_or_a_value_that_can_be_encoded(
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    values: st.SearchStrategy[Any],
    draw: st.DataObject,
) -> None:
    encoded = bytearray(encode(draw.draw(values)))
    for _ in range(draw.draw(st.integers(1, 3))):
        encoded[draw.draw(st.integers(0, len(encoded) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        value = decode(bytes(encoded))
    except WireError:
        return
    assert decode(encode(value)) == value


class TestRefused:
    @pytest.mark.parametrize("decode", DECODERS)
    @pytest.mark.parametrize(
        "hostile",
        [b"", b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x80", b"\xd4\x00\x00"],
        ids=["nothing", "reserved", "deep", "long list", "long bytes", "map", "extension"],
    )
    def test_hostile_msgpack(self, decode: Callable[[bytes], Any], hostile: bytes) -> None:
        with pytest.raises(WireError):
            decode(hostile)

    def test_bool_in_place_of_a_number(self) -> None:
        with pytest.raises(WireError):
            decode_message(msgpack.packb([MESSAGES.index(messages.Heartbeat), True, 1, 1]))

    def test_negative_term(self) -> None:
        with pytest.raises(WireError):
            decode_message(msgpack.packb([MESSAGES.index(messages.TimeoutNow), -1]))

    def test_number_beyond_64_bits_signed(self) -> None:
        with pytest.raises(WireError):
            wire.decode_commands(msgpack.packb([[3, "counter", 2**63, 0, b""]]))

    def test_node_without_a_name(self) -> None:
        chunk = [MESSAGES.index(SnapshotChunk), 1, 2, 1, msgpack.packb([[""], []]), 3, 0, b"abc"]
        with pytest.raises(WireError):
            decode_message(msgpack.packb(chunk))

    def test_voter_that_is_also_a_learner(self) -> None:
        chunk = SnapshotChunk("a", "b", 1, 2, 1, Members(frozenset("a"), frozenset()), 3, 0, b"abc")
        sent = msgpack.unpackb(wire.encode_message(chunk))
        sent[4] = msgpack.packb([["a"], ["a"]])
        with pytest.raises(WireError):
            decode_message(msgpack.packb(sent))

    def test_more_than_the_largest_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        append = Append("a", "b", 1, 0, 0, 0, (Entry(1, 1, EntryKind.COMMAND, b"x" * 100),))
        monkeypatch.setattr(wire, "MAX_SIZE", 50)
        with pytest.raises(WireError, match="50"):
            decode_message(wire.encode_message(append))


class TestSmall:
    """What the reader can tell by itself does not travel."""

    def test_append_of_a_command_of_the_leaders_term(self) -> None:
        entry = Entry(1_000_001, 7, EntryKind.COMMAND, b"x" * 30)
        append = Append("here", "there", 7, 1_000_000, 7, 1_000_000, (entry,))
        sent = wire.encode_message(append)
        assert msgpack.unpackb(sent) == [MESSAGES.index(Append), 7, 1_000_000, 7, 0, [b"x" * 30]]
        assert decode_message(sent) == append

    @pytest.mark.parametrize(
        ("message", "size"),
        [
            (messages.AppendReply("here", "there", 7, True, 100, 0, 0), 5),
            (messages.AppendReply("here", "there", 7, False, 100, 0, 7), 7),
            (messages.Heartbeat("here", "there", 7, 100, 0), 4),
            (messages.Heartbeat("here", "there", 0, 0, 0), 4),
        ],
    )
    def test_zeros_at_the_end(self, message: messages.Message, size: int) -> None:
        sent = wire.encode_message(message)
        assert len(sent) == size
        assert decode_message(sent) == message

    def test_only_those_fields_may_be_missing(self) -> None:
        for kind, values in ((messages.VoteReply, [1]), (messages.Heartbeat, [1]), (messages.AppendReply, [1, True])):
            with pytest.raises(WireError):
                decode_message(msgpack.packb([MESSAGES.index(kind), *values]))

    def test_defaults_at_the_end_of_a_reply(self) -> None:
        assert wire.encode_replies([Reply(Status.APPLIED, None, 5, None, True)]) == msgpack.packb(
            [[0, None, 5, None, True]]
        )
        assert wire.encode_replies([Reply(Status.NOT_FOUND)]) == msgpack.packb([[Status.NOT_FOUND]])

    def test_index_beyond_64_bits_signed(self) -> None:
        with pytest.raises(WireError):
            decode_message(msgpack.packb([MESSAGES.index(Append), 1, INT_MAX, 1, 0, [b""]]))

    def test_commit_before_the_first_entry(self) -> None:
        with pytest.raises(WireError):
            decode_message(msgpack.packb([MESSAGES.index(Append), 1, 5, 1, 6, []]))


class TestTables:
    def test_know_every_command(self) -> None:
        assert set(wire._COMMANDS) == set(KINDS)

    def test_know_every_message(self) -> None:
        assert set(wire._MESSAGES) == set(MESSAGES)

    def test_kinds_keep_their_numbers(self) -> None:
        """Nodes of two versions speak with each other: a new kind goes to the end."""
        assert " ".join(kind.__name__ for kind in wire._COMMANDS) == (
            "Read Check Write Add Delete Expire Find Scan Acquire Renew Release Inspect Break ScanLeases"
        )
        assert " ".join(kind.__name__ for kind in MESSAGES) == (
            "PreVote PreVoteReply Vote VoteReply Append AppendReply Heartbeat HeartbeatReply SnapshotChunk "
            "SnapshotReply TimeoutNow ReadRequest ReadReply"
        )
