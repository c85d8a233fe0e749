"""How a loss is told: the event, the callback, check(), leaving the block, and the cancelled body."""

# ruff: noqa: PT012 - what raises is the end of the block

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence

import pytest
from django.test import override_settings

from dref_django import LockLost, backends, lock
from dref_django.backends import Backend
from dref_django.backends.memory import MemoryBackend
from dref_django.held import Held
from dref_django.inspection import abreak_lock, break_lock
from dref_django.keeper import clock, keeper_of
from dref_django.leasing import Grant
from dref_django.protocol import Acquire, Command, Inspect, Renew, Status
from tests.locks.conftest import InThread
from tests.locks.scripted import ScriptedBackend
from tests.locks.test_entering import is_free, together
from tests.processes import wait_until


def assert_nothing_is_left_of_the_cancellation() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def lose(name: str) -> None:
    """This process's renewal thread finds now that the lock is lost."""
    owner = _owner_of(name)
    for held in keeper_of(backends.get_backend())._held:
        if held.owner == owner:
            held.mark_lost("for this test")
            return
    raise AssertionError(f"{name!r} is not held here")


def _owner_of(name: str) -> str:
    (reply,) = backends.get_backend().execute([Inspect(f"lock:{name}")])
    assert reply.lease is not None
    return reply.lease.owner


@pytest.mark.usefixtures("backend")
class TestFourWays:
    def test_event_and_check(self) -> None:
        guard = lock("a", ttl=1)
        held = guard.acquire()
        break_lock("a")
        assert held.lost.wait(5)
        assert held.lost
        assert held.remaining() == 0
        with pytest.raises(LockLost, match=rf"lock 'a' \(token {held.token}\) is not held any more: .*broken"):
            held.check()

    async def test_event_is_awaited(self) -> None:
        held = await lock("a", ttl=1).aacquire()
        assert not await held.lost.await_(0.01)
        await abreak_lock("a")
        assert await held.lost.await_(5)

    def test_callback_is_called_once_on_a_thread_of_its_own(self) -> None:
        called: list[str] = []
        told = threading.Event()

        def on_lost() -> None:
            called.append(threading.current_thread().name)
            told.set()

        guard = lock("a", ttl=1, on_lost=on_lost)
        held = guard.acquire()
        break_lock("a")
        assert told.wait(5)
        with pytest.raises(LockLost):
            guard.release(held)
        assert called == ["dref-callbacks"]

    def test_callback_of_several_names_is_called_once(self) -> None:
        called: list[int] = []
        with pytest.raises(LockLost), lock("a", "b", ttl=1, on_lost=lambda: called.append(1)) as held:
            break_lock("a")
            break_lock("b")
            wait_until(lambda: all(each.is_lost() for each in together(held).members), "both losses", 5)
        wait_until(lambda: bool(called), "the callback", 5)
        assert called == [1]

    def test_callback_is_not_called_for_a_release(self) -> None:
        called: list[int] = []
        with lock("a", ttl=1, on_lost=lambda: called.append(1)):
            pass
        with pytest.raises(LockLost), lock("a", ttl=1, on_lost=lambda: called.append(2)) as held:
            break_lock("a")
            held.lost.wait(5)
        wait_until(lambda: bool(called), "the second callback", 5)
        assert called == [2]

    def test_callback_that_raises_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        def on_lost() -> None:
            raise ZeroDivisionError

        guard = lock("a", ttl=1, on_lost=on_lost)
        guard.acquire()
        break_lock("a")
        wait_until(lambda: "a callback raised" in caplog.text, "the log line", 5)

    def test_leaving_the_block_raises(self) -> None:
        with pytest.raises(LockLost), lock("a", ttl=1) as held:
            break_lock("a")
            held.lost.wait(5)
        assert is_free("a")

    def test_leaving_tells_a_loss_that_no_renewal_has_found_yet(self) -> None:
        told = threading.Event()
        with pytest.raises(LockLost, match="broken"), lock("a", ttl=30, on_lost=told.set) as held:
            break_lock("a")
        assert told.wait(5)
        assert held.lost

    def test_body_that_raises_gets_a_note(self) -> None:
        with pytest.raises(ZeroDivisionError) as caught, lock("a", ttl=1) as held:
            break_lock("a")
            held.lost.wait(5)
            raise ZeroDivisionError
        assert any("lock 'a'" in note and "not held any more" in note for note in caught.value.__notes__)

    async def test_body_is_cancelled_and_the_block_raises_lock_lost(self) -> None:
        with pytest.raises(LockLost) as caught:
            async with lock("a", ttl=1):
                await abreak_lock("a")
                await asyncio.Event().wait()
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert_nothing_is_left_of_the_cancellation()

    def test_loss_is_logged_with_name_and_token(self, caplog: pytest.LogCaptureFixture) -> None:
        held = lock("a", ttl=1).acquire()
        with caplog.at_level(logging.WARNING, "dref_django"):
            break_lock("a")
            held.lost.wait(5)
            wait_until(lambda: "lock 'a'" in caplog.text, "the log line", 5)
        assert str(held.token) in caplog.text

    def test_the_next_holder_is_not_touched(self, in_thread: InThread) -> None:
        lost = lock("a", ttl=1).acquire()
        waiting = in_thread(lock("a", ttl=1).acquire)
        break_lock("a", token=lost.token)
        held = waiting.result(10)
        lost.lost.wait(5)
        assert held.token > lost.token
        held.check()


@pytest.mark.usefixtures("scripted")
class TestCancelledBody:
    async def test_foreign_cancellation_wins(self) -> None:
        entered = asyncio.Event()
        held: list[Held] = []

        async def body() -> None:
            async with lock("a", ttl=1) as mine:
                held.append(mine)
                entered.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0)

        task = asyncio.create_task(body())
        await entered.wait()
        held[0].mark_lost("for this test")  # both, before the task runs again
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    async def test_foreign_cancellation_before_the_loss_wins(self) -> None:
        entered = asyncio.Event()

        async def body() -> None:
            async with lock("a", ttl=1):
                entered.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    lose("a")

        task = asyncio.create_task(body())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_timeout_around_the_block_wins_when_both_fire(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit, lock("a", ttl=1) as held:
                limit.reschedule(asyncio.get_running_loop().time())
                held.mark_lost("for this test")
                await asyncio.Event().wait()
        assert_nothing_is_left_of_the_cancellation()

    async def test_timeout_inside_the_block_passes_a_loss_on(self) -> None:
        with pytest.raises(LockLost):
            async with lock("a", ttl=1):
                async with asyncio.timeout(30):
                    lose("a")
                    await asyncio.Event().wait()
        assert_nothing_is_left_of_the_cancellation()

    async def test_timeout_inside_the_block_that_fires_is_the_bodys_own(self) -> None:
        async with lock("a", ttl=1) as held:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            held.check()

    async def test_timeout_inside_and_loss_together_are_a_loss(self) -> None:
        with pytest.raises(LockLost):
            async with lock("a", ttl=1) as held, asyncio.timeout(None) as limit:
                held.mark_lost("for this test")
                limit.reschedule(asyncio.get_running_loop().time())
                await asyncio.Event().wait()
        assert_nothing_is_left_of_the_cancellation()

    async def test_task_group_inside_the_block_is_cancelled_with_it(self) -> None:
        ended: list[str] = []

        async def child() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("child")
                raise

        with pytest.raises(LockLost):
            async with lock("a", ttl=1), asyncio.TaskGroup() as group:
                group.create_task(child())
                group.create_task(child())
                lose("a")
        assert ended == ["child", "child"]
        assert_nothing_is_left_of_the_cancellation()

    async def test_lock_in_a_task_of_a_group_raises_lock_lost_into_the_group(self) -> None:
        async def child() -> None:
            async with lock("a", ttl=1):
                lose("a")
                await asyncio.Event().wait()

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        assert caught.group_contains(LockLost)

    async def test_nested_locks_each_tell_their_own_loss(self) -> None:
        outer = lock("a", ttl=1)
        async with outer as held:
            with pytest.raises(LockLost, match="'b'"):
                async with lock("b", ttl=1):
                    lose("b")
                    await asyncio.Event().wait()
            held.check()
        assert_nothing_is_left_of_the_cancellation()

    async def test_loss_of_the_outer_lock_passes_through_the_inner(self) -> None:
        with pytest.raises(LockLost, match="'a'"):
            async with lock("a", ttl=1):
                async with lock("b", ttl=1):
                    lose("a")
                    await asyncio.Event().wait()
        assert_nothing_is_left_of_the_cancellation()
        await lock("b", timeout=5).aacquire()

    async def test_body_that_swallows_the_cancellation_still_ends_in_lock_lost(self) -> None:
        with pytest.raises(LockLost):
            async with lock("a", ttl=1):
                lose("a")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        assert_nothing_is_left_of_the_cancellation()

    async def test_body_that_raises_from_the_cancellation_gets_a_note(self) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            async with lock("a", ttl=1):
                lose("a")
                try:
                    await asyncio.Event().wait()
                finally:
                    raise ZeroDivisionError
        assert "not held any more" in caught.value.__notes__[0]
        assert_nothing_is_left_of_the_cancellation()

    async def test_body_that_has_ended_is_not_cancelled(self) -> None:
        guard = lock("a", ttl=1)
        async with guard as held:
            pass
        held.mark_lost("too late to matter")
        await asyncio.sleep(0)
        assert_nothing_is_left_of_the_cancellation()

    async def test_loss_before_the_body_began_cancels_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the grant and the first line of the body another thread may already have noticed the loss."""
        take = type(lock("a"))._take

        def taken_and_lost(self, *args):  # type: ignore[no-untyped-def]
            helds = yield from take(self, *args)
            helds[0].mark_lost("for this test")
            return helds

        monkeypatch.setattr("dref_django.locks.Lock._take", taken_and_lost)
        with pytest.raises(LockLost):
            async with lock("a", ttl=1):
                await asyncio.Event().wait()


class TestTrustWindow:
    """A lease counts as lost when it can no longer be proven, whatever the server would say."""

    def test_unanswered_renewals_lose_the_lock_before_the_server_frees_it(self, scripted: ScriptedBackend) -> None:
        scripted.lose_requests = lambda commands: isinstance(commands[0], Renew)
        before = time.monotonic()
        held = lock("a", ttl=1).acquire()
        assert held.lost.wait(5)
        lost = time.monotonic()
        other = lock("a", timeout=5).acquire()
        free = time.monotonic()
        assert before + 0.89 <= held.deadline() <= lost
        assert free - held.deadline() >= 0.095
        assert other.token > held.token

    def test_renewals_are_tried_again_while_there_is_time(self, scripted: ScriptedBackend) -> None:
        failures = [True, True]
        scripted.lose_requests = lambda commands: isinstance(commands[0], Renew) and bool(failures) and failures.pop()
        with lock("a", ttl=1) as held:
            wait_until(lambda: scripted.sent(Renew) >= 6, "renewals", 10)
            held.check()

    def test_silent_connection_leaves_time_for_another_try(self, scripted: ScriptedBackend) -> None:
        """One renewal whose answer never comes must not use up the whole window."""
        silent = [threading.Event()]
        scripted.delays = lambda commands: silent.pop() if isinstance(commands[0], Renew) and silent else None
        with lock("a", ttl=1) as held:
            wait_until(lambda: scripted.sent(Renew) >= 4, "renewals", 10)
            held.check()

    def test_silence_for_a_long_lease_does_not_starve_a_short_one(self, scripted: ScriptedBackend) -> None:
        silent = [threading.Event()]

        def first_with_long(commands: Sequence[Command]) -> threading.Event | None:
            long = any(isinstance(command, Renew) and command.name == "lock:long" for command in commands)
            return silent.pop() if long and silent else None

        scripted.delays = first_with_long
        with lock("long", ttl=30), lock("short", ttl=1) as short:
            keeper_of(scripted).look_again("lock:long", _owner_of("long"))
            wait_until(lambda: not silent, "the silence", 10)
            before = scripted.sent(Renew)
            wait_until(lambda: scripted.sent(Renew) >= before + 4, "renewals", 10)
            short.check()

    def test_late_answer_does_not_bring_a_lost_lock_back(self, scripted: ScriptedBackend) -> None:
        answer = threading.Event()
        scripted.delays = lambda commands: answer if isinstance(commands[0], Renew) else None
        held = lock("a", ttl=1).acquire()
        assert held.lost.wait(5)
        answer.set()
        wait_until(lambda: scripted.sent(Renew) >= 2, "renewals", 5)
        assert held.lost
        assert held.remaining() == 0

    def test_renewal_that_comes_after_the_deadline_is_too_late_though_nobody_has_looked(
        self, scripted: ScriptedBackend
    ) -> None:
        held = Held(scripted, "a", Grant("lock:a", "me/1", 1, clock() - 1), 1)
        assert not held.renewed(clock())
        assert held.lost
        assert held.remaining() == 0

    def test_check_knows_without_the_renewal_thread(self, scripted: ScriptedBackend) -> None:
        """As after SIGSTOP: the holder asks before its renewal thread had a chance to find out."""
        held = Held(scripted, "a", Grant("lock:a", "me/1", 1, clock() - 1), 1)
        with pytest.raises(LockLost, match=r"could not be renewed within its lease of 1 s"):
            held.check()
        assert held.lost

    def test_grant_that_took_longer_than_the_lease_is_asked_for_again(self, scripted: ScriptedBackend) -> None:
        late = threading.Event()
        pending = [late]
        scripted.delays = lambda commands: pending.pop() if isinstance(commands[0], Acquire) and pending else None
        threading.Timer(1.1, late.set).start()
        with lock("a", ttl=1, timeout=10) as held:
            held.check()
            assert held.remaining() > 0.5
        assert scripted.sent(Acquire) >= 2


@pytest.mark.usefixtures("scripted")
class TestDiscardedBackEnd:
    def test_lock_of_a_discarded_back_end_is_lost_loudly_and_given_back(self) -> None:
        told = threading.Event()
        before = backends.get_backend()
        assert isinstance(before, MemoryBackend)
        with pytest.raises(LockLost, match="settings"):
            with lock("a", on_lost=told.set) as held:
                with override_settings(DREF_BACKEND="memory"):
                    assert held.lost
                    assert told.wait(5)
                    with lock("a", timeout=0):  # a lock of another world
                        pass
        _assert_free(before)


def _assert_free(backend: Backend) -> None:
    assert backend.execute([Inspect("lock:a")])[0].status is Status.NOT_FOUND
