"""Locks around functions: names, skipping, coroutine functions, and what cannot be guarded."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

from dref_django import InvalidName, LockTimeout, lock
from tests.locks.test_entering import is_free, until_awaited

pytestmark = pytest.mark.usefixtures("backend")


@lock
def bare() -> bool:
    """Says whether its lock is held."""
    return not is_free(f"{__name__}.bare")


@lock(timeout=0)
def with_options() -> bool:
    return not is_free(f"{__name__}.with_options")


class Reports:
    @lock("reports", timeout=0, otherwise="skip")
    def nightly(self, day: int, *, dry: bool = False) -> tuple[Reports, int, bool]:
        return self, day, dry

    @classmethod
    @lock("reports")
    def of_class(cls) -> type[Reports]:
        return cls


class TestNames:
    def test_bare_decorator_takes_the_functions_own_name(self) -> None:
        assert bare()
        assert is_free(f"{__name__}.bare")

    def test_options_without_a_name_do_so_too(self) -> None:
        assert with_options()
        with lock(f"{__name__}.with_options"), pytest.raises(LockTimeout):
            with_options()

    def test_one_nameless_lock_may_guard_several_functions(self) -> None:
        guard = lock(timeout=0)

        @guard
        def first() -> int:
            return second()

        @guard
        def second() -> int:
            return 2

        assert first() == 2

    def test_function_stays_what_it_was(self) -> None:
        assert bare.__name__ == "bare"
        assert bare.__doc__ == "Says whether its lock is held."
        assert inspect.iscoroutinefunction(lock("a")(asyncio.sleep))
        assert not inspect.iscoroutinefunction(bare)

    def test_methods_get_self_and_arguments(self) -> None:
        reports = Reports()
        assert reports.nightly(3, dry=True) == (reports, 3, True)
        assert Reports.of_class() is Reports

    def test_name_that_is_too_long_says_so(self) -> None:
        def function() -> None: ...

        function.__qualname__ = "f" * 300
        with pytest.raises(InvalidName):
            lock(function)


class TestWhenNotFree:
    def test_raise_is_the_default(self) -> None:
        with lock("a"), pytest.raises(LockTimeout):
            lock("a", timeout=0)(bare)()

    def test_skip_returns_none_and_runs_nothing(self) -> None:
        ran: list[int] = []
        guarded = lock("a", timeout=0, otherwise="skip")(ran.append)
        with lock("a"):
            assert guarded(1) is None
        guarded(2)
        assert ran == [2]

    def test_skip_passes_on_a_timeout_of_the_body(self) -> None:
        @lock("a", timeout=0, otherwise="skip")
        def body() -> None:
            raise LockTimeout("of the body")

        with pytest.raises(LockTimeout, match="of the body"):
            body()
        assert is_free("a")

    async def test_skip_and_raise_of_coroutine_functions(self) -> None:
        async def body(number: int) -> int:
            await asyncio.sleep(0)
            return number

        skipping = lock("a", timeout=0, otherwise="skip")(body)
        raising = lock("a", timeout=0)(body)
        async with lock("a"):
            assert await skipping(1) is None
            with pytest.raises(LockTimeout):
                await raising(1)
        assert await skipping(2) == 2
        assert await raising(3) == 3


class TestCalls:
    def test_calls_of_one_function_do_not_overlap(self) -> None:
        inside = [0]

        @lock("a")
        async def body() -> None:
            inside[0] += 1
            await asyncio.sleep(0)
            assert inside[0] == 1
            inside[0] -= 1

        async def several() -> None:
            await asyncio.gather(*(body() for _ in range(10)))

        asyncio.run(several())

    async def test_body_runs_in_the_callers_task(self) -> None:
        @lock("a")
        async def body() -> asyncio.Task[None] | None:
            return asyncio.current_task()

        assert await body() is asyncio.current_task()

    def test_reentrant_function_may_call_itself(self) -> None:
        @lock("a", reentrant=True, timeout=0)
        def factorial(number: int) -> int:
            return number * factorial(number - 1) if number else 1

        assert factorial(5) == 120
        assert is_free("a")

    async def test_cancelled_body_frees_the_lock(self) -> None:
        @lock("a")
        async def body() -> None:
            await asyncio.Event().wait()

        running = asyncio.create_task(body())
        while not await asyncio.to_thread(lambda: not is_free("a")):
            pass
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await lock("a", timeout=5).aacquire()

    async def test_waiting_call_can_be_cancelled(self) -> None:
        @lock("a")
        async def body() -> None: ...

        async with lock("a"):
            waiting = asyncio.create_task(body())
            await asyncio.to_thread(until_awaited, "a")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await lock("a", timeout=5).aacquire()


class TestRefused:
    def test_generators(self) -> None:
        def rows() -> Iterator[int]:
            yield 1

        async def arows() -> AsyncIterator[int]:
            yield 1

        for function in (rows, arows):
            with pytest.raises(TypeError, match="generator"):
                lock("a")(function)
            with pytest.raises(TypeError, match="generator"):
                lock(function)

    def test_classes_and_nameless_callables(self) -> None:
        for thing in (Reports, functools.partial(bare)):
            with pytest.raises(TypeError, match="function"):
                lock(thing)
