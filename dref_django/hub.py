"""One hub a back end and process: one feed in, every watcher out, and the near-cache on the way.

Hints may be lost, doubled or (on some back ends) out of order; the stored version is the truth. So the hub applies a
notice only when it continues what it knows (`notice.base == cell.version`), and doubts the name otherwise: a doubted
name is read again. Never is a value guessed.

    feed -> notice() -> continues?  -> Cell moves on -> Raw to every reader
                          no -> held a moment (back ends without order), then doubted -> Read -> Raw, gap announced

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
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from . import background
from .backends.base import Backend
from .clock import Timer
from .deltas import apply_splice
from .exceptions import DRefError
from .protocol import Data, Notice, Patch, Read, Reply, Row, Scan, Splice, Status, Wake
from .waiting import Waker

logger = logging.getLogger("dref_django")

READ_BATCH: Final = 64
SCAN_PAGE: Final = 500
HOLD: Final = 0.1
"""Seconds that a notice waits for the one before it, on back ends whose notices have no order."""
HELD_LIMIT: Final = 64
PATIENCE: Final = 0.25
"""Seconds between seeing a newer stored version and calling its notice lost: it may be on its way."""
EXPIRY_SLACK: Final = 0.002
NEAR_LIMIT: Final = 10_000
"""Names that are kept in the near-cache only because somebody peeked at them."""


class FeedStatus(StrEnum):
    READY = "READY"
    """Everything watched is as stored, and changes arrive."""
    STALE = "STALE"
    """The connection is down or a comparison is under way: values may be old."""


class Raw(NamedTuple):
    """A change as the hub hands it to readers: encoded, so that each reader decodes in its own thread."""

    name: str
    version: int
    base: int
    """The version that this hub handed out before; 0 at the first."""
    data: Data | None
    """None: deleted or absent."""
    gap: bool
    """Changes between `base` and this one were missed."""
    first: bool
    """The snapshot that a reader starts with."""
    epoch: str


class Reader(Protocol):
    """A watcher. Called on the background loop; must not block, and bounds its own buffer."""

    every: bool
    """Whether it wants each change (then order is waited for even when a newer whole value is at hand)."""

    def push(self, raw: Raw) -> None: ...

    def end(self) -> None:
        """The hub closes (its back end was discarded); nothing follows."""


class Near(NamedTuple):
    """This process's copy of a value. Replaced, never changed."""

    version: int
    data: Data | None
    expires: float | None
    """On the back end's monotonic clock."""
    checked: float
    """Time of the same clock at which a read or a write of ours last confirmed it."""

    @classmethod
    def of(cls, version: int, data: Data | None, left: int | None, now: float) -> Near:
        return cls(version, data, None if left is None or data is None else now + left / 1e6, now)

    def is_fresh(self, max_staleness: float, now: float) -> bool:
        return now - self.checked <= max_staleness

    def has_expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class Doubt(NamedTuple):
    """Why a name is to be read again."""

    gap: bool = False
    """A newer value counts as a gap at once."""
    fresh: bool = False
    """Read it even if the version is the one we know, and believe an older one (a new epoch)."""
    hint: tuple[int, int] | None = None
    """(base, version) of the notice that announced it without data."""

    def with_(self, other: Doubt) -> Doubt:
        hint = (self.hint[0], other.hint[1]) if self.hint and other.hint else self.hint or other.hint
        return Doubt(self.gap or other.gap, self.fresh or other.fresh, hint)


class Cell:
    """What this process knows of one watched name."""

    __slots__ = ("data", "held", "known", "name", "near", "peeked", "readers", "timer", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.known = False
        self.version = 0
        self.data: Data | None = None
        self.near: Near | None = None
        self.readers: list[Reader] = []
        self.peeked = False
        self.held: dict[int, Notice] = {}
        self.timer: Timer | None = None


class Hub:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._clock = backend.clock
        self.cells: dict[str, Cell] = {}
        self.status = FeedStatus.STALE
        self.epoch = ""
        self.on_other_wake: Callable[[str, str], None] | None = None
        """Hears of wakes (lease, owner) for which nobody waits here: a holder whose lease was broken."""
        self._prefixes: dict[str, list[Reader]] = {}
        self._cells_of: dict[int, list[Cell]] = {}  # by id of the reader
        self._doubts: dict[str, Doubt] = {}
        self._doubted_prefixes: set[str] = set()
        self._wakers: dict[str, Waker] = {}
        self._near_mutex = threading.Lock()
        self._start_mutex = threading.Lock()
        self._peeked: dict[str, None] = {}
        self._started = False
        self._closed = False
        self._is_up = False
        self._down_since = 0.0

    # --- from any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts listening, once. Returns at once."""
        if self._started:
            return
        with self._start_mutex:
            if not self._started:
                self._started = True
                self._loop = background.get_loop()
                self._loop.call_soon_threadsafe(self._begin)

    def add(self, reader: Reader, *, name: str | None = None, prefix: str = "") -> concurrent.futures.Future[None]:
        """Subscribes a reader to one name, or to all names with a prefix. Done when its snapshot was pushed."""
        self.start()
        coroutine = self._add_prefix(reader, prefix) if name is None else self._add_name(reader, name)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def remove(self, reader: Reader) -> None:
        """Ends a reader's subscriptions. What is under way may still reach it."""
        if self._started and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._remove, reader)

    def keep_near(self, name: str) -> concurrent.futures.Future[None]:
        """Watches a name for `peek`. Done when its value is known."""
        self.start()
        return asyncio.run_coroutine_threadsafe(self._keep_near(name), self._loop)

    def note(self, name: str, version: int, data: Data | None, left: int | None) -> None:
        """A read or write of this process saw this: `peek` must not show anything older from now on."""
        cell = self.cells.get(name)
        if cell is None:
            return
        with self._near_mutex:
            if cell.near is not None and version >= cell.near.version:
                cell.near = Near.of(version, data, left, self._clock.monotonic())

    def expect_wake(self, owner: str) -> Waker:
        """A waker for the waiter `owner`; to be given back with `forget_wake`."""
        self.start()
        waker = self._wakers[owner] = Waker()
        return waker

    def forget_wake(self, owner: str) -> None:
        self._wakers.pop(owner, None)

    def close(self) -> None:
        """Ends all readers and stops listening."""
        with self._start_mutex:
            if self._closed:
                return
            self._closed = True
        if self._started and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    # --- on the loop: coming and going --------------------------------------------------------------------------

    def _begin(self) -> None:
        self._work = asyncio.Event()
        self._feed = self.backend.feed(self)
        self._tasks = [
            self._loop.create_task(self._feed.run(), name="dref-feed"),
            self._loop.create_task(self._settle_doubts(), name="dref-doubts"),
            self._loop.create_task(self._compare_versions(), name="dref-compare"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("dref: %s of back end %r died", task.get_name(), self.backend.params.alias, exc_info=error)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        readers = {id(reader): reader for cell in self.cells.values() for reader in cell.readers}
        readers.update({id(reader): reader for listed in self._prefixes.values() for reader in listed})
        for cell in self.cells.values():
            self._bury(cell)
        self.cells.clear()
        for reader in readers.values():
            reader.end()
        for waker in list(self._wakers.values()):
            waker.set()

    async def _add_name(self, reader: Reader, name: str) -> None:
        cell = await self._cell(name)
        cell.readers.append(reader)
        self._cells_of.setdefault(id(reader), []).append(cell)
        if cell.known:
            reader.push(self._raw(cell, 0, first=True))
        else:
            await self._until_known(cell)

    async def _keep_near(self, name: str) -> None:
        cell = await self._cell(name)
        cell.peeked = True
        self._peeked[name] = None
        while len(self._peeked) > NEAR_LIMIT:
            oldest = next(iter(self._peeked))
            del self._peeked[oldest]
            if (old := self.cells.get(oldest)) is not None:
                old.peeked = False
                self._drop_if_unused(old)
        await self._until_known(cell)

    async def _cell(self, name: str) -> Cell:
        """The cell of a name, its subscription confirmed and its first read under way."""
        cell = self.cells.get(name)
        if cell is None:
            cell = self.cells[name] = Cell(name)
            await self._feed.subscribe({name}, ())
            if self._is_up:
                self._doubt(name, Doubt())
        return cell

    async def _until_known(self, cell: Cell) -> None:
        while not cell.known:
            waiting = self._loop.create_future()
            reader = _Once(waiting)
            cell.readers.append(reader)
            try:
                await waiting
            finally:
                if reader in cell.readers:
                    cell.readers.remove(reader)

    async def _add_prefix(self, reader: Reader, prefix: str) -> None:
        readers = self._prefixes.setdefault(prefix, [])
        if not readers:
            await self._feed.subscribe((), {prefix})
        known = [cell for name, cell in self.cells.items() if name.startswith(prefix) and cell.known]
        for cell in known:
            if cell.data is not None:
                reader.push(self._raw(cell, 0, first=True))
        readers.append(reader)
        await self._scan_prefix(prefix)

    def _remove(self, reader: Reader) -> None:
        for prefix, readers in list(self._prefixes.items()):
            if reader in readers:
                readers.remove(reader)
                if not readers:
                    del self._prefixes[prefix]
                    self._unsubscribe((), {prefix})
                    for cell in [cell for name, cell in self.cells.items() if name.startswith(prefix)]:
                        self._drop_if_unused(cell)
        for cell in self._cells_of.pop(id(reader), ()):
            if reader in cell.readers:
                cell.readers.remove(reader)
            self._drop_if_unused(cell)

    def _drop_if_unused(self, cell: Cell) -> None:
        if cell.readers or cell.peeked or self._has_prefix(cell.name) or self.cells.get(cell.name) is not cell:
            return
        self._bury(cell)
        del self.cells[cell.name]
        self._doubts.pop(cell.name, None)
        self._unsubscribe({cell.name}, ())

    def _bury(self, cell: Cell) -> None:
        """Nobody may go on trusting this cell, `peek` of a ref that remembers it included."""
        cell.near = None
        if cell.timer is not None:
            cell.timer.cancel()

    def _unsubscribe(self, names: set[str] | tuple[()], prefixes: set[str] | tuple[()]) -> None:
        task = self._loop.create_task(self._unsubscribe_unless_back(names, prefixes))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _unsubscribe_unless_back(self, names: set[str] | tuple[()], prefixes: set[str] | tuple[()]) -> None:
        names = {name for name in names if name not in self.cells}
        prefixes = {prefix for prefix in prefixes if prefix not in self._prefixes}
        if names or prefixes:
            await self._feed.unsubscribe(names, prefixes)
        if back := {name for name in names if name in self.cells}:
            await self._feed.subscribe(back, ())
        if returned := {prefix for prefix in prefixes if prefix in self._prefixes}:
            await self._feed.subscribe((), returned)

    def _has_prefix(self, name: str) -> bool:
        return any(name.startswith(prefix) for prefix in self._prefixes)

    # --- on the loop: the sink of the feed ----------------------------------------------------------------------

    def up(self, epoch: str) -> None:
        if self._down_since:
            away = time.monotonic() - self._down_since
            logger.warning("dref: back end %r reconnected after %.1f s", self.backend.params.alias, away)
            self._down_since = 0.0
        moved = bool(self.epoch) and epoch != self.epoch
        self.epoch, self._is_up = epoch, True
        for cell in self.cells.values():
            self._doubt(cell.name, Doubt(gap=cell.known, fresh=moved))
        self._doubted_prefixes.update(self._prefixes)
        self._work.set()
        for waker in list(self._wakers.values()):
            waker.set()  # its wake may have been among what was missed

    def down(self, reason: str) -> None:
        if self._is_up:
            self._down_since = time.monotonic()
            logger.warning("dref: back end %r lost its listener: %s", self.backend.params.alias, reason)
        self._is_up, self.status = False, FeedStatus.STALE

    def wake(self, wake: Wake) -> None:
        if (waker := self._wakers.get(wake.owner)) is not None:
            waker.set()
        elif self.on_other_wake is not None:
            self.on_other_wake(wake.name, wake.owner)

    def notice(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            cell = self.cells.get(notice.name)
            if cell is None:
                if not self._has_prefix(notice.name):
                    continue
                cell = self.cells[notice.name] = Cell(notice.name)
                if notice.base == 0:
                    cell.known = True
            self._take(cell, notice)

    # --- on the loop: notices -----------------------------------------------------------------------------------

    def _take(self, cell: Cell, notice: Notice) -> None:
        if not cell.known:
            if len(cell.held) < HELD_LIMIT:
                cell.held[notice.base] = notice
            self._doubt(cell.name, Doubt())
        elif notice.version <= cell.version:
            return
        elif self._continues(cell, notice):
            self._apply(cell, notice, gap=False)
            self._release_held(cell)
        elif self.backend.ordered_notices or len(cell.held) >= HELD_LIMIT:
            self._doubt(cell.name, Doubt(gap=True))
        elif notice.patch is Patch.FULL and not self._wants_every(cell):
            self._apply(cell, notice, gap=False)
            self._release_held(cell)
        else:
            cell.held[notice.base] = notice
            self._loop.call_later(HOLD, self._give_up_waiting, cell, notice.version)

    def _continues(self, cell: Cell, notice: Notice) -> bool:
        if notice.base == cell.version:
            return True
        if cell.data is None:
            return notice.base == 0 and notice.patch is Patch.FULL
        return notice.base == cell.version + 1 and self._expires_itself(cell) and self._expired(cell)

    def _expires_itself(self, cell: Cell) -> bool:
        return cell.near is not None and cell.near.expires is not None

    def _expired(self, cell: Cell) -> bool:
        """Tells readers of an expiry whose timer the next write overtook; always true."""
        self._move(cell, cell.version + 1, None, None, gap=False)
        return True

    def _wants_every(self, cell: Cell) -> bool:
        if any(reader.every for reader in cell.readers):
            return True
        return any(
            reader.every
            for prefix, readers in self._prefixes.items()
            if cell.name.startswith(prefix)
            for reader in readers
        )

    def _apply(self, cell: Cell, notice: Notice, *, gap: bool) -> None:
        match notice.patch:
            case Patch.FULL:
                self._move(cell, notice.version, notice.data, notice.left, gap=gap)
            case Patch.GONE:
                self._move(cell, notice.version, None, None, gap=gap)
            case Patch.SPLICE:
                data = _spliced(cell.data, notice.splice)
                if data is None:
                    self._doubt(cell.name, Doubt(gap=True))
                else:
                    self._move(cell, notice.version, data, notice.left, gap=gap)
            case Patch.HINT:
                self._doubt(cell.name, Doubt(hint=(notice.base, notice.version)))

    def _release_held(self, cell: Cell) -> None:
        while (following := cell.held.pop(cell.version, None)) is not None:
            self._apply(cell, following, gap=False)
        cell.held = {base: notice for base, notice in cell.held.items() if notice.version > cell.version}

    def _give_up_waiting(self, cell: Cell, version: int) -> None:
        if cell.version < version and self.cells.get(cell.name) is cell:
            self._doubt(cell.name, Doubt(gap=True))

    def _move(self, cell: Cell, version: int, data: Data | None, left: int | None, *, gap: bool) -> None:
        """The one place where a cell moves and readers hear of it."""
        base, first = cell.version, not cell.known
        cell.known, cell.version, cell.data = True, version, data
        self._set_near(cell, left)
        raw = self._raw(cell, base, gap=gap, first=first)
        for reader in tuple(cell.readers):
            reader.push(raw)
        if first and data is None and not cell.readers:
            return
        for prefix, readers in self._prefixes.items():
            if cell.name.startswith(prefix):
                for reader in tuple(readers):
                    reader.push(raw)

    def _raw(self, cell: Cell, base: int, *, gap: bool = False, first: bool = False) -> Raw:
        return Raw(cell.name, cell.version, base, cell.data, gap, first, self.epoch)

    def _set_near(self, cell: Cell, left: int | None, *, force: bool = False) -> None:
        if cell.timer is not None:
            cell.timer.cancel()
            cell.timer = None
        if left is not None and cell.data is not None:
            delay = max(left / 1e6, 0) + EXPIRY_SLACK
            cell.timer = self._clock.call_later(self._loop, delay, self._doubt, cell.name, Doubt())
        with self._near_mutex:
            if force or cell.near is None or cell.version >= cell.near.version:
                cell.near = Near.of(cell.version, cell.data, left, self._clock.monotonic())

    # --- on the loop: reading again -----------------------------------------------------------------------------

    def _doubt(self, name: str, doubt: Doubt) -> None:
        before = self._doubts.get(name)
        self._doubts[name] = doubt if before is None else before.with_(doubt)
        self._work.set()

    async def _settle_doubts(self) -> None:
        pause = 0.05
        while True:
            if not self._doubts and not self._doubted_prefixes:
                if self._is_up:
                    self.status = FeedStatus.READY
                self._work.clear()
                await self._work.wait()
            batch = dict(list(self._doubts.items())[:READ_BATCH])
            prefix = next(iter(self._doubted_prefixes), None)
            try:
                if batch:
                    await self._settle(batch)
                if prefix is not None:
                    self._doubted_prefixes.discard(prefix)
                    await self._scan_prefix(prefix)
            except DRefError as error:
                logger.info("dref: watched values cannot be read yet: %s", error)
                if prefix is not None:
                    self._doubted_prefixes.add(prefix)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            else:
                pause = 0.05

    async def _settle(self, batch: dict[str, Doubt]) -> None:
        cells = {name: cell for name in batch if (cell := self.cells.get(name)) is not None}
        for name in batch:
            del self._doubts[name]
        reads = [
            Read(name, cell.version if cell.known and not batch[name].fresh else None) for name, cell in cells.items()
        ]
        if not reads:
            return
        try:
            replies = await self.backend.aexecute(reads)
        except DRefError:
            for name in cells:
                self._doubt(name, batch[name])
            raise
        for (name, cell), reply in zip(cells.items(), replies, strict=True):
            if self.cells.get(name) is cell:
                self._believe(cell, reply, batch[name])

    def _believe(self, cell: Cell, reply: Reply, doubt: Doubt) -> None:
        """What a read of the truth says about a cell."""
        if reply.status is Status.UNCHANGED or (cell.known and reply.version == cell.version):
            if reply.version == cell.version:
                self._set_near(cell, reply.left)
            return
        if cell.known and reply.version < cell.version and not doubt.fresh:
            return  # a notice overtook the read
        if not cell.known:
            self._first(cell, reply.version, reply.data, reply.left)
            return
        if self._follows(cell, reply, doubt):
            self._move(cell, reply.version, reply.data, reply.left, gap=False)
        elif doubt.gap or doubt.fresh or doubt.hint is not None:
            backwards = reply.version < cell.version
            self._move(cell, reply.version, reply.data, reply.left, gap=True)
            if backwards:
                self._set_near(cell, reply.left, force=True)
        else:
            self._loop.call_later(PATIENCE, self._give_up_waiting, cell, reply.version)
            return
        self._release_held(cell)

    def _first(self, cell: Cell, version: int, data: Data | None, left: int | None) -> None:
        """The snapshot, then what was noticed while it was on its way."""
        held, cell.held = sorted(cell.held.values(), key=lambda notice: notice.version), {}
        self._move(cell, version, data, left, gap=False)
        for notice in held:
            self._take(cell, notice)

    def _follows(self, cell: Cell, reply: Reply, doubt: Doubt) -> bool:
        if doubt.hint is not None and not doubt.gap:
            return doubt.hint == (cell.version, reply.version)
        return reply.data is None and reply.version == cell.version + 1 and self._expires_itself(cell)

    async def _scan_prefix(self, prefix: str) -> None:
        """Makes known every name with the prefix, and doubts the ones that a page does not show any more."""
        after, seen = "", set[str]()
        while True:
            (reply,) = await self.backend.aexecute([Scan(prefix, after, SCAN_PAGE, values=True)])
            for row in reply.page:
                if isinstance(row, Row):
                    seen.add(row.name)
                    self._see(row)
            if not (after := reply.cursor):
                break
        for name, cell in list(self.cells.items()):
            if name.startswith(prefix) and name not in seen:
                if cell.data is not None or not cell.known:
                    self._doubt(name, Doubt())
                elif not cell.readers and not cell.peeked:
                    del self.cells[name]

    def _see(self, row: Row) -> None:
        cell = self.cells.get(row.name)
        if cell is None:
            if not self._has_prefix(row.name):
                return
            cell = self.cells[row.name] = Cell(row.name)
        if not cell.known:
            self._first(cell, row.version, row.data, row.left)
        elif row.version != cell.version:
            self._doubt(row.name, Doubt())

    async def _compare_versions(self) -> None:
        """Every heartbeat: the stored versions of all that is watched, in case a hint was lost."""
        while True:
            await asyncio.sleep(self.backend.params.heartbeat)
            for name in self.cells:
                self._doubt(name, Doubt())
            self._doubted_prefixes.update(self._prefixes)
            self._work.set()


class _Once:
    """A reader that only waits for its snapshot."""

    every = False

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def push(self, raw: Raw) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def end(self) -> None:
        self._future.cancel()


def _spliced(data: Data | None, splice: Splice | None) -> bytes | int | None:
    """The data after the splice; None when it does not fit what we have."""
    if splice is None or not isinstance(data, bytes):
        return None
    try:
        return apply_splice(data, splice)
    except ValueError:
        return None
