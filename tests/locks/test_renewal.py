"""Leases are kept by one thread, in one batch, whatever else the process does; a release is the end of it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import redis

from dref_django import LockLost, LockTimeout, lock
from dref_django.backends import Backend
from dref_django.held import MARGIN, Held
from dref_django.inspection import lock_info
from dref_django.keeper import RENEW_BATCH, RENEWALS, keeper_of
from dref_django.protocol import Renew
from tests.locks.scripted import ScriptedBackend
from tests.processes import wait_until
from tests.servers import HasUrl

pytestmark = pytest.mark.alone


def until_renewed(held: Held, times: int = 1) -> None:
    for _ in range(times):
        before = held.deadline()
        wait_until(lambda: held.deadline() > before, "a renewal", 10)  # noqa: B023


@pytest.mark.usefixtures("backend")
class TestKept:
    def test_lock_outlives_its_lease_while_the_block_runs(self) -> None:
        with lock("a", ttl=1) as held:
            until_renewed(held, 4)
            held.check()
            with pytest.raises(LockTimeout):
                lock("a", timeout=0).acquire()

    async def test_blocked_event_loop_keeps_its_lock_for_three_leases(self) -> None:
        async with lock("a", ttl=1) as held:
            time.sleep(3)  # noqa: ASYNC251 - what a view that should not do so does
            held.check()
            await asyncio.sleep(0)
        await lock("a", timeout=0).aacquire()

    def test_busy_python_code_keeps_its_lock(self) -> None:
        with lock("a", ttl=1) as held:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                pass
            held.check()


class TestGil:
    def test_c_call_that_holds_the_gil_for_half_a_lease(self, redis_backend: Backend) -> None:
        """At the worst moment: it begins when the renewal is about to."""
        number = 3**200_000
        while (took := self.square(number)) < 0.5:
            number **= 2
        for _ in range(5):  # until the machine lets the call take as long as it did
            guard = lock("a", ttl=2.1 * took)
            held = guard.acquire()
            until = held.ttl * (1 - MARGIN - 1 / RENEWALS)
            wait_until(lambda: held.remaining() < until + 0.05, "the renewal to come near", 20)  # noqa: B023
            try:
                if self.square(number) < 0.55 * held.ttl:
                    held.check()
                    until_renewed(held)
                    return
            finally:
                with contextlib.suppress(LockLost):  # after a longer call
                    guard.release(held)
            took *= 1.2
        pytest.fail("the calls took too different times")

    @staticmethod
    def square(number: int) -> float:
        began = time.monotonic()
        assert number * number
        return time.monotonic() - began


class TestBatches:
    def test_thousand_locks_are_renewed_by_two_commands(self, redis_backend: Backend, redis_server: HasUrl) -> None:
        with contextlib.ExitStack() as stack, redis.Redis.from_url(redis_server.url) as client:
            helds = [stack.enter_context(lock(f"a{number}", ttl=4)) for number in range(1000)]
            until_renewed(helds[0], 3)  # from here on all are in step, however long it took to take them
            before = scripts_run(client)
            until_renewed(helds[0], 2)
            wait_until(lambda: all(held.remaining() > 2.2 for held in helds), "the rest of the batch", 2)
            assert scripts_run(client) - before < 2 * (2 * 1000 / RENEW_BATCH) + 2  # and the listener
            for held in helds:
                held.check()

    def test_locks_taken_at_different_times_get_into_step(self, scripted: ScriptedBackend) -> None:
        with contextlib.ExitStack() as stack:
            helds = []
            for number in range(5):
                helds.append(stack.enter_context(lock(f"a{number}", ttl=2)))
                wait_until(lambda: helds[-1].remaining() < 1.75, "a twentieth of a second", 5)
            until_renewed(helds[0], 2)
            scripted.calls.clear()
            until_renewed(helds[0], 3)
            batches = [len(commands) for commands in scripted.calls if isinstance(commands[0], Renew)]
            assert batches
            assert set(batches) == {5}


@pytest.mark.usefixtures("backend")
class TestReleaseIsTheEnd:
    def test_no_expiry_rises_after_the_release(self, backend: Backend) -> None:
        """The renewal thread may be about to renew what is being released."""
        keeper = keeper_of(backend)
        for _ in range(50):
            with lock("a", timeout=5) as held:
                keeper.look_again(held.lease, held.owner)  # renews now
            found = lock_info("a")
            assert found is None or not found.held


def scripts_run(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))
