"""Async acquire and release, cancelled at every await point: free within the lease, and the handle still releases."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from dref_django import lock
from dref_django.inspection import lock_info
from dref_django.locks import Lock
from tests.locks.test_entering import is_free
from tests.processes import wait_until

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.parametrize("kind", ["scripted", "redis", "postgres"]),  # memory alone never suspends
]

MOST_STEPS = 100
"""More suspensions than any operation here makes."""


class CancelledAt:
    """Awaits a coroutine; its task is cancelled at the `step`-th suspension: while that waits, or `late`, when what it
    waits for has come but was not looked at yet."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], step: int, *, late: bool) -> None:
        self._coroutine = coroutine
        self._left = step
        self._late = late
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        resume, value = self._coroutine.send, None
        while True:
            try:
                waiting = resume(value)
            except StopIteration as stop:
                return stop.value
            if self._left == 0:
                self._cancel(waiting)
            self._left -= 1
            try:
                value = yield waiting
                resume = self._coroutine.send
            except BaseException as error:
                resume, value = self._coroutine.throw, error

    def _cancel(self, waiting: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.reached = True
        if self._late and waiting is not None:
            waiting.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


async def cancelled_at(coroutine: Coroutine[Any, Any, Any], step: int, late: bool) -> bool:
    """Whether the coroutine has so many suspensions."""
    awaitable = CancelledAt(coroutine, step, late=late)

    async def run() -> None:
        await awaitable

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if awaitable.reached:
        # A cancellation that came with the last step's result may find the work done.
        assert task.cancelled() or task.exception() is None
    else:
        task.result()
    return awaitable.reached


async def assert_free_within_the_lease(guard: Lock) -> None:
    held = await guard.aacquire(timeout=guard.ttl + 2)
    await guard.arelease(held)


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "as the answer comes"])
class TestEveryAwaitPoint:
    async def test_of_a_block(self, late: bool) -> None:
        guard = lock("a", ttl=2)

        async def block() -> None:
            async with guard:
                await asyncio.sleep(0)

        for step in range(MOST_STEPS):
            if not await cancelled_at(block(), step, late):
                break
            await assert_free_within_the_lease(guard)
        assert 1 <= step < MOST_STEPS - 1

    async def test_of_acquire_while_another_holds(self, late: bool) -> None:
        guard = lock("a", ttl=2, timeout=20)

        async def wait_for_turn() -> None:
            held = await guard.aacquire()
            try:
                await guard.arelease(held)
            except asyncio.CancelledError:
                await guard.arelease(held)
                raise

        for step in range(MOST_STEPS):
            held = await guard.aacquire(timeout=5)
            waiting = asyncio.create_task(cancelled_at(wait_for_turn(), step, late))
            for _ in range(5):
                await asyncio.sleep(0)
            await guard.arelease(held)
            reached = await waiting
            await assert_free_within_the_lease(guard)
            if not reached:
                break
        assert 1 <= step < MOST_STEPS - 1

    async def test_of_release_and_the_handle_can_still_release(self, late: bool) -> None:
        guard = lock("a", ttl=2)
        for step in range(MOST_STEPS):
            held = await guard.aacquire(timeout=5)
            reached = await cancelled_at(guard.arelease(held), step, late)
            await guard.arelease(held)  # no LockLost: it was ours to the end
            held = await guard.aacquire(timeout=0)
            await guard.arelease(held)
            if not reached:
                break
        assert 1 <= step < MOST_STEPS - 1

    async def test_of_several_names(self, late: bool) -> None:
        guard = lock("a", "b", "c", ttl=2, timeout=10)

        async def block() -> None:
            async with guard:
                pass

        for step in range(MOST_STEPS):
            if not await cancelled_at(block(), step, late):
                break
            async with guard:
                pass
        assert 1 <= step < MOST_STEPS - 1


class TestLeftBehind:
    async def test_cancelled_waiter_leaves_the_queue(self) -> None:
        async with lock("a"):
            waiting = asyncio.create_task(lock("a").aacquire())
            while (await asyncio.to_thread(lock_info, "a")).waiters < 1:  # type: ignore[union-attr]
                pass
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

            def left() -> bool:
                found = lock_info("a")
                return found is not None and found.waiters == 0

            await asyncio.to_thread(wait_until, left, "the queue to be empty", 5)

    async def test_block_whose_exit_is_cancelled_keeps_at_least(self) -> None:
        guard = lock("a", at_least=30)
        held = await guard.__aenter__()
        task = asyncio.create_task(guard.__aexit__(None, None, None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert held.remaining() == 0

        def kept() -> bool:
            found = lock_info("a")
            return found is not None and not found.held and found.left > 25

        await asyncio.to_thread(wait_until, kept, "the lease to be kept", 5)

    def test_loop_that_is_closed_in_the_midst_leaves_nothing(self) -> None:
        async def hang() -> None:
            async with lock("a"):
                await asyncio.Event().wait()

        async def main() -> None:
            task = asyncio.create_task(hang())
            while await asyncio.to_thread(is_free, "a"):
                pass
            assert not task.done()

        asyncio.run(main())
        lock("a", timeout=5).acquire()
