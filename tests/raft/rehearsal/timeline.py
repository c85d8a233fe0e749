"""Virtual time: the loop never waits, it sets its clock to the next thing to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import Any
from unittest.mock import patch

from dref_django.backends.raft import caller, driver, relay

RATE: ContextVar[float] = ContextVar("rate", default=1.0)
"""How fast the clock of the machine goes on which something happens."""
STEP = 3600.0
"""Seconds by which wall clocks are wrong, at most."""


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
