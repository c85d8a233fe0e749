"""One passage through a lock: what is held meanwhile, and how a loss is told to the body."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any

from .exceptions import LockLost
from .held import Held


class HeldAll:
    """Several locks that were taken together. As `Held`; lost as soon as one of them is."""

    def __init__(self, members: tuple[Held, ...]) -> None:
        self.members = members
        self.name = ", ".join(held.name for held in members)

    @property
    def tokens(self) -> dict[str, int]:
        return {held.name: held.token for held in self.members}

    @property
    def lost(self) -> bool:
        return any(held.is_lost() for held in self.members)

    def check(self) -> None:
        for held in self.members:
            held.check()

    def remaining(self) -> float:
        return min(held.remaining() for held in self.members)


class Entry:
    """One passage through a lock: what is held, what of it is released at the end, how a loss is told to the body."""

    def __init__(self, helds: tuple[Held, ...], owned: tuple[Held, ...]) -> None:
        self.helds = helds
        self.owned = owned
        self.depth = 1
        self.task: asyncio.Task[Any] | None = None
        self.cancelling = 0
        self.interrupted = False
        self.left = False

    def interrupt_task(self) -> None:
        """From now on a loss cancels the task that runs the body."""
        self.task = asyncio.current_task()
        if self.task is None:
            return
        self.cancelling = self.task.cancelling()
        loop = asyncio.get_running_loop()
        for held in self.helds:
            held.when_lost(functools.partial(_call_soon, loop, self._interrupt))

    def _interrupt(self) -> None:
        if self.task is not None and not self.left and not self.interrupted:
            self.interrupted = True
            self.task.cancel()

    def is_own_cancellation(self, error: BaseException | None) -> bool:
        """As `asyncio.timeout`: our cancellation is taken back; somebody else's wins."""
        self.left = True
        if not self.interrupted or self.task is None:
            return False
        others = self.task.uncancel() > self.cancelling
        return isinstance(error, asyncio.CancelledError) and not others

    def loss(self) -> LockLost | None:
        for held in self.helds:
            if held.is_lost():
                return held.error()
        return None


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the body is gone
        loop.call_soon_threadsafe(callback)
