"""Time as a back end, its hub and its leases feel it: the system's, or in tests one that is moved by hand.

Waits (`timeout=`, a stream's `timeout`, the back end's TIMEOUT) always go by real time: a test never hangs because
nobody moves its clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

_MONOTONIC: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock:
    """The system's time."""

    def now(self) -> int | None:
        """Microseconds since the epoch to give to the back end as `now`; None: it goes by its server's clock."""
        return None

    def monotonic(self) -> float:
        """Seconds that never step and, where the system has such a clock, also pass while it is suspended."""
        return time.clock_gettime(_MONOTONIC)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[..., Any], *args: Any
    ) -> Timer:
        """Calls back on `loop`, from which this is called, after `delay` seconds of this clock."""
        return loop.call_later(delay, callback, *args)

    def on_move(self, callback: Callable[[], None]) -> None:
        """Calls back, in the mover's thread, after the time was moved by hand. Holds the callback weakly."""


SYSTEM: Final = Clock()
