"""A request or its reply is lost on the way: applied once with the right answer, or a clear error. Never twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from dref_django import Counter, DRef, DRefError, OutcomeUnknown, Unavailable
from dref_django.protocol import RING_SIZE
from tests.faults.labs import Lab
from tests.processes import wait_until

NEEDLE = "needle-2b7e"
"""Stands in the request that writes it, and in no request before."""
FIRST = "what stood there first"


class Operation(NamedTuple):
    """A change whose request is found by the bytes `matching` ("": by the ref's name)."""

    label: str
    before: Any
    act: Callable[[Any], Any]
    aact: Callable[[Any], Awaitable[Any]]
    answer: Any
    after: Any
    matching: str = NEEDLE


OPERATIONS = [
    Operation("increment", 5, lambda r: r.increment(3), lambda r: r.aincrement(3), 8, 8, ""),
    Operation("first increment", None, lambda r: r.increment(3), lambda r: r.aincrement(3), 3, 3, ""),
    Operation("decrement below zero", 1, lambda r: r.decrement(3), lambda r: r.adecrement(3), -2, -2, ""),
    Operation(
        "increment to the end", 2**63 - 2, lambda r: r.increment(), lambda r: r.aincrement(), 2**63 - 1, 2**63 - 1, ""
    ),
    Operation("set", FIRST, lambda r: r.set(NEEDLE), lambda r: r.aset(NEEDLE), None, NEEDLE),
    Operation("first set", None, lambda r: r.set(NEEDLE), lambda r: r.aset(NEEDLE), None, NEEDLE),
    Operation("set with ttl", FIRST, lambda r: r.set(NEEDLE, ttl=60), lambda r: r.aset(NEEDLE, ttl=60), None, NEEDLE),
    Operation(
        "set_if_absent", None, lambda r: r.set_if_absent(NEEDLE), lambda r: r.aset_if_absent(NEEDLE), True, NEEDLE
    ),
    Operation(
        "compare_and_set",
        FIRST,
        lambda r: r.compare_and_set(FIRST, NEEDLE),
        lambda r: r.acompare_and_set(FIRST, NEEDLE),
        True,
        NEEDLE,
    ),
    Operation(
        "update",
        FIRST,
        lambda r: r.update(lambda old: f"{old} {NEEDLE}"),
        lambda r: r.aupdate(lambda old: f"{old} {NEEDLE}"),
        f"{FIRST} {NEEDLE}",
        f"{FIRST} {NEEDLE}",
    ),
    Operation("get_and_set", FIRST, lambda r: r.get_and_set(NEEDLE), lambda r: r.aget_and_set(NEEDLE), FIRST, NEEDLE),
    Operation("delete", FIRST, lambda r: r.delete(), lambda r: r.adelete(), True, None, ""),
    Operation("expire", FIRST, lambda r: r.expire(60), lambda r: r.aexpire(60), True, FIRST, ""),
]


def prepared(lab: Lab, alias: str, operation: Operation) -> DRef[Any]:
    """The ref with the value before; the back end has said its first words."""
    ref: DRef[Any]
    if "crement" in operation.label:
        ref = Counter("ref-under-test", using=alias)
    else:
        ref = DRef("ref-under-test", None, type=str | None, using=alias)
    if operation.before is None:
        ref.delete()
        return ref
    ref.set(operation.before)
    outcome(lambda: operation.act(ref))  # Redis may not know the script yet; then it is sent twice
    ref.set(operation.before)
    return ref


def run(operation: Operation, ref: DRef[Any], way: str, lay: Callable[[], threading.Event]) -> tuple[Any, bool]:
    """Answer of the operation on a connection in use, and whether the trap laid just before has sprung."""
    if way == "sync":
        ref.version()
        sprung = lay()
        return outcome(lambda: operation.act(ref)), sprung.is_set()

    async def on_a_loop() -> tuple[Any, bool]:
        await ref.aversion()
        sprung = lay()
        try:
            return await operation.aact(ref), sprung.is_set()
        except DRefError as error:
            return type(error), sprung.is_set()

    return asyncio.run(on_a_loop())


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except DRefError as error:
        return type(error)


def matching(lab: Lab, operation: Operation, ref: DRef[Any]) -> bytes:
    if operation.before is None:
        return lab.first_change(ref.name)
    return (operation.matching or ref.name).encode()


def stored(ref: DRef[Any]) -> Any:
    """The value, None when there is none."""
    with ref.changes() as stream:
        change = next(iter(stream))
    return None if change.deleted else change.value


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_a_change_whose_reply_is_lost_is_proven_and_answered(lab: Lab, operation: Operation, way: str) -> None:
    with lab.here() as alias:
        ref = prepared(lab, alias, operation)
        before = ref.version()
        answer, sprung = run(operation, ref, way, lambda: lab.proxy.drop_replies(matching(lab, operation, ref)))
        assert sprung
        assert answer == operation.answer
        assert stored(ref) == operation.after
        assert ref.version() > before


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_a_change_that_never_arrived_is_not_sent_again_where_it_might_be_a_second_time(
    lab: Lab, operation: Operation, way: str
) -> None:
    """On raft it is sent again: there its number says that it is the same one."""
    with lab.here() as alias:
        ref = prepared(lab, alias, operation)
        before = ref.version()
        answer, sprung = run(operation, ref, way, lambda: lab.proxy.drop_requests(matching(lab, operation, ref)))
        assert sprung
        if lab.sends_again:
            assert answer == operation.answer
        else:
            assert answer is OutcomeUnknown
            assert (stored(ref), ref.version()) == (operation.before, before)
            # The back end is as good as new.
            assert outcome(lambda: operation.act(ref)) == operation.answer
        assert stored(ref) == operation.after


def test_a_read_that_is_lost_either_way_is_read_again(lab: Lab, way: str) -> None:
    read = Operation("read", FIRST, lambda r: r.get(), lambda r: r.aget(), FIRST, FIRST, "")
    with lab.here() as alias:
        ref = prepared(lab, alias, read)
        for drop in (lab.proxy.drop_replies, lab.proxy.drop_requests):
            answer, sprung = run(read, ref, way, lambda drop=drop: drop(ref.name.encode()))  # type: ignore[misc]
            assert sprung
            assert answer == FIRST


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_an_idle_connection_that_was_cut_is_replaced_before_it_is_used(
    lab: Lab, operation: Operation, way: str
) -> None:
    def cut() -> threading.Event:
        lab.proxy.cut()
        done = threading.Event()
        done.set()
        return done

    with lab.here() as alias:
        ref = prepared(lab, alias, operation)
        answer, _ = run(operation, ref, way, cut)
        assert answer == operation.answer
        assert stored(ref) == operation.after


def test_a_change_waits_for_a_server_that_comes_back_within_the_time_limit(lab: Lab) -> None:
    with lab.here(timeout=10.0) as alias, ThreadPoolExecutor(1) as pool:
        counter = Counter("ref-under-test", using=alias)
        assert counter.increment() == 1
        lab.proxy.refuse()
        waiting = pool.submit(counter.increment)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        lab.proxy.accept()
        assert waiting.result(10) == 2


def test_a_server_that_stays_away_is_unavailable_and_nothing_is_changed(lab: Lab, way: str) -> None:
    with lab.here(timeout=0.5) as alias:
        counter = Counter("ref-under-test", using=alias)
        counter.set(1)
        lab.proxy.refuse()
        acts: list[Callable[[], object]] = [counter.get, counter.increment]
        if way == "async":
            acts = [lambda: asyncio.run(counter.aget()), lambda: asyncio.run(counter.aincrement())]
        for act in acts:
            with pytest.raises(Unavailable, match=r"can(not)? be reached"):
                act()
        lab.proxy.accept()
        assert counter.get() == 1


def held_up(lab: Lab, counter: Counter, amount: int) -> Callable[[], int]:
    """Starts an increment whose reply hangs on the way, and returns when the server has applied it."""
    before = counter.increment(0)  # statements are prepared, scripts are loaded
    pool = ThreadPoolExecutor(1)
    lab.proxy.blackhole(requests=False)
    waiting = pool.submit(counter.increment, amount)
    pool.shutdown(wait=False)
    wait_until(lambda: lab.number(counter.name) == before + amount, "the increment to be applied", 10)
    return lambda: waiting.result(20)


def test_a_reply_that_hangs_until_the_connection_is_lost_is_proven(lab: Lab) -> None:
    with lab.here(timeout=20.0) as alias:
        counter = Counter("ref-under-test", using=alias)
        counter.set(1)
        result = held_up(lab, counter, 2)
        lab.proxy.heal()
        assert result() == 3


@pytest.mark.parametrize(("others", "proven"), [(RING_SIZE - 1, True), (RING_SIZE, False)])
def test_the_last_eight_changes_can_be_proven_and_older_ones_cannot(lab: Lab, others: int, proven: bool) -> None:
    with lab.here(timeout=20.0) as alias, lab.here(proxied=False) as direct:
        counter = Counter("ref-under-test", using=alias)
        counter.set(1)
        result = held_up(lab, counter, 2)
        for _ in range(others):
            Counter("ref-under-test", using=direct).increment()
        lab.proxy.heal()
        if proven or lab.sends_again:
            assert result() == 3, "the sum at its moment, not the one of now"
        else:
            with pytest.raises(OutcomeUnknown, match="ref-under-test"):
                result()
        assert counter.get() == 3 + others


def test_when_the_proof_cannot_be_fetched_in_time_the_outcome_is_unknown(lab: Lab) -> None:
    with lab.here(timeout=1.0) as alias:
        counter = Counter("ref-under-test", using=alias)
        counter.set(1)
        result = held_up(lab, counter, 2)
        started = time.monotonic()
        lab.proxy.refuse()
        with pytest.raises(OutcomeUnknown) as caught:
            result()
        assert time.monotonic() - started < 1.9
        assert caught.value.name == "ref-under-test"
        lab.proxy.heal()
        lab.proxy.accept()
        assert counter.get() == 3
