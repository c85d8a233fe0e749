"""One hub a back end and process: one feed in, every watcher out, and the near-cache on the way.

    feed -> notice() -> continues?  -> the cell moves on -> Raw to every reader
                          no -> held a moment (back ends without order), then doubted -> Read -> Raw, gap announced

Its parts, each to be read by itself: `cells.py` the words, `mirror.py` what is known and how notices move it,
`rereading.py` how a doubt is settled, `topics.py` what the feed is subscribed to. This file: coming and going.

All state is touched on the background loop only; other threads come in through `call_soon_threadsafe`. The one
exception is `Cell.near`, which `peek` reads from any thread and a writer may move forward (`note`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from . import background
from .backends.base import Backend
from .cells import Cell, Doubt, FeedStatus, Near, Raw, Reader
from .protocol import Data, Notice, Wake
from .rereading import Rereader
from .topics import Topic, Topics
from .waiting import Waker

__all__ = ["Cell", "FeedStatus", "Hub", "Near", "Raw", "Reader"]

logger = logging.getLogger("dref_django")

NEAR_LIMIT: Final = 10_000
"""Names that are kept in the near-cache only because somebody peeked at them."""


class Hub:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.status = FeedStatus.STALE
        self.on_other_wake: Callable[[str, str], None] | None = None
        """Hears of wakes (lease, owner) for which nobody waits here: a holder whose lease was broken."""
        self._rereader = Rereader(backend, self._on_settled)
        self._mirror = self._rereader.mirror
        self._cells_of: dict[int, list[Cell]] = {}  # by id of the reader
        self._wakers: dict[str, Waker] = {}
        self._peeked: dict[str, None] = {}
        self._start_mutex = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._down_since = 0.0
        self.trouble = ""
        """Why the listener is away; "" while it is there, or has not been asked for."""
        self.reconnects = 0
        backend.clock.on_move(self._ring_all)

    @property
    def cells(self) -> dict[str, Cell]:
        """What is watched, by name."""
        return self._mirror.cells

    @property
    def prefixes(self) -> dict[str, list[Reader]]:
        return self._mirror.prefixes

    @property
    def listens(self) -> bool:
        """Whether anything was watched, or waited for, since the process started."""
        return self._loop is not None

    @property
    def gaps(self) -> int:
        """Changes of watched names that came after others which were missed, so far."""
        return self._mirror.gaps

    # --- from any thread ----------------------------------------------------------------------------------------

    def start(self) -> asyncio.AbstractEventLoop:
        """Starts listening, once. Returns at once."""
        if self._loop is None:
            with self._start_mutex:
                if self._loop is None:
                    loop = background.get_loop()
                    loop.call_soon_threadsafe(self._begin, loop)
                    self._loop = loop
        return self._loop

    def add(self, reader: Reader, *, name: str | None = None, prefix: str = "") -> concurrent.futures.Future[None]:
        """Subscribes a reader to one name, or to all names with a prefix. Done when its snapshot was pushed.

        It is done without a snapshot when the reader is removed, or the hub closed, before that.
        """
        loop = self.start()
        if name is None:
            loop.call_soon_threadsafe(self._join_prefix, reader, prefix)
            return asyncio.run_coroutine_threadsafe(self._greet_prefix(reader, prefix), loop)
        loop.call_soon_threadsafe(self._join_name, reader, name)
        return asyncio.run_coroutine_threadsafe(self._ready(name), loop)

    def remove(self, reader: Reader) -> None:
        """Ends a reader's subscriptions, also those that are still being made. What is under way may still reach it."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._remove, reader)

    def keep_near(self, name: str) -> concurrent.futures.Future[None]:
        """Watches a name for `peek`. Done when its value is known."""
        loop = self.start()
        loop.call_soon_threadsafe(self._join_near, name)
        return asyncio.run_coroutine_threadsafe(self._ready(name), loop)

    def note(self, name: str, version: int, data: Data | None, left: int | None) -> None:
        """A read or write of this process saw this: `peek` must not show anything older from now on."""
        self._mirror.note(name, version, data, left)

    def expect_wake(self, owner: str) -> Waker:
        """A waker for the waiter `owner`; to be given back with `forget_wake`."""
        waker = self._wakers[owner] = Waker()  # first: who is told that the listener is there must be known
        self.start()
        return waker

    def forget_wake(self, owner: str) -> None:
        self._wakers.pop(owner, None)

    def close(self) -> None:
        """Ends all readers and stops listening."""
        with self._start_mutex:
            if self._closed:
                return
            self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    # --- on the loop: coming and going --------------------------------------------------------------------------

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        feed = self.backend.feed(self)
        self._topics = Topics(feed, self._on_confirmed)
        for part, run in {
            "feed": feed.run(),
            "topics": self._topics.run(),
            "rereader": self._rereader.run(),
            "heartbeat": self._rereader.beat(),
        }.items():
            task = loop.create_task(run, name=f"dref-{part}")
            task.add_done_callback(self._task_done)
            self._tasks.append(task)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("dref: %s of back end %r died", task.get_name(), self.backend.params.alias, exc_info=error)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        readers = {id(reader): reader for cell in self.cells.values() for reader in cell.readers}
        readers.update({id(reader): reader for listed in self.prefixes.values() for reader in listed})
        for cell in list(self.cells.values()):
            self._mirror.bury(cell)
            self._topics.let_go(Topic(cell.name))
        for prefix in list(self.prefixes):
            self._topics.let_go(Topic(prefix, True))
        self.prefixes.clear()
        for reader in readers.values():
            reader.end()
        self._ring_all()

    def _join_name(self, reader: Reader, name: str) -> None:
        """At once, so that a reader that leaves before its snapshot came is found."""
        if self._closed:
            reader.end()
            return
        cell = self._wanted(name)
        if cell.known:
            reader.push(self._mirror.raw(cell, 0, first=True))
        cell.readers.append(reader)
        self._cells_of.setdefault(id(reader), []).append(cell)

    def _join_near(self, name: str) -> None:
        if self._closed:
            return
        self._wanted(name).peeked = True
        self._peeked[name] = None
        while len(self._peeked) > NEAR_LIMIT:
            oldest = next(iter(self._peeked))
            del self._peeked[oldest]
            if (old := self.cells.get(oldest)) is not None:
                old.peeked = False
                self._drop_if_unused(old)

    def _wanted(self, name: str) -> Cell:
        """The cell of a name that the feed is subscribed to, also where a prefix, which may go, covers it."""
        cell = self.cells.get(name)
        if cell is None:
            cell = self.cells[name] = Cell(name)
        self._topics.want(topic := Topic(name))
        if not cell.heard and self._topics.is_confirmed(topic):
            self._on_confirmed(topic)
        return cell

    async def _ready(self, name: str) -> None:
        """Returns when the name is subscribed to and known, or nobody wants it any more."""
        cell = self.cells.get(name)
        if cell is None:
            return
        await self._topics.confirmed(Topic(name))
        while not cell.known and self.cells.get(name) is cell:
            waiting = asyncio.get_running_loop().create_future()
            cell.waiting.append(waiting)
            await waiting

    def _on_confirmed(self, topic: Topic) -> None:
        if not topic.is_prefix and (cell := self.cells.get(topic.text)) is not None:
            cell.heard = True
            if self._topics.is_up:  # else the next `up` does it
                self._rereader.doubt(cell.name, Doubt())

    def _join_prefix(self, reader: Reader, prefix: str) -> None:
        if self._closed:
            reader.end()
            return
        for name, cell in self.cells.items():
            if name.startswith(prefix) and cell.data is not None:
                reader.push(self._mirror.raw(cell, 0, first=True))
        self.prefixes.setdefault(prefix, []).append(reader)
        self._mirror.greeting.append(reader)
        self._topics.want(Topic(prefix, True))

    async def _greet_prefix(self, reader: Reader, prefix: str) -> None:
        if reader not in self.prefixes.get(prefix, ()):
            return
        try:
            await self._topics.confirmed(Topic(prefix, True))
            if reader in self.prefixes.get(prefix, ()):
                await self._rereader.scan(prefix)
        finally:
            if reader in self._mirror.greeting:
                self._mirror.greeting.remove(reader)

    def _remove(self, reader: Reader) -> None:
        for prefix, readers in list(self.prefixes.items()):
            if reader in readers:
                readers.remove(reader)
                if not readers:
                    del self.prefixes[prefix]
                    self._topics.let_go(Topic(prefix, True))
                    for cell in [cell for name, cell in self.cells.items() if name.startswith(prefix)]:
                        self._drop_if_unused(cell)
        for cell in self._cells_of.pop(id(reader), ()):
            if reader in cell.readers:
                cell.readers.remove(reader)
            self._drop_if_unused(cell)

    def _drop_if_unused(self, cell: Cell) -> None:
        if cell.readers or cell.peeked or self.cells.get(cell.name) is not cell:
            return
        self._topics.let_go(Topic(cell.name))
        if not self._mirror.has_prefix(cell.name):
            self._mirror.bury(cell)

    # --- on the loop: the sink of the feed ----------------------------------------------------------------------

    def up(self, epoch: str) -> None:
        began = self._mirror.epoch == ""
        moved = not began and self._mirror.epoch != epoch
        if self._down_since:
            away = time.monotonic() - self._down_since
            told = "by another server, so values may go back" if moved else "changes meanwhile show as a gap"
            alias = self.backend.params.alias
            extra = {"dref_event": "reconnected", "dref_alias": alias, "dref_seconds": round(away, 3)}
            logger.warning("dref: back end %r reconnected after %.1f s: %s", alias, away, told, extra=extra)
            self._down_since = 0.0
            self.reconnects += 1
        self.trouble = ""
        self._mirror.epoch = epoch
        self._rereader.doubt_all(missed=True, moved=moved, prefixes=not began)  # at first each reader's snapshot does
        self._topics.up()
        for waker in list(self._wakers.values()):
            waker.set()  # its wake may have been sent before we listened

    def down(self, reason: str) -> None:
        if self._topics.is_up:
            self._down_since = time.monotonic()
            alias = self.backend.params.alias
            extra = {"dref_event": "disconnected", "dref_alias": alias}
            logger.warning("dref: back end %r lost its listener: %s", alias, reason, extra=extra)
        self.status, self.trouble = FeedStatus.STALE, reason
        self._topics.down()

    def _on_settled(self) -> None:
        if self._topics.is_up:
            self.status = FeedStatus.READY

    def notice(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._mirror.notice(notice)

    def wake(self, wake: Wake) -> None:
        if (waker := self._wakers.get(wake.owner)) is not None:
            waker.set()
        elif self.on_other_wake is not None:
            self.on_other_wake(wake.name, wake.owner)

    def _ring_all(self) -> None:
        """Whoever waits for a lease looks again."""
        for waker in list(self._wakers.values()):
            waker.set()
