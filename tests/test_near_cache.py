"""`peek` and `max_staleness`: this process's own copies, pushed to, never shared, never behind its own doings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from dref_django import Counter, DRef, Flag, hub
from dref_django.protocol import Write
from dref_django.testing import ManualClock
from tests.callers import Caller
from tests.kinds import installed
from tests.processes import wait_until
from tests.scripted import PATIENCE, ScriptedBackend, settle


@dataclass
class Point:
    x: int = 0


@dataclass(frozen=True)
class Frozen:
    x: int = 0


@pytest.mark.usefixtures("any_backend")
class TestPeek:
    def test_change_of_another_process_arrives_by_itself(self, call: Caller, peer: str) -> None:
        here, there = Counter("n"), Counter("n", using=peer)
        assert call(here, "peek") == 0
        for number in (1, 2, 3):
            there.set(number)
            wait_until(lambda number=number: call(here, "peek") == number, "the change", PATIENCE)  # type: ignore[misc]
        there.delete()
        wait_until(lambda: call(here, "peek") == 0, "the deletion", PATIENCE)

    def test_own_writes_are_seen_at_once(self, call: Caller) -> None:
        counter = Counter("n")
        call(counter, "peek")
        for number in range(1, 50):
            assert call(counter, "increment") == call(counter, "peek") == number
        call(counter, "set", 7)
        assert call(counter, "peek") == 7
        call(counter, "update", lambda value: value * 6)
        assert call(counter, "peek") == 42
        call(counter, "compare_and_set", 42, 43)
        assert call(counter, "peek") == 43
        call(counter, "delete")
        assert call(counter, "peek") == 0

    def test_own_reads_are_not_undone(self, call: Caller, peer: str) -> None:
        here, there = Counter("n"), Counter("n", using=peer)
        call(here, "peek")
        for number in range(1, 50):
            there.set(number)
            assert call(here, "get") == number
            assert call(here, "peek") == number

    def test_mutable_values_are_each_callers_own(self, call: Caller) -> None:
        ref, point = DRef("list", [1]), DRef("point", Point())
        ref.set([1, 2])
        first = call(ref, "peek")
        first.append(3)
        assert call(ref, "peek") == [1, 2]
        point.set(Point(5))
        call(point, "peek").x = 6
        assert call(point, "peek") == Point(5)

    def test_mutable_defaults_are_each_callers_own(self, call: Caller) -> None:
        ref = DRef("list", [1])
        call(ref, "peek").append(2)
        assert call(ref, "peek") == [1]

    def test_every_kind_of_value_can_be_peeked_at(self, call: Caller) -> None:
        for name, value in {"flag": True, "text": "a", "frozen": Frozen(3), "none": None}.items():
            ref: DRef[object] = DRef(name, type=type(value))
            ref.set(value)
            assert call(ref, "peek") == value
            assert call(ref, "peek") == value

    def test_status_is_ready_once_the_first_value_is_known(self) -> None:
        flag = Flag("on")
        assert flag.status == "STALE"
        flag.peek()
        wait_until(lambda: flag.status == "READY", "READY", PATIENCE)

    def test_threads_that_peek_never_see_a_counter_go_back(self, peer: str) -> None:
        here, there = Counter("n"), Counter("n", using=peer)
        here.peek()
        done = threading.Event()

        def look() -> int:
            last = 0
            while not done.wait(0.0005):
                value = here.peek()
                assert value >= last
                last = value
            return last

        with ThreadPoolExecutor(4) as pool:
            looking = [pool.submit(look) for _ in range(3)]
            for _ in range(100):
                there.increment()
                here.increment()
            done.set()
            for each in looking:
                assert each.result() <= 200
        wait_until(lambda: here.peek() == 200, "the last value", PATIENCE)


@pytest.fixture
def line() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    with installed(backend):
        yield backend


class TestStaleness:
    def test_fresh_copy_needs_no_round_trip(self, line: ScriptedBackend, call: Caller) -> None:
        line.clock = clock = ManualClock()
        counter = Counter("n")
        call(counter, "set", 1)
        assert call(counter, "get", max_staleness=10) == 1
        line.write_silently("n", 2)
        clock.advance(10)
        assert call(counter, "get", max_staleness=10) == 1
        clock.advance(0.1)
        assert call(counter, "get", max_staleness=10) == 2

    def test_read_makes_the_copy_fresh_again(self, line: ScriptedBackend, call: Caller) -> None:
        line.clock = clock = ManualClock()
        counter = Counter("n")
        assert call(counter, "get", max_staleness=10) == 0
        clock.advance(11)
        assert call(counter, "get", max_staleness=10) == 0
        line.write_silently("n", 2)
        clock.advance(9)
        assert call(counter, "get", max_staleness=10) == 0
        assert call(counter, "get", max_staleness=8) == 2

    def test_copy_is_pushed_to(self, line: ScriptedBackend, call: Caller) -> None:
        counter = Counter("n")
        call(counter, "get", max_staleness=1000)
        line.execute([Write("n", 5)])
        settle()
        assert call(counter, "get", max_staleness=1000) == 5

    def test_peek_asks_the_back_end_once(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        counter.peek()
        settle()
        before = line.reads
        for _ in range(100):
            counter.peek()
        settle()
        assert line.reads == before

    def test_names_beyond_the_limit_are_let_go_and_still_read_right(
        self, line: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub, "NEAR_LIMIT", 3)
        counters = [Counter(f"n{number}") for number in range(6)]
        for number, counter in enumerate(counters):
            counter.set(number)
            assert counter.peek() == number
        wait_until(lambda: len(line.subscribed) == 3, "three subscriptions", PATIENCE)
        for counter in counters:
            counter.increment()
        assert [counter.peek() for counter in counters] == [1, 2, 3, 4, 5, 6]

    def test_write_whose_notice_is_on_its_way_is_not_taken_back_by_an_older_one(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        counter.peek()
        line.hold()
        counter.set(1)
        counter.set(2)
        line.release(lambda events: events[:1])
        settle()
        assert counter.peek() == 2
