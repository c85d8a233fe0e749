"""Garbage where an entry should be, and on our channels: a clear error that names the ref, and a hub that lives on."""

from __future__ import annotations

import asyncio
import logging
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from dref_django import Counter, DRef, DRefError, OutcomeUnknown, Unavailable
from tests.faults.labs import Lab, PostgresLab, RedisLab, ServerLab
from tests.processes import wait_until

LABS: dict[str, type[ServerLab]] = {"redis": RedisLab, "postgres": PostgresLab}
SPOILED = [(kind, how) for kind, lab in LABS.items() for how in lab.spoilings]
TIMEOUT = 1.0


@pytest.fixture
def lab_of_kind(request: pytest.FixtureRequest, kind: str) -> Lab:
    chosen: Lab = request.getfixturevalue(f"{kind}_lab")
    return chosen


def outcome(act: Callable[[], Any]) -> Any:
    started = time.monotonic()
    try:
        result = act()
    except Exception as error:
        result = error
    assert time.monotonic() - started < TIMEOUT + 0.8
    return result


@pytest.mark.parametrize(("kind", "how"), SPOILED)
@pytest.mark.parametrize("holds", ["integer", "bytes"])
def test_a_spoiled_entry_is_an_error_that_names_it_and_nothing_else_suffers(
    lab_of_kind: ServerLab, how: str, holds: str
) -> None:
    lab = lab_of_kind
    with lab.here(proxied=False, timeout=TIMEOUT) as alias:
        name = "spoiled-ref"
        ref: DRef[Any] = Counter(name, using=alias) if holds == "integer" else DRef(name, "", using=alias)
        healthy = Counter("healthy", using=alias)
        value = 1 if holds == "integer" else "text"
        ref.set(value)
        lab.spoil(name, how)

        acts: list[Callable[[], Any]] = [
            ref.get,
            ref.version,
            ref.peek,
            lambda: ref.update(lambda old: old),
            lambda: asyncio.run(ref.aget()),
            ref.delete,
            lambda: ref.set(value),
        ]
        if isinstance(ref, Counter):
            acts[3:3] = [ref.increment, lambda: asyncio.run(ref.aincrement())]
        for act in acts:
            result = outcome(act)
            if isinstance(result, Exception):
                assert isinstance(result, DRefError), repr(result)
                assert not isinstance(result, OutcomeUnknown), repr(result)
                assert name in str(result), f"the error does not say which ref: {result!r}"
            assert healthy.increment() > 0


@pytest.mark.parametrize(("kind", "how"), SPOILED)
def test_watchers_of_other_refs_do_not_notice_a_spoiled_one(lab_of_kind: ServerLab, how: str) -> None:
    lab = lab_of_kind
    with lab.here(proxied=False, timeout=TIMEOUT, heartbeat=0.2) as alias:
        spoiled, healthy = Counter("spoiled-ref", using=alias), Counter("healthy", using=alias)
        spoiled.set(1)
        heard: list[int] = []
        with (
            healthy.on_change(lambda change: heard.append(change.value)),
            spoiled.changes() as stream,
            healthy.changes(timeout=5) as healthy_stream,
        ):
            assert next(stream).value == 1
            assert next(healthy_stream).value == 0
            lab.spoil("spoiled-ref", how)
            for _ in range(3):
                value = healthy.increment()
                assert next(healthy_stream).value == value
                wait_until(lambda value=value: value in heard, "the callback", 5)  # type: ignore[misc]
                # Two comparisons of versions later the hub has met what is spoiled.
                lab.write_silently("healthy", value + 100)
                assert next(healthy_stream).value == value + 100
        with Counter("unknown-so-far", using=alias).changes() as other:
            assert next(other).value == 0


GARBAGE = [
    b"",
    b"garbage",
    b"\n",
    b"i 1 2",
    b"i x y z\n1",
    b"q 99999999999999999 1 -\n1",
    b"i 99999999999999999 1 -\nletters",
    b"\xff\xfe\xfd",
    b"wAEC",
    b"x" * 5000,
]
UNTRUE = [b"s 99999999999999999 1 - 5 1\nx", b"b -1 -1 -1\n", b"h 99999999999999999 1 -\n"]
"""What could be a notice, and tells of what never was."""


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:12]))
def test_garbage_on_a_channel_is_ignored(
    server_lab: ServerLab, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server_lab.here(proxied=False, heartbeat=60.0) as alias:
        counter = Counter("watched-ref", using=alias)
        with counter.changes(timeout=5, every=True) as stream, caplog.at_level(logging.WARNING, "dref_django"):
            assert next(stream).value == 0
            counter.increment()
            assert next(stream).value == 1
            server_lab.shout("watched-ref", garbage)
            assert counter.increment() == 2
            change = next(stream)
            assert (change.value, change.gap) == (2, False), "the listener did not survive"
            server_lab.shout("watched-ref", garbage)
            assert counter.increment() == 3
            assert next(stream).value == 3
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
        assert [record for record in caplog.records if "ignored" in record.getMessage()], "nobody was told"


@pytest.mark.parametrize("notice", UNTRUE, ids=lambda notice: repr(notice[:12]))
def test_a_notice_of_what_never_was_changes_nothing(redis_lab: RedisLab, notice: bytes) -> None:
    with redis_lab.here(proxied=False, heartbeat=60.0) as alias:
        counter = Counter("watched-ref", using=alias)
        with counter.changes(timeout=5, every=True) as stream:
            assert next(stream).value == 0
            counter.increment()
            assert next(stream).value == 1
            redis_lab.shout("watched-ref", notice)
            assert counter.increment() == 2
            assert next(stream).value == 2
            assert counter.peek() == 2


class Babbler(socketserver.ThreadingTCPServer):
    """A server that answers everything with the same bytes."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        super().__init__(("127.0.0.1", 0), Babble)


class Babble(socketserver.BaseRequestHandler):
    server: Babbler

    def handle(self) -> None:
        while self.request.recv(65536):
            self.request.sendall(self.server.answer)


@contextmanager
def babbling(answer: bytes) -> Iterator[int]:
    with Babbler(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


ANYBODY = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "binary": bytes(range(256)),
    "nul": b"\0" * 100,
}
BABBLE = {
    "redis": {
        "ok to everything": b"+OK\r\n",
        "empty bulk": b"$0\r\n\r\n",
        "nil": b"$-1\r\n",
        "size of letters": b"$garbage\r\n",
        "huge size": b"$99999999999999999999\r\nx\r\n",
        "negative size": b"$-5\r\nx\r\n",
        "array of nothing": b"*0\r\n",
        "array of letters": b"*x\r\n",
        "deep array": b"*1\r\n" * 100_000,
        "too many replies": b"+OK\r\n" * 50,
        "error": b"-ERR what do you want\r\n",
        **ANYBODY,
    },
    "postgres": {
        "error": b"E\x00\x00\x00\x08oops",
        "ready": b"R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I",
        "huge message": b"R\x7f\xff\xff\xff\x00\x00\x00\x00",
        **ANYBODY,
    },
    "raft": {
        "empty frame": b"\0\0\0\0",
        "frame of letters": b"\0\0\0\x07garbage",
        "frame that never ends": b"\0\0\x03\0x",
        "huge frame": b"\xff\xff\xff\xff\0",
        "frames without end": b"\0\0\0\x01\xc0" * 5000,
        **ANYBODY,
    },
}


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(("kind", "babble"), [(kind, babble) for kind, babbles in BABBLE.items() for babble in babbles])
def test_a_server_that_speaks_nonsense_is_an_error_in_time(lab_of_kind: Lab, kind: str, babble: str, way: str) -> None:
    with babbling(BABBLE[kind][babble]) as port, lab_of_kind.here_at(port, timeout=0.4) as alias:
        counter, text = Counter("counted", using=alias), DRef("text", "", using=alias)
        acts: list[Callable[[], Any]] = [counter.get, counter.increment, text.get, lambda: text.set("x")]
        if way == "async":
            acts = [
                lambda: asyncio.run(counter.aget()),
                lambda: asyncio.run(counter.aincrement()),
                lambda: asyncio.run(text.aget()),
                lambda: asyncio.run(text.aset("x")),
            ]
        with ThreadPoolExecutor(5) as pool:
            opened = pool.submit(outcome, counter.changes().__enter__)
            for result in pool.map(outcome, acts):
                assert isinstance(result, DRefError), repr(result)
            assert isinstance(opened.result(), Unavailable)
