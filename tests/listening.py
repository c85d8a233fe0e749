"""A feed of one back end that runs in the test's own loop, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dref_django.backends import Backend
from dref_django.protocol import Notice, Wake


async def until(condition: Callable[[], bool]) -> None:
    """Returns when another process or task has made `condition` true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.002)


class Recorder:
    """A sink that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.epochs: list[str] = []
        self.downs: list[str] = []
        self.notices: list[Notice] = []
        self.wakes: list[Wake] = []

    def up(self, epoch: str) -> None:
        self.epochs.append(epoch)

    def down(self, reason: str) -> None:
        self.downs.append(reason)

    def notice(self, notices: Sequence[Notice]) -> None:
        self.notices += notices

    def wake(self, wake: Wake) -> None:
        self.wakes.append(wake)

    def names(self) -> list[str]:
        return [notice.name for notice in self.notices]


class Listening:
    """A feed that runs, with its sink."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.heard = Recorder()
        self.feed = backend.feed(self.heard)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listening:
        await self.start()
        return self

    async def start(self, ups: int = 1) -> None:
        self._task = asyncio.ensure_future(self.feed.run())
        await self.ups(ups)

    async def ups(self, count: int) -> None:
        await until(lambda: len(self.heard.epochs) >= count)

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
