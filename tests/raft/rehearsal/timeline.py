"""Virtual time: the loop never waits, it sets its clock to the next thing to do."""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from random import Random
from typing import Any, TypeVarTuple
from unittest.mock import patch

from dref_django.backends.raft import caller, driver, relay

Ts = TypeVarTuple("Ts")

RATE: ContextVar[float] = ContextVar("rate", default=1.0)
"""How fast the clock of the machine goes on which something happens."""
STEP = 3600.0
"""Seconds by which wall clocks are wrong, at most."""


class Machinery:
    """What goes on on one machine, which may stand still: stopped, or moved to another host. Time goes on meanwhile."""

    def __init__(self) -> None:
        self.is_still = False
        self._due: list[asyncio.Handle] = []

    def puts_off(self, handle: asyncio.Handle) -> bool:
        """Whether what is due has to wait until it goes on."""
        if self.is_still:
            self._due.append(handle)
        return self.is_still

    def go_on(self, loop: VirtualLoop) -> None:
        """All that came due meanwhile is done now, in its order."""
        self.is_still = False
        due, self._due = self._due, []
        loop.run_soon(due)


MACHINERY: ContextVar[Machinery | None] = ContextVar("machinery", default=None)
"""Of the machine on which something happens."""


class _Handle(asyncio.Handle):
    """Waits while its machine stands still."""

    __slots__ = ()

    def _run(self) -> None:
        machinery = self._context.get(MACHINERY)  # type: ignore[attr-defined]
        if machinery is None or not machinery.puts_off(self):
            super()._run()


class _TimerHandle(asyncio.TimerHandle, _Handle):
    __slots__ = ()


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it moves the time on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen again"
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        return self._virtual.now

    # What asyncio keeps of its own, in every version of it: what is ready, what is scheduled.

    def run_soon(self, handles: Iterable[asyncio.Handle]) -> None:
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self.run_soon([handle])
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer


class Clock:
    """In place of the module `time`, where nodes and callers look at it."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self._loop = loop
        self._random = random

    def monotonic(self) -> float:
        return self._loop.time() * RATE.get()

    def monotonic_ns(self) -> int:
        return int(self.monotonic() * 1e9)

    def time_ns(self) -> int:
        """The wall clock is another one, and wrong in another way, each time that somebody looks."""
        return int((1.7e9 + self._loop.time() + self._random.uniform(-STEP, STEP)) * 1e9)


@contextmanager
def virtual_time(random: Random, make_disk: Callable[[str], object]) -> Iterator[tuple[VirtualLoop, Clock]]:
    """`make_disk` takes the place of `Disk` in the driver. Raises what went wrong in a callback."""
    loop = VirtualLoop()
    clock = Clock(loop, random)
    try:
        with (
            patch.object(driver, "time", clock),
            patch.object(caller, "time", clock),
            patch.object(relay, "time", clock),
            patch.object(driver, "Disk", make_disk),
            patch.object(driver, "SNAPSHOT_REQUESTS", 60),
            patch.object(driver, "KEPT_REQUESTS", 20),
        ):
            try:
                yield loop, clock
            finally:
                for task in (tasks := asyncio.all_tasks(loop)):
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()
    assert not loop.failures, loop.failures
