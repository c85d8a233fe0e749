"""A thread for what may block on the disk, so that the node's loop never does.

Not asyncio's executor: that one refuses work as soon as the interpreter begins to exit, when a node still has to hand
its leadership over and to close its database.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Disk:
    """Runs calls one after the other on a thread of its own."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Awaitable on the running loop; what `function` raises is raised there."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        self.call(partial(function, *args), settle)
        return future

    def call(self, function: Callable[[], T], then: Callable[[T | None, BaseException | None], None]) -> None:
        """Calls `then` on the running loop, with what `function` returned, or None and what it raised."""
        loop = asyncio.get_running_loop()

        def call() -> None:
            result, failure = None, None
            try:
                result = function()
            except BaseException as error:
                failure = error
            try:
                loop.call_soon_threadsafe(then, result, failure)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits
                return

        self._calls.put(call)

    def close(self) -> None:
        """Ends the thread after what it has been given."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
