"""Reading again what is doubted: the stored version is the truth, hints are only a fast way to hear of it.

A name is doubted when it is watched first, when a notice does not continue what is known, when a value may have run
out, after every reconnect, and with every heartbeat, in case a hint was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from .backends.base import Backend
from .cells import Cell, Doubt
from .exceptions import DRefError, Unavailable
from .mirror import Mirror
from .protocol import Read, Reply, Row, Scan

logger = logging.getLogger("dref_django")

READ_BATCH: Final = 64
SCAN_PAGE: Final = 500
PATIENCE: Final = 0.25
"""Seconds between seeing a newer stored version and calling its notice lost: it may be on its way."""
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class Rereader:
    """Everything runs on the background loop."""

    def __init__(self, backend: Backend, on_settled: Callable[[], None]) -> None:
        self.mirror = Mirror(backend.clock, backend.ordered_notices, self.doubt)
        self._backend = backend
        self._on_settled = on_settled
        self._doubts: dict[str, Doubt] = {}
        self._prefixes: set[str] = set()
        self._work = asyncio.Event()

    def doubt(self, name: str, doubt: Doubt) -> None:
        cell = self.mirror.cells.get(name)
        if cell is None or not cell.heard:
            return  # it is doubted as soon as the feed is subscribed to it
        before = self._doubts.get(name)
        self._doubts[name] = doubt if before is None else before.with_(doubt)
        self._work.set()

    def doubt_all(self, *, missed: bool = False, moved: bool = False, prefixes: bool = True) -> None:
        """Everything that is watched is compared. `missed`: what is newer was missed; `moved`: the epoch is another;
        `prefixes`: names that nobody has heard of are looked for, too."""
        for cell in self.mirror.cells.values():
            self.doubt(cell.name, Doubt(gap=missed and cell.known, fresh=moved))
        if prefixes:
            self._prefixes.update(self.mirror.prefixes)
        self._work.set()

    async def run(self) -> None:
        """Reads what is doubted, until cancelled."""
        pause = FIRST_PAUSE
        while True:
            if not self._doubts and not self._prefixes:
                self._on_settled()
                self._work.clear()
                await self._work.wait()
            try:
                await self._settle_some()
            except Exception as error:
                if isinstance(error, DRefError):
                    logger.info("dref: watched values cannot be read yet: %s", error)
                else:
                    logger.exception("dref: reading watched values failed")
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE

    async def beat(self) -> None:
        """Compares everything once a heartbeat, until cancelled."""
        while True:
            await asyncio.sleep(self._backend.params.heartbeat)
            self.doubt_all()

    # --- names --------------------------------------------------------------------------------------------------

    async def _settle_some(self) -> None:
        """One batch of names and one prefix. What cannot be read stays doubted."""
        batch = dict(list(self._doubts.items())[:READ_BATCH])
        if batch:
            for name in batch:
                del self._doubts[name]
            try:
                await self._settle(batch)
            except Exception:
                for name, doubt in batch.items():
                    self.doubt(name, doubt)
                raise
        prefix = next(iter(self._prefixes), None)
        if prefix is not None:
            self._prefixes.discard(prefix)
            try:
                await self.scan(prefix)
            except Exception:
                self._prefixes.add(prefix)
                raise

    async def _settle(self, batch: dict[str, Doubt]) -> None:
        cells = [cell for name in batch if (cell := self.mirror.cells.get(name)) is not None]
        reads = [Read(cell.name, cell.version if cell.known and not batch[cell.name].fresh else None) for cell in cells]
        if not reads:
            return
        for cell, reply in zip(cells, await self._read(reads), strict=True):
            if reply is not None and self.mirror.cells.get(cell.name) is cell:
                self._believe(cell, reply, batch[cell.name])

    async def _read(self, reads: list[Read]) -> Sequence[Reply | None]:
        """None for what is damaged: it must not keep the others from being read. The next heartbeat tries again."""
        try:
            return await self._backend.aexecute(reads)
        except Unavailable:
            raise
        except DRefError as error:
            if len(reads) > 1:
                return [reply for read in reads for reply in await self._read([read])]
            logger.warning("dref: a watched value cannot be read: %s", error)
            return [None]

    def _believe(self, cell: Cell, reply: Reply, doubt: Doubt) -> None:
        """What a read of the truth says about a cell."""
        mirror = self.mirror
        if not cell.known:
            mirror.begin(cell, reply.version, reply.data, reply.left)
        elif reply.version == cell.version:
            mirror.set_near(cell, reply.left)
        elif reply.version < cell.version and not doubt.fresh:
            return  # a notice overtook the read
        elif _follows(cell, reply, doubt):
            mirror.move(cell, reply.version, reply.data, reply.left)
            mirror.release_held(cell)
        elif doubt.gap or doubt.fresh or doubt.hints:
            gap = doubt.gap or doubt.fresh
            mirror.move(cell, reply.version, reply.data, reply.left, gap=gap, skipped=not gap)
            mirror.release_held(cell)
        else:
            asyncio.get_running_loop().call_later(PATIENCE, mirror.give_up_waiting, cell, reply.version)

    # --- prefixes -----------------------------------------------------------------------------------------------

    async def scan(self, prefix: str) -> None:
        """Makes known every name with the prefix, and doubts those that a page does not show any more."""
        after, seen = "", set[str]()
        while True:
            (reply,) = await self._backend.aexecute([Scan(prefix, after, SCAN_PAGE, values=True)])
            for row in reply.page:
                if isinstance(row, Row):
                    seen.add(row.name)
                    self._see(row)
            if not (after := reply.cursor):
                break
        for name, cell in list(self.mirror.cells.items()):
            if name in seen or not name.startswith(prefix):
                continue
            if cell.data is not None or not cell.known:
                self.doubt(name, Doubt())
            elif not cell.readers and not cell.peeked:
                self.mirror.bury(cell)

    def _see(self, row: Row) -> None:
        cell = self.mirror.cells.get(row.name)
        if cell is None:
            if not self.mirror.has_prefix(row.name):
                return
            cell = self.mirror.cells[row.name] = Cell(row.name)
            cell.heard = True
        if not cell.known:
            self.mirror.begin(cell, row.version, row.data, row.left, skipped=row.version > 1)
        elif row.version != cell.version:
            self.doubt(row.name, Doubt())


def _follows(cell: Cell, reply: Reply, doubt: Doubt) -> bool:
    """Whether what was read is the change right after the one we know."""
    if doubt.gap:
        return False
    if doubt.hints:
        return (doubt.hints[0].base, doubt.hints[0].version) == (cell.version, reply.version)
    return reply.data is None and reply.version == cell.version + 1 and cell.mortal
