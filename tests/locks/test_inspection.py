"""What operators see of locks, and breaking one."""

from __future__ import annotations

import os
import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest

from dref_django import InvalidName, LockLost, LockTimeout, lock
from dref_django.backends import Backend
from dref_django.inspection import abreak_lock, alock_info, alocks, break_lock, lock_info, locks
from dref_django.keeper import keeper_of
from tests.locks.conftest import InThread
from tests.locks.test_entering import until_awaited

pytestmark = pytest.mark.usefixtures("backend")


class TestInfo:
    def test_holder_and_lease(self) -> None:
        with lock("a", ttl=30) as held:
            found = lock_info("a")
        assert found is not None
        assert (found.kind, found.name, found.held, found.token) == ("lock", "a", True, held.token)
        assert (found.host, found.pid, found.thread) == (
            socket.gethostname(),
            os.getpid(),
            threading.current_thread().name,
        )
        assert 0 < found.left <= 30
        assert abs(datetime.now(UTC) - found.since) < timedelta(seconds=60)
        assert found.waiters == 0

    def test_waiters_are_counted(self, in_thread: InThread) -> None:
        with lock("a"):
            waiting = in_thread(lock("a").acquire)
            until_awaited("a")
        lock("a").release(waiting.result(10))

    def test_free_lock_is_none(self) -> None:
        assert lock_info("never") is None
        with lock("a"):
            pass
        assert lock_info("a") is None

    def test_kept_by_at_least_is_held_by_nobody(self) -> None:
        with lock("a", at_least=30):
            pass
        found = lock_info("a")
        assert found is not None
        assert not found.held
        assert found.host == ""
        assert found.left > 25

    async def test_async_twins(self) -> None:
        held = await lock("b").aacquire()
        async with lock("a"):
            found = await alock_info("a")
            assert found is not None
            assert [each.name async for each in alocks()] == ["a", "b"]
        assert await abreak_lock("b", token=held.token)
        assert await alock_info("b") is None

    def test_bad_names_are_refused(self) -> None:
        for function in (lock_info, break_lock):
            with pytest.raises(InvalidName):
                function("")


class TestList:
    def test_locks_by_prefix_in_order(self) -> None:
        with lock("shop/b", "shop/a", "shop"), lock("other"):
            assert [each.name for each in locks()] == ["other", "shop", "shop/a", "shop/b"]
            assert [each.name for each in locks("shop/")] == ["shop/a", "shop/b"]
            assert [each.kind for each in locks(kind="")] == ["lock"] * 4
            assert list(locks(kind="election")) == []
        assert list(locks()) == []

    def test_more_than_a_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dref_django.inspection.PAGE", 3)
        names = [f"a{number}" for number in range(10)]
        with lock(*names):
            assert [each.name for each in locks()] == names


class TestBreak:
    def test_takes_it_from_its_holder(self) -> None:
        guard = lock("a")
        held = guard.acquire()
        assert break_lock("a")
        with lock("a", timeout=0) as next_one:
            assert next_one.token > held.token
            with pytest.raises(LockLost):
                guard.release(held)

    def test_of_another_token_does_nothing(self) -> None:
        with lock("a") as held:
            assert not break_lock("a", token=held.token - 1)
            held.check()

    def test_of_a_free_lock_is_false(self) -> None:
        assert not break_lock("a")

    def test_wakes_the_next_waiter(self, in_thread: InThread) -> None:
        guard = lock("a")
        guard.acquire()
        waiting = in_thread(guard.acquire)
        until_awaited("a")
        assert break_lock("a")
        waiting.result(3).check()

    def test_holder_that_listens_learns_it_at_once(self, in_thread: InThread, backend: Backend) -> None:
        """Once it has renewed, a process listens for breaks; the next renewal of this lease is 10 s away."""
        held = lock("a", ttl=30).acquire()
        keeper_of(backend)._listen_for_breaks()
        with lock("b"), pytest.raises(LockTimeout):  # and it has waited once: so its listener is up
            lock("b", timeout=0.5).acquire()
        assert break_lock("a")
        assert held.lost.wait(3)
