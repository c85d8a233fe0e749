"""A waker: what a thread or a task sleeps on until another thread rings."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class Waker:
    """One ring wakes all who wait, and is remembered for the next who waits; `clear` forgets it.

    `wait` blocks a thread, `await_` a task of any loop; `set` may come from any thread.
    """

    __slots__ = ("_futures", "_mutex", "_ring")

    def __init__(self) -> None:
        self._ring = threading.Event()
        self._mutex = threading.Lock()
        self._futures: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def set(self) -> None:
        with self._mutex:
            self._ring.set()
            futures, self._futures = self._futures, []
        for loop, future in futures:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_finish, future)

    def clear(self) -> None:
        self._ring.clear()

    def is_set(self) -> bool:
        return self._ring.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Returns whether it rang within `seconds` (None: however long it takes)."""
        return self._ring.wait(seconds)

    async def await_(self, seconds: float | None) -> bool:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._mutex:
            if self._ring.is_set():
                return True
            self._futures.append((loop, future))
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return self._ring.is_set()
        finally:
            with self._mutex:
                self._futures = [pair for pair in self._futures if pair[1] is not future]
        return True


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
