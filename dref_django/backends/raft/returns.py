"""The way back of answers to an event loop of the user's: one wake-up takes all that have come by then.

To wake a loop is a system call, during which this thread lets go of the interpreter's lock and may wait for it long.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any
from weakref import WeakKeyDictionary


class Returns:
    """Of one loop, which is not held by this."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._done: list[tuple[asyncio.Future[Any], concurrent.futures.Future[Any]]] = []

    async def wait(self, future: concurrent.futures.Future[bytes]) -> bytes:
        """The result of a future of another thread, on this loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bytes] = loop.create_future()
        future.add_done_callback(lambda done: self._put(loop, waiter, done))
        return await waiter

    def _put(
        self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[Any], done: concurrent.futures.Future[Any]
    ) -> None:
        with self._mutex:
            self._done.append((waiter, done))
            if len(self._done) > 1:
                return
        try:
            loop.call_soon_threadsafe(self._take)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return

    def _take(self) -> None:
        with self._mutex:
            several, self._done = self._done, []
        for waiter, done in several:
            if waiter.done():
                continue  # it was cancelled
            if (error := done.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(done.result())


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Returns] = WeakKeyDictionary()


def returns() -> Returns:
    """Of the running loop."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Returns()
    return found
