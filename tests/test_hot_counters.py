"""Counters that many writers hit at once: stripes, and flushing in intervals."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, assert_type

import pytest
from django.db import transaction as database

from dref_django import Counter, CounterOverflow, DRef, DRefError, InvalidValue, Unavailable, WrongKind, transaction
from dref_django.backends import Backend
from dref_django.backends.delivery import NotSent
from dref_django.hot_counters import HotCounter
from dref_django.hub import Raw
from dref_django.protocol import Add, Read, Scan
from dref_django.sums import SumBuffer
from dref_django.testing import isolate
from tests.callers import Caller
from tests.children import Child
from tests.kinds import installed, make
from tests.processes import wait_until

NEVER = 3600.0
"""Seconds: nothing is flushed during a test unless it says so."""
SOON = 0.05


def stored(backend: Backend) -> dict[str, Any]:
    (reply,) = backend.execute([Scan(values=True)])
    return {row.name: row.data for row in reply.page}  # type: ignore[union-attr]


def recorded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The batches that go to the back end from now on."""
    batches: list[Any] = []
    send = backend.send

    def recording(commands: Any, *rest: Any) -> Any:
        batches.append(commands)
        return send(commands, *rest)

    monkeypatch.setattr(backend, "send", recording)
    return batches


@pytest.mark.usefixtures("any_backend")
class TestStripes:
    def test_value_is_the_sum_of_entries_that_writers_are_spread_over(self, any_backend: Backend, call: Caller) -> None:
        hits = Counter("hits", 10, stripes=4)
        assert call(hits, "get") == 10
        for _ in range(40):
            assert call(hits, "increment", 2) is None
        call(hits, "decrement", 5)
        assert call(hits, "get") == hits_of(call, hits) == 85
        entries = stored(any_backend)
        assert set(entries) <= {"hits", "hits#1", "hits#2", "hits#3"}
        assert len(entries) > 1
        assert call(hits, "delete") is True
        assert call(hits, "delete") is False
        assert call(hits, "get") == 10

    def test_sum_is_read_in_one_batch(self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        batches = recorded(any_backend, monkeypatch)
        assert Counter("hits", stripes=16).get() == 0
        assert [len(batch) for batch in batches] == [16]

    def test_plain_counter_is_striped_later_without_loss(self) -> None:
        Counter("hits", 5).increment()
        hits = Counter("hits", 5, stripes=3)
        hits.increment()
        assert hits.get() == 7

    def test_writers_at_once_lose_nothing(self) -> None:
        hits = Counter("hits", stripes=4)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(hits.increment, [1, 2] * 50))
        assert hits.get() == 150

    def test_peek_is_the_sum_and_never_behind_what_this_process_wrote(self) -> None:
        hits = Counter("hits", 1, stripes=4)
        assert hits.peek() == 1
        for number in range(2, 12):
            hits.increment()
            assert hits.peek() == number

    def test_watchers_see_sums_and_begin_with_a_whole_one(self) -> None:
        hits = Counter("hits", 7, stripes=4)
        hits.increment(100)
        with hits.changes(timeout=10) as stream:
            first = next(stream)
            assert (first.name, first.value, first.deleted, first.gap) == ("hits", 107, False, False)
            seen = 107
            for _ in range(5):
                hits.increment()
                assert seen < (seen := next(stream).value)
            assert seen == 112
            hits.delete()
            while not (last := next(stream)).deleted:
                pass
            assert last.value == 7

    async def test_watchers_on_a_loop_see_sums(self) -> None:
        hits = Counter("hits", stripes=3)
        async with hits.changes(timeout=10) as stream:
            assert (await anext(stream)).value == 0
            await hits.aincrement(3)
            assert (await anext(stream)).value == 3

    def test_callbacks_hear_sums_and_no_snapshot(self) -> None:
        hits = Counter("hits", stripes=3)
        hits.increment(10)
        heard: list[int] = []
        with hits.on_change(lambda change: heard.append(change.value)):
            hits.peek()
            hits.increment()
            wait_until(lambda: heard[-1:] == [11], "the callback", 10)
        assert heard == [11]

    def test_part_of_a_transaction_and_of_a_commit(self) -> None:
        hits, done = Counter("hits", stripes=3), DRef("done", "")
        with suppress(ZeroDivisionError), transaction():
            hits.increment()
            done.set("x")
            raise ZeroDivisionError
        assert hits.get() == 0
        with transaction():
            hits.increment()
            assert (hits.get(), hits.peek()) == (1, 1)
        assert hits.get() == 1

    def test_wrong_kind_and_overflow_are_told(self) -> None:
        DRef[str]("text").set("words")
        text = Counter("text", stripes=1)
        for operation in (text.increment, text.get):
            with pytest.raises(WrongKind, match="'text' holds something else"):
                operation()
        full = Counter("full", 2**63 - 1, stripes=1)
        with pytest.raises(CounterOverflow):
            full.increment()
        with pytest.raises(InvalidValue):
            full.increment(1.5)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            full.decrement(True)


def hits_of(call: Caller, hits: HotCounter) -> int:
    return hits.value if call._runner is None else call(hits, "peek")


class TestSumBuffer:
    def test_sum_of_some_is_no_sum(self) -> None:
        rang = []
        buffer = SumBuffer(("a", "a#1"), 5, lambda: rang.append(1))
        buffer.push(Raw("a#1", 3, 0, 7, False, True, "e"))
        assert buffer.pop() is None
        buffer.push(Raw("a", 2, 0, None, True, False, "e"))
        assert buffer.pop() == Raw("a", 3, 0, 12, True, False, "e")
        assert buffer.pop() is None
        assert rang == [1, 1]


class TestType:
    def test_stripes_and_intervals_make_another_type(self) -> None:
        assert_type(Counter("a"), Counter)
        assert_type(Counter("a", stripes=2), HotCounter)
        assert_type(Counter("a", flush_interval=1.0), HotCounter)
        assert not isinstance(Counter("a", stripes=2), Counter)
        assert not {"set", "version", "update", "compare_and_set"} & set(dir(HotCounter))
        with pytest.raises(TypeError, match="is a ref, not a number"):
            int(Counter("a", stripes=2))

    def test_attributes_of_classes_have_names(self) -> None:
        class Site:
            hits = Counter(stripes=2)

        with isolate():
            Site.hits.increment()
            assert (Site.hits.name, Site.hits.get()) == ("tests.site.hits", 1)

    @pytest.mark.parametrize("options", [{"stripes": 0}, {"stripes": 5000}, {"flush_interval": 0}])
    def test_nonsense_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            Counter("a", **options)


class TestCluster:
    def test_stripes_lie_on_several_nodes_and_those_of_a_group_on_one(self, request: pytest.FixtureRequest) -> None:
        with installed(make("cluster", request)) as backend:
            hits, grouped = Counter("hits", stripes=8), Counter("hits", stripes=8, group="shop")
            for counter in (hits, grouped):
                for _ in range(20):
                    counter.increment()
                assert counter.get() == 20
            assert len({backend.slot(name) for name in stored(backend) if "\x1f" not in name}) > 1
            assert len({backend.slot(name) for name in stored(backend) if "\x1f" in name}) == 1
            assert hits.delete() is True
            assert (hits.get(), grouped.get()) == (0, 20)


@pytest.mark.usefixtures("any_backend")
class TestFlushing:
    def test_increments_are_counted_here_and_written_together(
        self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hits, misses = Counter("hits", 5, flush_interval=NEVER), Counter("misses", stripes=2, flush_interval=NEVER)
        batches = recorded(any_backend, monkeypatch)
        for _ in range(100):
            hits.increment()
            misses.decrement(2)
        assert batches == []
        hits.flush()
        misses.flush()
        hits.flush()
        assert [[(type(command), command.amount) for command in batch] for batch in batches] == [
            [(Add, 100)],
            [(Add, -200)],
        ]
        assert (hits.get(), misses.get()) == (105, -200)

    def test_all_counters_that_are_due_go_in_one_batch(
        self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches = recorded(any_backend, monkeypatch)
        for name in ("a", "b", "c"):
            Counter(name, flush_interval=0.5).increment()  # the object itself is gone at once
        wait_until(lambda: sum(len(batch) for batch in batches) == 3, "all to be written", 20)
        assert len(batches) < 3

    def test_written_by_itself_within_the_interval(self) -> None:
        hits = Counter("hits", stripes=2, flush_interval=SOON)
        with hits.changes(timeout=20) as stream:
            next(stream)
            hits.increment()
            hits.increment()
            assert sum(1 for change in [next(stream)] if change.value) == 1
            wait_until(lambda: hits.get() == 2, "both to be written", 20)

    async def test_asynchronous_twins(self) -> None:
        hits = Counter("hits", flush_interval=NEVER)
        await asyncio.gather(*(hits.aincrement() for _ in range(10)))
        await hits.aflush()
        assert (await hits.aget(), await hits.apeek()) == (10, 10)

    def test_one_that_cannot_be_added_spoils_no_other(self, caplog: pytest.LogCaptureFixture) -> None:
        DRef[str]("text").set("words")
        good, bad = Counter("good", flush_interval=SOON), Counter("text", flush_interval=SOON)
        with caplog.at_level(logging.WARNING, "dref_django"):
            good.increment(3)
            bad.increment(4)
            wait_until(lambda: "'text': 4 could not be added and is lost" in caplog.text, "the warning", 20)
            wait_until(lambda: good.get() == 3, "the other to be written", 20)

    def test_no_part_of_a_transaction_but_of_a_commit(self) -> None:
        hits = Counter("hits", flush_interval=NEVER)
        with transaction():
            with pytest.raises(DRefError, match="apart from any transaction"):
                hits.increment()

    def test_back_end_that_leaves_use_is_written_first(self, any_backend: Backend) -> None:
        hits = Counter("hits", flush_interval=NEVER)
        hits.increment(4)
        with isolate():
            assert any_backend.execute([Read("hits")])[0].data == 4
            assert hits.get() == 0


@pytest.mark.django_db(transaction=True)
@isolate()
def test_hot_counters_count_when_the_database_commits() -> None:
    striped, flushed = Counter("striped", stripes=2), Counter("flushed", flush_interval=NEVER)
    for _ in range(2):
        with suppress(ZeroDivisionError), database.atomic():
            striped.on_commit().increment(3)
            flushed.on_commit().decrement(2)
            if striped.get():
                raise ZeroDivisionError
            flushed.flush()
            assert (striped.get(), flushed.get()) == (0, 0)
    flushed.flush()
    assert (striped.get(), flushed.get()) == (3, -2)


class TestAway:
    def test_counts_on_while_the_back_end_is_away(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: Any) -> Any:
            raise NotSent("away")

        with installed(make("memory", request, timeout=0.05)) as backend:
            hits = Counter("hits", flush_interval=NEVER)
            hits.increment()
            with monkeypatch.context() as patch:
                patch.setattr(backend, "send", away)
                with pytest.raises(Unavailable, match="'hits': not flushed"):
                    hits.flush()
                hits.increment()
            hits.flush()
            assert hits.get() == 2


FORKING = """
import atexit, os, warnings
from tests.processes import no_threads
atexit.register(no_threads().__enter__)  # as Python 3.12.0 and 3.12.1 do it
warnings.simplefilter("ignore", DeprecationWarning)
hits = Counter("hits", stripes=2, flush_interval=3600.0)
hits.increment(5)
child = os.fork()
hits.increment(10 if child else 100)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
KILLED = """
import os, signal
for interval in (0.01, 3600.0):
    hits = Counter("hits", flush_interval=interval)
    hits.increment()
    while Counter("hits").get() == 0: pass
os.kill(os.getpid(), signal.SIGKILL)
"""


class TestProcesses:
    def test_exit_writes_and_a_forked_child_takes_nothing_along(self, served_backend: Backend) -> None:
        with Child(FORKING, served_backend) as child:
            assert child.ends() == 0
        assert Counter("hits", stripes=2).get() == 115

    def test_killed_process_loses_its_last_interval_and_no_more(self, served_backend: Backend) -> None:
        with Child(KILLED, served_backend) as child:
            assert child.ends() == -9
        assert Counter("hits").get() == 1
