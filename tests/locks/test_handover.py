"""From holder to holder: nobody polls, first come first served, and who does not come is passed over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
import redis

from dref_django import LockTimeout, backends, lock
from dref_django.backends import Backend
from dref_django.flows import Flow, Pause
from dref_django.inspection import lock_info
from dref_django.leasing import RECHECK, Grant, _until_recheck, take
from dref_django.protocol import Acquire, Command, Release, Reply, Status
from dref_django.streams import get_hub
from tests.locks.conftest import InThread
from tests.locks.scripted import ScriptedBackend
from tests.locks.test_entering import until_awaited
from tests.processes import wait_until
from tests.servers import HasUrl

SECOND = 1_000_000


def ask(lease: str, owner: str, wait: float = 0) -> Status:
    """What a waiter of another process would say and hear."""
    acquire = Acquire(lease, owner, 30 * SECOND, int(wait * SECOND))
    return backends.get_backend().execute([acquire])[0].status


@pytest.mark.usefixtures("backend")
class TestHandOver:
    def test_release_wakes_the_waiter(self, in_thread: InThread) -> None:
        with lock("a"):
            waiting = in_thread(lock("a").acquire)
            until_awaited("a")
            before = time.monotonic()
        held = waiting.result(10)
        assert time.monotonic() - before < 3  # a re-check would take five
        lock("a").release(held)

    async def test_release_wakes_the_waiting_task(self) -> None:
        async with lock("a"):
            waiting = asyncio.create_task(lock("a").aacquire())
            await asyncio.to_thread(until_awaited, "a")
            before = time.monotonic()
        await lock("a").arelease(await waiting)
        assert time.monotonic() - before < 3

    def test_waiters_are_served_in_the_order_of_their_coming(self, in_thread: InThread, backend: Backend) -> None:
        order: list[int] = []

        def enter(number: int) -> None:
            with lock("a"):
                order.append(number)

        with lock("a"):
            waiting = []
            for number in range(10):
                waiting.append(in_thread(enter, number))
                until_awaited("a", number + 1)
        for done in waiting:
            done.result(20)
        assert sorted(order) == list(range(10))
        if backend.fifo_waiters:
            assert order == list(range(10))

    def test_newcomer_does_not_overtake(self, in_thread: InThread) -> None:
        with lock("a"):
            assert ask("lock:a", "somewhere/1", wait=10) is Status.HELD
        with pytest.raises(LockTimeout):
            lock("a", timeout=0).acquire()
        assert ask("lock:a", "somewhere/1") is Status.APPLIED

    def test_waiters_that_died_are_passed_over(self) -> None:
        with lock("a"):
            for number in range(3):
                ask("lock:a", f"dead/{number}", wait=0.05 * (number + 1))
            ask("lock:a", "dead/just woken", wait=60)
            before = time.monotonic()
        with lock("a", timeout=20):  # the reservation of the last one: a second
            assert time.monotonic() - before < 3

    def test_holder_that_died_is_followed_when_its_lease_is_over(self) -> None:
        dead = Acquire("lock:a", "dead/1", SECOND)
        backends.get_backend().execute([dead])
        before = time.monotonic()
        with lock("a", timeout=10):
            assert 0.9 < time.monotonic() - before < 2.5


class TestEndOfTheTime:
    """The steps of a waiter, done by hand."""

    def until_asleep(self, backend: Backend) -> Flow[Grant]:
        flow = take(backend, "lock:a", ttl=30, timeout=3)
        step = next(flow)
        while isinstance(step, Acquire):
            step = flow.send(backend.execute([step])[0])
        assert isinstance(step, Pause)
        return flow

    def test_who_was_woken_in_time_is_served_however_late_it_runs(
        self, scripted: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr("dref_django.leasing.clock", lambda: now[0])
        with lock("a"):
            flow = self.until_asleep(scripted)
        now[0] = 4.0
        step = flow.send(True)
        assert isinstance(step, Acquire)
        with pytest.raises(StopIteration) as stop:
            flow.send(scripted.execute([step])[0])
        assert isinstance(stop.value.value, Grant)

    def test_who_was_not_woken_leaves_the_queue_and_times_out(
        self, scripted: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr("dref_django.leasing.clock", lambda: now[0])
        with lock("a"):
            flow = self.until_asleep(scripted)
            now[0] = 4.0
            step = flow.send(False)
            assert isinstance(step, Release)
            with pytest.raises(LockTimeout):
                flow.send(scripted.execute([step])[0])
            found = lock_info("a")
            assert found is not None
            assert found.waiters == 0


class TestLostWakeUp:
    def test_delays_at_most_until_the_next_look(
        self, in_thread: InThread, scripted: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server says nothing to anybody; the waiter looks again after min(remaining lease, 5 s)."""
        monkeypatch.setattr("dref_django.backends.memory.MemoryFeed.publish", lambda self, events: None)
        held = lock("a", ttl=1).acquire()
        waiting = in_thread(lock("a").acquire)
        until_awaited("a")
        before = time.monotonic()
        lock("a").release(held)
        waiting.result(10)
        assert time.monotonic() - before < 4

    def test_of_a_long_lease_delays_five_seconds(self, scripted: ScriptedBackend) -> None:
        assert _until_recheck(Reply(Status.HELD, left=3600 * SECOND), None) == RECHECK == 5

    def test_released_before_the_process_listens_is_not_missed(
        self, in_thread: InThread, scripted: ScriptedBackend
    ) -> None:
        """The first wait of a process queues before its listener is up; what was said meanwhile must not cost 5 s."""
        held = lock("a").acquire()
        released: list[float] = []

        def release_as_soon_as_queued(commands: Sequence[Command]) -> None:
            queued = isinstance(commands[0], Acquire) and commands[0].wait > 0
            if queued and not released:
                released.append(time.monotonic())
                scripted.execute([Release(held.lease, held.owner, held.token)])

        scripted.after_send = release_as_soon_as_queued
        waiting = in_thread(lock("a").acquire)
        waiting.result(10)
        assert time.monotonic() - released[0] < 4


class TestNobodyPolls:
    def test_waiters_say_nothing_while_they_wait(
        self, in_thread: InThread, redis_backend: Backend, redis_server: HasUrl
    ) -> None:
        def enter() -> None:
            with lock("a", timeout=30):
                pass

        assert get_hub(redis_backend).expect_wake("nobody/1").wait(10)  # the listener is up: then all look once more
        with redis.Redis.from_url(redis_server.url) as client, lock("a", ttl=30):
            waiting = [in_thread(enter) for _ in range(5)]
            until_awaited("a", 5)
            before = self.scripts_run(client)
            time.sleep(1.5)  # the time that is measured, not one that is waited for
            assert self.scripts_run(client) == before
        for done in waiting:
            done.result(30)

    @staticmethod
    def scripts_run(client: redis.Redis) -> int:
        stats = client.info("commandstats")
        assert isinstance(stats, dict)
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval", "fcall"))

    def test_one_hand_over_is_one_command_each(self, in_thread: InThread, scripted: ScriptedBackend) -> None:
        with lock("a"):
            waiting = in_thread(lock("a").acquire)
            until_awaited("a")
            scripted.calls.clear()
        held = waiting.result(10)
        assert scripted.sent(Release) == 1
        assert scripted.sent(Acquire) == 1
        lock("a").release(held)


class TestManyWaiters:
    async def test_five_hundred_tasks_are_served_in_turn(self, redis_backend: Backend) -> None:
        served: list[int] = []

        async def enter() -> None:
            async with lock("a", timeout=60) as held:
                served.append(held.token)

        guard = lock("a")
        held = await guard.aacquire()
        tasks = [asyncio.create_task(enter()) for _ in range(500)]
        await asyncio.to_thread(until_awaited, "a", 500)
        began = time.monotonic()
        await guard.arelease(held)
        await asyncio.gather(*tasks)
        assert served == sorted(set(served))
        assert len(served) == 500
        assert time.monotonic() - began < 30

    def test_threads_of_one_process_are_kept_apart(self, in_thread: InThread, backend: Backend) -> None:
        counter = {"value": 0}

        def increment() -> None:
            for _ in range(5):
                with lock("a", timeout=50):
                    value = counter["value"]
                    time.sleep(0)
                    counter["value"] = value + 1

        for done in [in_thread(increment) for _ in range(10)]:
            done.result(50)
        assert counter["value"] == 50
        wait_until(lambda: lock_info("a") is None, "the lock to be free", 5)
