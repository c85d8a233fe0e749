"""Messages of a listening connection, out of bytes that come in any pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError

from dref_django.backends.redis.pushes import Pushes

Part = bytes | int | None

parts: st.SearchStrategy[Part] = st.one_of(st.binary(max_size=30), st.integers(-(2**63), 2**63 - 1), st.none())
messages = st.lists(st.lists(parts, min_size=3, max_size=5), max_size=6)


def on_the_wire(part: Part) -> bytes:
    match part:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % part
        case _:
            return b"$%d\r\n%b\r\n" % (len(part), part)


def taken(pushes: Pushes, data: bytes) -> list[list[Any]]:
    return list(pushes.take(data))


@given(messages, st.data())
def test_messages_come_out_whole_however_they_were_cut(said: list[list[Part]], data: st.DataObject) -> None:
    wire = b"".join(b"*%d\r\n%b" % (len(message), b"".join(map(on_the_wire, message))) for message in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    pushes, heard = Pushes(), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        heard += taken(pushes, wire[start:end])
    assert heard == said


def test_payload_may_look_like_a_message() -> None:
    payload = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"
    wire = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n" + on_the_wire(payload)
    pushes = Pushes()
    heard = [message for place in range(len(wire)) for message in pushes.take(wire[place : place + 1])]
    assert heard == [[b"message", b"c", payload]]


def test_complaint_of_the_server_is_raised_after_what_came_before() -> None:
    heard = Pushes().take(b"*3\r\n$1\r\na\r\n:1\r\n:2\r\n-NOAUTH Authentication required.\r\n")
    assert next(heard) == [b"a", 1, 2]
    with pytest.raises(AuthenticationError):
        next(heard)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"+PONG\r\n",
        b":1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*x\r\n",
        b"*3\r\n*3\r\n",
        b"*3\r\n$x\r\n",
        b"*3\r\n+OK\r\n",
        b"*3\r\n%1\r\n",
    ],
)
def test_what_is_no_message_is_refused(nonsense: bytes) -> None:
    with pytest.raises(InvalidResponse, match="no message of RESP2"):
        taken(Pushes(), nonsense)
    assert issubclass(InvalidResponse, RedisError), "such an error makes the feed connect anew"
