"""A clock that a test moves by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from dref_django.clock import Clock


class ManualClock(Clock):
    """Time stands still until `advance`: values and leases run out when a test says so, without sleeping.

        clock = ManualClock()
        with isolate(clock=clock):
            ref.set("soon gone", ttl=60)
            clock.advance(61)
            assert ref.get() is None

    The jump is felt at once by `get`, `peek` and the state of locks; watchers and callbacks hear of it on their
    threads. To the holder of a lock a jump longer than its lease is a pause in which it could not renew: the lock is
    lost. Waits (`timeout=`) go by real time.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._began = time.time_ns() // 1000
        self._passed = 0
        self._numbers = itertools.count()
        self._timers: list[tuple[int, int, _ManualTimer]] = []
        self._callbacks: list[weakref.WeakMethod[Callable[[], None]]] = []

    def __repr__(self) -> str:
        return f"<ManualClock, {self._passed / 1e6:g} s after its start>"

    def now(self) -> int:
        return self._began + self._passed

    def monotonic(self) -> float:
        return self._passed / 1e6

    def advance(self, seconds: float) -> None:
        """Lets that much time pass at once. From any thread."""
        if seconds < 0:
            raise ValueError(f"time does not go backwards: {seconds!r}")
        with self._mutex:
            self._passed += round(seconds * 1e6)
            due = []
            while self._timers and self._timers[0][0] <= self._passed:
                due.append(heapq.heappop(self._timers)[2])
            self._callbacks = [each for each in self._callbacks if each() is not None]
            callbacks = [callback for each in self._callbacks if (callback := each()) is not None]
        for timer in due:
            timer.fire()
        for callback in callbacks:
            callback()

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[..., Any], *args: Any
    ) -> _ManualTimer:
        timer = _ManualTimer(loop, callback, args)
        with self._mutex:
            at = self._passed + round(delay * 1e6)
            if at > self._passed:
                heapq.heappush(self._timers, (at, next(self._numbers), timer))
                return timer
        timer.fire()
        return timer

    def on_move(self, callback: Callable[[], None]) -> None:
        with self._mutex:
            self._callbacks.append(weakref.WeakMethod(callback))


class _ManualTimer:
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._loop = loop
        self._callback: Callable[..., Any] | None = callback
        self._args = args

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        if self._callback is not None:
            self._callback(*self._args)
