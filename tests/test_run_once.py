"""`once`: one success for each key in the whole cluster, whatever fails, waits, comes late or goes by another clock."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import pytest
from django.db import transaction

from dref_django import LockLost, LockTimeout, once
from dref_django.backends import Backend
from dref_django.inspection import break_lock, lock_info
from dref_django.protocol import Inspect
from dref_django.testing import ManualClock
from tests.app.models import Order
from tests.children import PATIENCE, Child
from tests.processes import wait_until

InThread: TypeAlias = Callable[..., concurrent.futures.Future[Any]]


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        yield pool.submit


def until_waiting(backend: Backend, lease: str) -> None:
    def waiting() -> bool:
        (reply,) = backend.execute([Inspect(lease)])
        return reply.lease is not None and len(reply.lease.waiters) == 1

    wait_until(waiting, f"somebody waiting for {lease!r}", PATIENCE)


class Job:
    """A body that counts its runs; `go` lets it end."""

    def __init__(self) -> None:
        self.runs = 0
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.runs += 1
        self.started.set()
        assert self.go.wait(PATIENCE)
        return "done"


def fail() -> None:
    raise OSError("out of paper")


class TestOnce:
    def test_the_body_runs_once_for_each_key(self, any_backend: Backend, peer: str) -> None:
        ran: list[str] = []
        for key in ("a", "b", "a", "b"):
            for using in ("default", peer):
                once("report", key=key, using=using).run(ran.append, key)
        assert ran == ["a", "b"]

    def test_returns_the_result_or_none_when_it_was_skipped(self, any_backend: Backend) -> None:
        report = once("report", key=1)
        assert [report.run(lambda: "result"), report.run(lambda: "result")] == ["result", None]

    def test_many_hosts_at_once_run_it_once(self, any_backend: Backend, peer: str, in_thread: InThread) -> None:
        runs: list[int] = []
        jobs = [
            in_thread(once("report", key="k", timeout=PATIENCE, using=using).run, runs.append, number)
            for number, using in enumerate(["default", peer] * 8)
        ]
        for job in jobs:
            job.result(PATIENCE)
        assert len(runs) == 1

    def test_who_waits_for_a_success_skips(self, any_backend: Backend, peer: str, in_thread: InThread) -> None:
        job = Job()
        first = in_thread(once("report", key="k").run, job)
        assert job.started.wait(PATIENCE)
        second = in_thread(once("report", key="k", timeout=PATIENCE, using=peer).run, job)
        until_waiting(any_backend, "once:report\x1fk")
        job.go.set()
        assert [first.result(PATIENCE), second.result(2)] == ["done", None]
        assert job.runs == 1

    def test_who_waits_for_a_failure_runs_it(self, any_backend: Backend, peer: str, in_thread: InThread) -> None:
        job = Job()

        def failing() -> None:
            job()
            fail()

        first = in_thread(once("report", key="k").run, failing)
        assert job.started.wait(PATIENCE)
        second = in_thread(once("report", key="k", timeout=PATIENCE, using=peer).run, lambda: "done after all")
        until_waiting(any_backend, "once:report\x1fk")
        job.go.set()
        with pytest.raises(OSError, match="out of paper"):
            first.result(PATIENCE)
        assert second.result(PATIENCE) == "done after all"

    def test_who_does_not_want_to_wait_leaves_it_to_the_other(
        self, any_backend: Backend, peer: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with once("report", key="k") as turn:
            assert turn
            with caplog.at_level(logging.INFO, "dref_django"):
                assert once("report", key="k", timeout=0, using=peer).run(lambda: "ran") is None
            with pytest.raises(LockTimeout):
                once("report", key="k", timeout=0, using=peer, otherwise="raise").run(lambda: "ran")
        assert "left to the process that is still at it" in caplog.text

    def test_a_failure_leaves_no_mark(self, any_backend: Backend) -> None:
        report = once("report", key="k")
        with pytest.raises(OSError, match="out of paper"):
            report.run(fail)
        assert not report.done()
        assert report.run(lambda: "result") == "result"

    def test_it_can_be_forgotten(self, any_backend: Backend) -> None:
        report = once("report", key="k")
        assert not report.forget()
        report.run(lambda: "result")
        assert report.done()
        assert report.forget()
        assert report.run(lambda: "result") == "result"

    def test_the_lock_is_free_afterwards(self, any_backend: Backend) -> None:
        report = once("report")
        for _ in range(2):
            with report:
                pass
            assert lock_info("report", kind="once") is None

    def test_keys_of_one_name_and_names_do_not_meet(self, any_backend: Backend) -> None:
        pairs: list[tuple[str, Any]] = [("a", None), ("a", "b"), ("a/b", None), ("a b", None), ("a", 1), ("a1", None)]
        assert [once(name, key=key).run(lambda: 1) for name, key in pairs] == [1] * len(pairs)


class TestMemory:
    def test_it_runs_again_when_it_is_no_longer_remembered(self, dref_clock: ManualClock) -> None:
        report = once("report", keep=3600)
        assert report.run(lambda: "first") == "first"
        dref_clock.advance(3599)
        assert report.run(lambda: "second") is None
        dref_clock.advance(2)
        assert report.run(lambda: "third") == "third"

    @pytest.mark.parametrize("keep", [timedelta(seconds=9), 9.9, 0, -1])
    def test_hosts_clocks_are_given_ten_seconds_at_least(self, keep: Any) -> None:
        with pytest.raises(ValueError, match="keep is a number of seconds, 10 or more"):
            once("report", keep=keep)


class TestSkewedClocks:
    """Three hosts whose clocks differ by two seconds each way; cron starts the job on each at its own midnight."""

    SKEWS = (-2, 0, 2)

    def starts(self, days: int) -> list[tuple[int, int]]:
        """(true second, skew of the host), in true order."""
        return sorted((day * 86_400 - skew, skew) for day in range(1, days + 1) for skew in self.SKEWS)

    def run(self, clock: ManualClock, *, late: int = 0) -> list[date]:
        """Days for which the body ran, the key computed from the host's clock `late` seconds after its start."""
        ran: list[date] = []
        now = 0
        for true, skew in self.starts(5):
            clock.advance(true - now)
            now = true

            def today(shows: int = true + skew + late) -> date:
                return datetime.fromtimestamp(shows, UTC).date()

            once("nightly", key=today).run(lambda: ran.append(today()))
        return ran

    def test_each_day_runs_once(self, dref_clock: ManualClock) -> None:
        days = self.run(dref_clock)
        assert days == sorted(set(days))
        assert len(days) == 5

    def test_each_day_runs_once_when_the_key_is_computed_before_midnight(self, dref_clock: ManualClock) -> None:
        """A clock was set back between cron's look at it and ours: then all name the day before, and still agree."""
        days = self.run(dref_clock, late=-1)
        assert days == sorted(set(days))
        assert len(days) == 5

    def test_hosts_started_by_one_call_may_name_two_days_of_which_one_was_done(self, dref_clock: ManualClock) -> None:
        ran: list[date] = []
        for midnight in range(86_400, 6 * 86_400, 86_400):  # all are called at true midnight, and look at their clocks
            for skew in self.SKEWS:
                day = datetime.fromtimestamp(midnight + skew, UTC).date()
                once("nightly", key=day).run(ran.append, day)
            dref_clock.advance(86_400)
        assert len(ran) == len(set(ran))
        assert len(ran) == 6  # the day before the first, once; then each day


BODY = """
with once("report", key="k", ttl=1) as turn:
    say("at it", bool(turn))
    for order in orders():
        pass
"""


def test_a_host_that_dies_at_it_leaves_it_to_one_that_waits(served_backend: Backend, in_thread: InThread) -> None:
    with Child(BODY, served_backend) as child:
        assert child.hears("at it") == [True]
        waiting = in_thread(once("report", key="k", timeout=PATIENCE).run, lambda: "done after all")
        until_waiting(served_backend, "once:report\x1fk")
        child.kill()
        assert waiting.result(PATIENCE) == "done after all"
    assert once("report", key="k").done()


class TestDecorator:
    def test_a_callable_key_is_asked_at_each_call(self, any_backend: Backend) -> None:
        keys = iter(["monday", "monday", "tuesday"])

        @once("report", key=lambda: next(keys))
        def report(number: int) -> int:
            """Doc."""
            return number

        assert [report(1), report(2), report(3)] == [1, None, 3]
        assert (report.__name__, report.__doc__) == ("report", "Doc.")

    async def test_of_a_coroutine_function(self, any_backend: Backend) -> None:
        @once("report", key="k")
        async def report() -> str:
            return "result"

        assert [await report(), await report()] == ["result", None]  # type: ignore[misc]

    @pytest.mark.parametrize("key", [object(), "", "a\nb", "x" * 201, object])
    def test_a_key_that_is_no_name_is_refused(self, key: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            once("report", key=key).run(fail)


class TestBlocks:
    def test_the_turn_is_true_once_and_has_a_token(self, any_backend: Backend) -> None:
        with once("report", key="k") as turn:
            assert turn
            turn.check()
            assert turn.token > 0
            assert not turn.lost
        with once("report", key="k") as turn:
            assert not turn
            assert not turn.lost
            with pytest.raises(ValueError, match="skipped"):
                turn.check()

    async def test_async(self, any_backend: Backend) -> None:
        turns = []
        for _ in range(2):
            async with once("report", key="k") as turn:
                turns.append(bool(turn))
        assert turns == [True, False]
        assert await once("report", key="k").adone()
        assert await once("report", key="k").aforget()
        assert await once("report", key="k").arun(asyncio.sleep, 0, "result") == "result"

    def test_one_object_in_many_threads(self, any_backend: Backend, in_thread: InThread) -> None:
        keys = iter(range(16))
        mutex = threading.Lock()

        def key() -> int:
            with mutex:
                return next(keys) // 2

        report = once("report", key=key, timeout=PATIENCE)
        jobs = [in_thread(report.run, lambda: 1) for _ in range(16)]
        assert sum(job.result(PATIENCE) or 0 for job in jobs) == 8

    def test_a_lock_lost_meanwhile_leaves_no_mark_and_is_told(self, any_backend: Backend, peer: str) -> None:
        report = once("report", ttl=1)
        with pytest.raises(LockLost):  # noqa: PT012
            with report as turn:
                assert turn.held is not None
                assert break_lock("report", kind="once")
                assert turn.held.lost.wait(PATIENCE)
                assert turn.lost
        assert once("report", using=peer).run(lambda: "result") == "result"

    async def test_an_async_body_is_cancelled_when_the_lock_is_lost(self, any_backend: Backend) -> None:
        with pytest.raises(LockLost):  # noqa: PT012
            async with once("report", ttl=1):
                await asyncio.to_thread(break_lock, "report", kind="once")
                await asyncio.sleep(PATIENCE)
                pytest.fail("not cancelled")
        assert not await once("report").adone()


class TestTransactions:
    """What a body did in a transaction counts when the transaction commits."""

    def test_the_mark_comes_with_the_commit(self, any_backend: Backend, peer: str, transactional_db: None) -> None:
        other = once("report", using=peer, timeout=0, otherwise="raise")
        with transaction.atomic():
            once("report").run(Order.objects.create, name="a")
            with pytest.raises(LockTimeout):
                other.run(fail)
        assert other.run(fail) is None

    def test_a_rollback_leaves_no_mark(self, any_backend: Backend, peer: str, transactional_db: None) -> None:
        with suppress(OSError), transaction.atomic():
            once("report").run(Order.objects.create, name="a")
            fail()
        assert once("report", using=peer, timeout=PATIENCE).run(lambda: "result") == "result"

    def test_a_savepoint_rolled_back_leaves_no_mark(
        self, any_backend: Backend, peer: str, transactional_db: None
    ) -> None:
        with transaction.atomic():
            with suppress(OSError), transaction.atomic():
                once("report").run(Order.objects.create, name="a")
                fail()
        assert once("report", using=peer, timeout=PATIENCE).run(lambda: "result") == "result"

    def test_within_the_transaction_it_runs_once_too(self, any_backend: Backend, transactional_db: None) -> None:
        ran: list[int] = []
        with transaction.atomic():
            for number in range(3):
                once("report").run(ran.append, number)
        assert ran == [0]
        assert once("report").done()

    def test_within_the_transaction_what_a_savepoint_undid_may_be_done_again(
        self, any_backend: Backend, transactional_db: None
    ) -> None:
        with transaction.atomic():
            with suppress(OSError), transaction.atomic():
                once("report").run(Order.objects.create, name="a")
                fail()
            assert once("report").run(Order.objects.create, name="a")
        assert once("report").done()
        assert Order.objects.count() == 1

    def test_within_the_transaction_a_failure_may_be_tried_again(
        self, any_backend: Backend, transactional_db: None
    ) -> None:
        with transaction.atomic():
            with pytest.raises(OSError, match="out of paper"):
                once("report").run(fail)
            assert once("report").run(lambda: "result") == "result"
        assert once("report").done()
