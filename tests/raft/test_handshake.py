"""Who is let in, and what a frame must be to count: the pure part of the transport."""

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dref_django.backends.raft import frames
from dref_django.backends.raft.frames import FrameError, Opener, Sealer, plain, sealed_size, take_plain
from dref_django.backends.raft.handshake import (
    MAX_HELLO,
    MAX_SECRETS,
    Exchange,
    HandshakeError,
    Hello,
    Reason,
    Secrets,
    Session,
    acceptor,
    dialer,
    refusal,
)

ONE = "one secret of the cluster"
OTHER = "another secret, newer or older"
NONCE, OTHER_NONCE = b"n" * 32, b"o" * 32


def secrets(*known: str, cluster: str = "shop") -> Secrets:
    return Secrets(known or (ONE,), cluster)


class Line:
    """Both ends of a handshake, and what went over the line between them."""

    def __init__(self, dialling: Exchange, accepting: Exchange) -> None:
        self.dialling, self.accepting = dialling, accepting
        self.said: list[bytes] = []
        self.tamper: Callable[[int, bytes], bytes] = lambda number, body: body
        self.sessions: dict[str, Session] = {}

    def run(self) -> tuple[Session, Session]:
        """The dialer's session and the acceptor's."""
        body = next(self.dialling)
        assert next(self.accepting) == b""
        ends = [("acceptor", self.accepting), ("dialer", self.dialling)]
        while len(self.sessions) < 2:
            body = self.tamper(len(self.said), body)
            self.said.append(body)
            name, end = ends[0]
            try:
                body = end.send(body)
            except StopIteration as stop:
                self.sessions[name] = stop.value
                body = stop.value.last
            ends.reverse()
        return self.sessions["dialer"], self.sessions["acceptor"]


def line(
    mine: Secrets | None = None, theirs: Secrets | None = None, me: Hello | None = None, you: Hello | None = None
) -> Line:
    return Line(
        dialer(mine or secrets(), me or {"node": "me"}, NONCE),
        acceptor(theirs or secrets(), you or {"node": "you"}, OTHER_NONCE),
    )


class TestWhoIsLetIn:
    def test_each_learns_who_the_other_is_and_both_have_the_same_keys(self) -> None:
        mine, yours = line(me={"node": "a", "voter": True, "port": 8082}).run()
        assert mine.peer == {"node": "you"}
        assert yours.peer == {"node": "a", "voter": True, "port": 8082}
        assert (mine.sending, mine.receiving) == (yours.receiving, yours.sending)
        assert mine.sending != mine.receiving

    @pytest.mark.parametrize(
        ("mine", "theirs"),
        [((OTHER, ONE), (ONE,)), ((ONE,), (OTHER, ONE)), ((OTHER, ONE), (ONE, OTHER)), (("x", ONE), ("y", ONE))],
    )
    def test_one_common_secret_is_enough_during_a_rotation(
        self, mine: tuple[str, ...], theirs: tuple[str, ...]
    ) -> None:
        line(secrets(*mine), secrets(*theirs)).run()

    def test_new_connection_has_new_keys(self) -> None:
        first, _ = line().run()
        second, _ = Line(dialer(secrets(), {}, NONCE), acceptor(secrets(), {}, b"p" * 32)).run()
        assert {first.sending, first.receiving}.isdisjoint({second.sending, second.receiving})

    def test_other_secret_is_refused_by_the_acceptor(self) -> None:
        attempt = line(secrets(OTHER), secrets(ONE))
        with pytest.raises(HandshakeError) as refused:
            attempt.run()
        assert refused.value.reason is Reason.SECRET
        assert len(attempt.said) == 3  # a stranger never sees a code of ours

    def test_other_cluster_is_refused_though_the_secret_is_the_same(self) -> None:
        attempt = line(secrets(cluster="shop"), secrets(cluster="blog"))
        with pytest.raises(HandshakeError) as refused:
            attempt.run()
        assert refused.value.reason is Reason.CLUSTER

    def test_dialer_refuses_an_acceptor_that_only_pretends_to_know_the_secret(self) -> None:
        attempt = line()
        attempt.tamper = lambda number, body: body[:1] + b"\0" * 32 + body[33:] if number == 3 else body
        with pytest.raises(HandshakeError) as refused:
            attempt.run()
        assert refused.value.reason is Reason.SECRET

    def test_reflected_challenge_proves_nothing(self) -> None:
        """A stranger answers our proof with our own codes."""
        end = dialer(secrets(), {}, NONCE)
        hello = next(end)
        challenge = b"dref\x01" + hello[-32:]
        proof = end.send(challenge)
        with pytest.raises(HandshakeError) as refused:
            end.send(b"\0" + proof[1:33] + b"\x80")
        assert refused.value.reason is Reason.SECRET

    def test_proof_of_an_earlier_connection_proves_nothing(self) -> None:
        earlier = line()
        earlier.run()
        end = acceptor(secrets(), {}, b"fresh nonce".ljust(32))
        next(end)
        end.send(earlier.said[0])
        with pytest.raises(HandshakeError) as refused:
            end.send(earlier.said[2])
        assert refused.value.reason is Reason.SECRET

    def test_refusal_says_why(self) -> None:
        end = dialer(secrets(), {}, NONCE)
        next(end)
        with pytest.raises(HandshakeError, match="compare CLUSTER") as refused:
            end.send(refusal(Reason.CLUSTER))
        assert refused.value.reason is Reason.CLUSTER

    def test_other_version_is_told_apart_from_garbage(self) -> None:
        end = acceptor(secrets(), {}, NONCE)
        next(end)
        with pytest.raises(HandshakeError, match="same version of dref_django") as refused:
            end.send(b"dref\x09 whatever comes in later versions")
        assert refused.value.reason is Reason.VERSION

    @given(st.integers(0, 3), st.data())
    def test_any_changed_byte_ends_the_handshake(self, where: int, data: st.DataObject) -> None:
        attempt = line()

        def tamper(number: int, body: bytes) -> bytes:
            if number != where:
                return body
            place = data.draw(st.integers(0, len(body) - 1))
            return body[:place] + bytes((body[place] ^ data.draw(st.integers(1, 255)),)) + body[place + 1 :]

        attempt.tamper = tamper
        with pytest.raises(HandshakeError):
            attempt.run()

    @given(st.lists(st.binary(max_size=120), max_size=3))
    def test_garbage_is_refused_at_both_ends(self, garbage: list[bytes]) -> None:
        for end in (acceptor(secrets(), {}, NONCE), dialer(secrets(), {}, NONCE)):
            next(end)
            with pytest.raises(HandshakeError):
                list(map(end.send, [*garbage, b"GET / HTTP/1.1", b""]))

    def test_bounds(self) -> None:
        with pytest.raises(ValueError, match=f"at most {MAX_HELLO} bytes"):
            next(dialer(secrets(), {"node": "x" * MAX_HELLO}, NONCE))
        with pytest.raises(ValueError, match=f"at most {MAX_SECRETS} secrets"):
            Secrets(["secret"] * (MAX_SECRETS + 1), "shop")

    def test_secrets_do_not_show(self) -> None:
        assert ONE not in repr(secrets(ONE))


def pair() -> tuple[Sealer, Opener]:
    return Sealer(b"k" * 32), Opener(b"k" * 32, bytearray())


class TestFrames:
    @given(st.lists(st.binary(max_size=50) | st.integers(250, 260).map(bytes), max_size=8), st.data())
    def test_arrive_whole_however_they_are_cut(self, bodies: list[bytes], data: st.DataObject) -> None:
        sealer, opener = pair()
        stream = b"".join(map(sealer.seal, bodies))
        heard: list[bytes] = []
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            heard += opener.open(stream[:size])
            stream = stream[size:]
        assert heard == bodies

    @given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.data())
    def test_changed_bytes_are_never_taken_for_a_frame(self, bodies: list[bytes], data: st.DataObject) -> None:
        sealer, opener = pair()
        stream = bytearray(b"".join(map(sealer.seal, bodies)))
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] ^= data.draw(st.integers(1, 255))
        heard: list[bytes] = []
        with suppress(FrameError):
            heard.extend(opener.open(bytes(stream)))
        assert heard == bodies[: len(heard)]
        assert len(heard) < len(bodies)

    @pytest.mark.parametrize("order", [[0, 0], [1], [0, 2], [1, 0]], ids=["replayed", "lost", "left out", "swapped"])
    def test_only_the_next_frame_counts(self, order: list[int]) -> None:
        sealer, opener = pair()
        sealed = [sealer.seal(b"%d" % number) for number in range(3)]
        with pytest.raises(FrameError, match="not genuine"):
            list(opener.open(b"".join(sealed[number] for number in order)))

    def test_frame_of_the_other_direction_is_refused(self) -> None:
        mine, yours = line().run()
        frame = Sealer(mine.sending).seal(b"hello")
        with pytest.raises(FrameError):
            list(Opener(mine.receiving, bytearray()).open(frame))
        assert list(Opener(yours.receiving, bytearray()).open(frame)) == [b"hello"]

    def test_length_is_bounded_before_anything_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "MAX_FRAME", 100)
        _, opener = pair()
        with pytest.raises(FrameError, match="at most 100"):
            list(opener.open(b"\xff" + struct.pack(">I", 101)))

    @pytest.mark.parametrize(("size", "head"), [(0, 17), (254, 17), (255, 21), (70_000, 21)])
    def test_short_ones_have_a_short_head(self, size: int, head: int) -> None:
        sealer, _ = pair()
        assert len(sealer.seal(bytes(size))) == sealed_size(bytes(size)) == head + size

    def test_plain_frames(self) -> None:
        buffer = bytearray(plain(b"one") + plain(b"") + b"\0\0")
        taken: list[Any] = [take_plain(buffer, 10) for _ in range(3)]
        assert taken == [b"one", b"", None]
        with pytest.raises(FrameError, match="before authentication"):
            take_plain(bytearray(b"GET / HTTP/1.1\r\n"), 1024)
