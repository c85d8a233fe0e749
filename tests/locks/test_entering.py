"""Entering and leaving: one object, many threads and tasks, handles, several names, waiting and its end."""

# ruff: noqa: PT012 - what raises is often the end of a block

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator
from typing import cast

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from pytest_django.fixtures import Settings

from dref_django import DRefError, InvalidName, Lock, LockLost, LockTimeout, lock
from dref_django.entries import HeldAll
from dref_django.held import Held
from dref_django.inspection import break_lock, lock_info
from tests.locks.conftest import InThread
from tests.processes import wait_until

pytestmark = pytest.mark.usefixtures("backend")


def is_free(name: str) -> bool:
    found = lock_info(name)
    return found is None or not (found.held or found.waiters)


def together(held: Held) -> HeldAll:
    return cast("HeldAll", held)


def until_awaited(name: str, waiters: int = 1) -> None:
    """Returns when so many wait for the lock."""

    def awaited() -> bool:
        found = lock_info(name)
        return found is not None and found.waiters == waiters

    wait_until(awaited, f"{waiters} waiters for {name!r}", 10)


class TestOneEntry:
    def test_block_holds_lock_and_leaves_it_free(self) -> None:
        with lock("a") as held:
            assert held.remaining() > 0
            assert not held.lost
            held.check()
            with pytest.raises(LockTimeout):
                lock("a", timeout=0).acquire()
        assert is_free("a")
        assert held.remaining() == 0
        with pytest.raises(LockLost, match="released"):
            held.check()
        assert not held.lost  # released in good order is not lost

    async def test_async_block_holds_lock_and_leaves_it_free(self) -> None:
        async with lock("a") as held:
            assert held.remaining() > 0
            with pytest.raises(LockTimeout):
                await lock("a", timeout=0).aacquire()
        async with lock("a", timeout=0) as again:
            assert again.token > held.token

    def test_block_that_raises_leaves_it_free(self) -> None:
        with pytest.raises(ZeroDivisionError), lock("a"):
            raise ZeroDivisionError
        assert is_free("a")

    def test_names_of_any_script_are_locks_of_their_own(self) -> None:
        names = ["a", "A", "a ", "a/b", "{a}", "ä", "a*", "日本"]
        with contextlib.ExitStack() as stack:
            tokens = [stack.enter_context(lock(name, timeout=0)).token for name in names]
        assert len(tokens) == len(names)

    def test_tokens_rise_from_holder_to_holder(self) -> None:
        tokens = []
        for _ in range(20):
            with lock("a") as held:
                tokens.append(held.token)
        assert tokens == sorted(set(tokens))

    def test_at_least_keeps_it_taken_after_the_block(self) -> None:
        before = time.monotonic()
        with lock("a", at_least=2):
            pass
        assert time.monotonic() - before < 1.9
        with pytest.raises(LockTimeout):
            lock("a", timeout=0).acquire()
        lock("a", timeout=5).acquire()
        assert time.monotonic() - before >= 2

    def test_at_least_that_is_over_frees_it_at_once(self) -> None:
        with lock("a", ttl=1, at_least=0.01) as held:
            wait_until(lambda: time.monotonic() > 0 and held.ttl * 0.9 - held.remaining() > 0.01, "10 ms", 5)
        assert is_free("a")


class TestOneObjectForAll:
    def test_many_threads_enter_one_object_one_at_a_time(self, in_thread: InThread) -> None:
        shared, inside, most, tokens = lock("a"), [0], [0], []

        def enter() -> None:
            with shared as held:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                tokens.append(held.token)
                inside[0] -= 1

        for done in [in_thread(enter) for _ in range(40)]:
            done.result(30)
        assert most == [1]
        assert tokens == sorted(set(tokens))
        assert len(tokens) == 40

    async def test_many_tasks_enter_one_object_one_at_a_time(self) -> None:
        shared, inside, tokens = lock("a"), [0], []

        async def enter() -> None:
            async with shared as held:
                inside[0] += 1
                await asyncio.sleep(0)
                assert inside[0] == 1
                tokens.append(held.token)
                inside[0] -= 1

        await asyncio.gather(*(enter() for _ in range(40)))
        assert tokens == sorted(set(tokens))

    async def test_threads_and_tasks_share_one_object(self) -> None:
        shared, inside = lock("a"), [0]

        def enter() -> None:
            with shared:
                inside[0] += 1
                assert inside[0] == 1
                inside[0] -= 1

        async def aenter() -> None:
            async with shared:
                inside[0] += 1
                await asyncio.sleep(0)
                assert inside[0] == 1
                inside[0] -= 1

        await asyncio.gather(*(aenter() for _ in range(10)), *(asyncio.to_thread(enter) for _ in range(10)))

    def test_each_entry_has_its_own_handle(self) -> None:
        shared = lock("a")
        with shared as first:
            pass
        with shared as second:
            assert first.remaining() == 0
            assert second.remaining() > 0
        assert first.token < second.token

    def test_generator_that_another_thread_closes_frees_the_lock(self, in_thread: InThread) -> None:
        def rows() -> Generator[int]:
            with lock("a"):
                yield 1

        generator = rows()
        assert in_thread(next, generator).result(10) == 1
        generator.close()
        assert is_free("a")

    async def test_async_generator_that_another_task_closes_frees_the_lock(self) -> None:
        async def rows() -> AsyncGenerator[int]:
            async with lock("a"):
                yield 1

        generator = rows()
        await asyncio.create_task(anext(generator))
        await generator.aclose()
        await lock("a", timeout=0).aacquire()

    def test_leaving_without_having_entered_says_what_to_use(self) -> None:
        with pytest.raises(RuntimeError, match="acquire"):
            lock("a").__exit__(None, None, None)


class TestHandles:
    def test_handle_passes_from_thread_to_thread(self, in_thread: InThread) -> None:
        guard = lock("a")
        held = in_thread(guard.acquire).result(10)
        held.check()
        guard.release(held)
        assert is_free("a")

    def test_release_twice_is_one_release(self) -> None:
        guard = lock("a")
        held = guard.acquire()
        guard.release(held)
        other = guard.acquire()
        guard.release(held)
        other.check()
        assert not is_free("a")
        guard.release(other)

    async def test_async_handles(self) -> None:
        guard = lock("a")
        held = await guard.aacquire()
        await guard.arelease(held)
        await guard.arelease(held)
        await guard.arelease(await guard.aacquire(timeout=0))

    def test_release_of_a_lock_that_was_broken_raises(self) -> None:
        guard = lock("a")
        held = guard.acquire()
        assert break_lock("a", token=held.token)
        with pytest.raises(LockLost):
            guard.release(held)

    def test_handle_of_a_late_owner_frees_nothing_of_the_next(self) -> None:
        guard = lock("a")
        late = guard.acquire()
        break_lock("a")
        with guard as held:
            with pytest.raises(LockLost):
                guard.release(late)
            held.check()
            with pytest.raises(LockTimeout):
                guard.acquire(timeout=0)


class TestReentrancy:
    def test_same_object_and_thread_enters_again(self) -> None:
        guard = lock("a", reentrant=True, timeout=0)
        with guard as outer:
            with guard as inner:
                assert inner is outer
            outer.check()
            assert not is_free("a")
        assert is_free("a")

    async def test_same_object_and_task_enters_again(self) -> None:
        guard = lock("a", reentrant=True, timeout=0)
        async with guard as outer, guard as inner:
            assert inner is outer
        async with guard:
            pass

    async def test_another_task_does_not(self) -> None:
        guard = lock("a", reentrant=True, timeout=0)
        async with guard:
            with pytest.raises(LockTimeout):
                await asyncio.create_task(guard.__aenter__())

    def test_another_thread_does_not(self, in_thread: InThread) -> None:
        guard = lock("a", reentrant=True, timeout=0)
        with guard, pytest.raises(LockTimeout):
            in_thread(guard.__enter__).result(10)

    def test_without_it_entering_again_times_out(self) -> None:
        guard = lock("a", timeout=0)
        with guard, pytest.raises(LockTimeout), guard:
            pass
        assert is_free("a")


class TestSeveralNames:
    def test_all_are_held_and_all_are_freed(self) -> None:
        with lock("b", "a", "b") as held:
            assert set(together(held).tokens) == {"a", "b"}
            assert held.remaining() > 0
            held.check()
            assert not is_free("a")
            assert not is_free("b")
        assert is_free("a")
        assert is_free("b")

    def test_one_that_is_taken_gives_all_back(self) -> None:
        with lock("b"):
            with pytest.raises(LockTimeout, match="'b'"), lock("a", "b", "c", timeout=0):
                pass
            wait_until(lambda: is_free("a"), "a to be given back", 5)
            assert is_free("c")

    def test_opposite_orders_do_not_deadlock(self, in_thread: InThread) -> None:
        def enter(*names: str) -> None:
            for _ in range(10):
                with lock(*names, timeout=20):
                    pass

        for done in [in_thread(enter, "a", "b"), in_thread(enter, "b", "a")]:
            done.result(40)

    async def test_async(self) -> None:
        async with lock("a", "b") as held:
            assert len(together(held).members) == 2
            with pytest.raises(LockTimeout):
                await lock("a", timeout=0).aacquire()
        async with lock("a", "b", timeout=0):
            pass

    def test_loss_of_one_is_loss_of_all(self) -> None:
        with pytest.raises(LockLost, match="'b'"), lock("a", "b", ttl=1) as held:
            break_lock("b")
            wait_until(lambda: bool(held.lost), "the loss", 5)
            assert held.remaining() == 0
            with pytest.raises(LockLost):
                held.check()
        assert is_free("a")

    def test_handles_are_for_one_name(self) -> None:
        with pytest.raises(ValueError, match="one name"):
            lock("a", "b").acquire()
        assert is_free("a")


class TestWaiting:
    def test_timeout_is_a_timeout_error_and_says_which_lock(self) -> None:
        with lock("a"):
            before = time.monotonic()
            with pytest.raises(TimeoutError, match=r"lock 'a' was not free within 0.2 s") as caught:
                lock("a", timeout=0.2).acquire()
            assert 0.2 <= time.monotonic() - before < 2
        assert isinstance(caught.value, LockTimeout)
        assert isinstance(caught.value, DRefError)

    async def test_async_timeout(self) -> None:
        async with lock("a"):
            with pytest.raises(LockTimeout):
                await lock("a", timeout=0.2).aacquire()

    def test_waiter_that_gave_up_stands_in_nobodys_way(self) -> None:
        with lock("a"):
            with pytest.raises(LockTimeout):
                lock("a", timeout=0.1).acquire()
            found = lock_info("a")
            assert found is not None
            assert found.waiters == 0
        with lock("a", timeout=0):
            pass

    def test_setting_is_the_default(self, settings: Settings) -> None:
        settings.DREF_BACKEND = {"BACKEND": "memory", "LOCK_TIMEOUT": 0.05}
        with lock("a"), pytest.raises(LockTimeout, match=r"0\.05"):
            lock("a").acquire()

    def test_none_waits_for_as_long_as_it_takes(self, in_thread: InThread, settings: Settings) -> None:
        settings.DREF_BACKEND = {"BACKEND": "memory", "LOCK_TIMEOUT": 0}
        with lock("a"):
            waiting = in_thread(lock("a", timeout=None).acquire)
            until_awaited("a")
        lock("a").release(waiting.result(10))

    def test_argument_of_acquire_wins(self) -> None:
        with lock("a"):
            with pytest.raises(LockTimeout):
                lock("a", timeout=None).acquire(timeout=0)
            with pytest.raises(ValueError, match="timeout"):
                lock("a").acquire(timeout=-1)

    def test_several_names_share_one_timeout(self) -> None:
        with lock("b"):
            before = time.monotonic()
            with pytest.raises(LockTimeout), lock("a", "b", timeout=0.3):
                pass
            assert time.monotonic() - before < 2


class TestMistakes:
    @pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", 5, None, ["a", "b"]])
    def test_bad_names(self, name: object) -> None:
        with pytest.raises(InvalidName):
            lock(name)  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("ttl", 0.5),
            ("ttl", "30"),
            ("ttl", True),
            ("ttl", None),
            ("ttl", float("nan")),
            ("ttl", float("inf")),
            ("timeout", -1),
            ("timeout", "1"),
            ("timeout", True),
            ("at_least", -1),
            ("otherwise", "pass"),
        ],
    )
    def test_bad_options_raise_at_once_and_name_the_option(self, option: str, value: object) -> None:
        with pytest.raises(ValueError, match=option):
            Lock("a", **{option: value})  # type: ignore[arg-type]

    def test_lock_without_a_name_is_only_a_decorator(self) -> None:
        with pytest.raises(ValueError, match="name"), lock():
            pass
        with pytest.raises(ValueError, match="name"):
            lock().acquire()

    async def test_blocking_calls_inside_a_loop_are_refused(self) -> None:
        with pytest.raises(SynchronousOnlyOperation), lock("a"):
            pass
        with pytest.raises(SynchronousOnlyOperation):
            lock("a").acquire()
        held = await lock("a", timeout=0).aacquire()
        with pytest.raises(SynchronousOnlyOperation):
            lock("a").release(held)
        await lock("a").arelease(held)

    def test_making_a_lock_does_no_io(self, settings: Settings) -> None:
        settings.DREF_BACKEND = {"BACKEND": "redis", "OPTIONS": {"URL": "redis://127.0.0.1:1/0"}}
        assert repr(lock("a", "b")) == "Lock('a', 'b', ttl=30)"
