"""Replies out of bytes that come in any pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError

from dref_django.backends.redis.resp import Replies, lone
from dref_django.driving import run

Said: TypeAlias = bytes | int | list["Said"] | None

single: st.SearchStrategy[Said] = st.one_of(st.binary(max_size=30), st.integers(-(2**63), 2**63 - 1), st.none())
replies: st.SearchStrategy[Said] = st.recursive(single, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def on_the_wire(said: Said) -> bytes:
    match said:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % said
        case list():
            return b"*%d\r\n%b" % (len(said), b"".join(map(on_the_wire, said)))
        case _:
            return b"$%d\r\n%b\r\n" % (len(said), said)


class Pieces:
    """What a socket would give, piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)

    def get(self, missing: int) -> bytes:
        assert missing > 0
        return next(self._pieces)


def every_byte(wire: bytes) -> Pieces:
    return Pieces(wire[place : place + 1] for place in range(len(wire)))


@given(st.lists(replies, max_size=6), st.data())
def test_replies_come_out_whole_however_they_were_cut(said: list[Said], data: st.DataObject) -> None:
    wire = b"".join(map(on_the_wire, said))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(wire) - 1, 1)), max_size=8)))
    pieces = Pieces(wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True))
    reader = Replies()
    assert run(reader.read(len(said)), pieces.get) == said
    assert reader.is_empty()


def test_what_came_too_early_is_kept_for_the_next_reply() -> None:
    reader = Replies()
    assert run(reader.read(2), Pieces([b":1\r\n+OK\r\n:3"]).get) == [1, b"OK"]
    assert not reader.is_empty()
    assert run(reader.reply(), every_byte(b"4\r\n").get) == 34
    assert reader.is_empty()


def test_text_may_look_like_a_reply() -> None:
    text = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"
    assert run(Replies().reply(), every_byte(on_the_wire([text])).get) == [text]


def test_complaint_of_the_server_stands_among_the_replies() -> None:
    wire = b":1\r\n-NOAUTH Authentication required.\r\n:2\r\n"
    first, complaint, last = run(Replies().read(3), every_byte(wire).get)
    assert (first, last) == (1, 2)
    assert isinstance(complaint, AuthenticationError)


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"*x\r\n", b"*3\r\n$x\r\n", b":\r\n", b":1.5\r\n", b"%1\r\n", b"$\r\n"],
)
def test_what_is_no_reply_is_refused(nonsense: bytes) -> None:
    with pytest.raises(InvalidResponse, match="no reply of RESP2 begins with"):
        run(Replies().reply(), every_byte(nonsense).get)
    assert issubclass(InvalidResponse, RedisError), "such an error makes the listener connect anew"


@given(st.binary(max_size=40))
def test_one_text_alone_is_read_at_once(text: bytes) -> None:
    assert lone(on_the_wire(text)) == text


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"$",
        b"$0\r",
        b"$1\r\n",
        b"$1\r\na",
        b"$1\r\na\r",
        b"$-1\r\n",
        b"$x\r\na\r\n",
        b"$1\r\na\r\n:1\r\n",
        b":1\r\n",
    ],
)
def test_what_is_not_one_text_alone_is_left_to_the_reader(wire: bytes) -> None:
    assert lone(wire) is None


@given(replies, st.data())
def test_one_answer_is_read_however_it_was_cut(said: Said, data: st.DataObject) -> None:
    wire = on_the_wire(said)
    cut = data.draw(st.integers(1, len(wire)))
    reader = Replies()
    assert run(reader.answers(wire[:cut], 1), Pieces([wire[cut:]]).get) == [said]
    assert reader.is_empty()


def test_more_than_was_asked_for_is_refused() -> None:
    for count, wire in ((1, b"$1\r\na\r\n:1\r\n"), (2, b":1\r\n:2\r\n:3\r\n")):
        with pytest.raises(InvalidResponse, match="more came"):
            run(Replies().answers(wire, count), Pieces([]).get)


def test_broken_connection_ends_the_reading_where_it_waits() -> None:
    def get(missing: int) -> Any:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        run(Replies().reply(), get)
