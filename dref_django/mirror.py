"""This process's picture of what is watched: notices and reads move it, readers hear of every move.

Notices may be lost, doubled or (on some back ends) out of order. One is applied only when it continues what is known
(`notice.base == cell.version`); otherwise the name is doubted, which means that it is read again (`rereading.py`).
Nothing is guessed, and a cell goes backwards only when a read under a new epoch says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Final

from .cells import Cell, Doubt, Near, Raw, Reader
from .clock import Clock
from .deltas import apply_splice
from .protocol import Data, Notice, Patch, Splice

HOLD: Final = 0.1
"""Seconds that a notice waits for the one before it, on back ends whose notices have no order."""
HELD_LIMIT: Final = 64
EXPIRY_SLACK: Final = 0.002


class Mirror:
    """All on the background loop, but for `note`."""

    def __init__(self, clock: Clock, ordered: bool, doubt: Callable[[str, Doubt], None]) -> None:
        self.cells: dict[str, Cell] = {}
        self.prefixes: dict[str, list[Reader]] = {}
        self.greeting: list[Reader] = []
        """Readers of prefixes whose snapshot is still being read."""
        self.epoch = ""
        self.gaps = 0
        """Moves of which readers were told that changes before them were missed."""
        self._clock = clock
        self._ordered = ordered
        self._doubt = doubt
        self._near_mutex = threading.Lock()

    def has_prefix(self, name: str) -> bool:
        return any(name.startswith(prefix) for prefix in self.prefixes)

    def raw(self, cell: Cell, base: int, *, gap: bool = False, first: bool = False) -> Raw:
        return Raw(cell.name, cell.version, base, cell.data, gap, first, self.epoch)

    # --- notices ------------------------------------------------------------------------------------------------

    def notice(self, notice: Notice) -> None:
        cell = self.cells.get(notice.name)
        if cell is None:
            if not self.has_prefix(notice.name):
                return
            cell = self.cells[notice.name] = Cell(notice.name)
            cell.heard = True
            if notice.base == 0:
                cell.known = True  # to be absent
        self._take(cell, notice)

    def _take(self, cell: Cell, notice: Notice) -> None:
        if not cell.known:
            if len(cell.held) < HELD_LIMIT:
                cell.held[notice.base] = notice
            self._doubt(cell.name, Doubt())
        elif notice.version <= cell.version:
            return
        elif self._continues(cell, notice):
            self._apply(cell, notice)
            self.release_held(cell)
        elif notice.base == cell.hinted:
            self._hint(cell, notice)
        elif self._ordered or len(cell.held) >= HELD_LIMIT:
            self._doubt(cell.name, Doubt(gap=True))
        elif notice.patch is Patch.FULL and not self._wants_every(cell):
            self._apply(cell, notice)
            self.release_held(cell)
        else:
            cell.held[notice.base] = notice
            asyncio.get_running_loop().call_later(HOLD, self.give_up_waiting, cell, notice.version)

    def _continues(self, cell: Cell, notice: Notice) -> bool:
        if notice.base == cell.version:
            return True
        if cell.data is None:
            return notice.base == 0 and notice.patch is Patch.FULL
        if notice.base == cell.version + 1 and cell.mortal:
            # The value ran out, and the write after it overtook our timer.
            self.move(cell, cell.version + 1, None, None)
            return True
        return False

    def _wants_every(self, cell: Cell) -> bool:
        return any(reader.every for reader in self._readers(cell))

    def _readers(self, cell: Cell) -> Iterator[Reader]:
        yield from tuple(cell.readers)
        for prefix, readers in self.prefixes.items():
            if cell.name.startswith(prefix):
                yield from tuple(readers)

    def _apply(self, cell: Cell, notice: Notice) -> None:
        match notice.patch:
            case Patch.FULL:
                self.move(cell, notice.version, notice.data, notice.left)
            case Patch.GONE:
                self.move(cell, notice.version, None, None)
            case Patch.SPLICE:
                data = _spliced(cell.data, notice.splice)
                if data is None:
                    self._doubt(cell.name, Doubt(gap=True))
                else:
                    self.move(cell, notice.version, data, notice.left)
            case Patch.HINT:
                self._hint(cell, notice)

    def _hint(self, cell: Cell, notice: Notice) -> None:
        cell.hinted = notice.version
        self._doubt(cell.name, Doubt(hints=[notice]))

    def release_held(self, cell: Cell) -> None:
        """Applies what waited for the version that the cell has now."""
        while (following := cell.held.pop(cell.version, None)) is not None:
            self._apply(cell, following)
        cell.held = {base: notice for base, notice in cell.held.items() if notice.version > cell.version}

    def give_up_waiting(self, cell: Cell, version: int) -> None:
        """Whatever led to `version` is lost, unless it has come by now."""
        if cell.version < version and self.cells.get(cell.name) is cell:
            self._doubt(cell.name, Doubt(gap=True))

    # --- moving -------------------------------------------------------------------------------------------------

    def begin(self, cell: Cell, version: int, data: Data | None, left: int | None, *, skipped: bool = False) -> None:
        """The first that is known of a cell, then what was noticed while it was being read."""
        held, cell.held = sorted(cell.held.values(), key=lambda notice: notice.version), {}
        self.move(cell, version, data, left, skipped=skipped)
        for notice in held:
            self._take(cell, notice)

    def move(
        self,
        cell: Cell,
        version: int,
        data: Data | None,
        left: int | None,
        *,
        gap: bool = False,
        skipped: bool = False,
    ) -> None:
        """The one place where a cell moves and readers hear of it.

        `gap`: changes were missed. `skipped`: values in between were not read, which is a gap to those only who want
        each change.
        """
        base, first = cell.version, not cell.known
        self.gaps += gap
        backwards = version < base
        cell.known, cell.version, cell.data = True, version, data
        if cell.hinted <= version or backwards:
            cell.hinted = 0
        self.set_near(cell, left, force=backwards)
        raw = self.raw(cell, base, gap=gap, first=first)
        change = raw._replace(first=False)
        named = len(cell.readers)
        for place, reader in enumerate(self._readers(cell)):
            if place < named or reader in self.greeting:
                told = raw
            elif first and data is None:
                continue  # to a prefix, a name that is absent is nothing new
            else:
                told = change
            reader.push(told._replace(gap=True) if skipped and reader.every and not told.first else told)
        cell.let_go()

    def set_near(self, cell: Cell, left: int | None, *, force: bool = False) -> None:
        """Sets what `peek` sees and when the value runs out. `force`: even if that goes backwards."""
        if cell.timer is not None:
            cell.timer.cancel()
            cell.timer = None
        cell.mortal = left is not None and cell.data is not None
        if left is not None and cell.mortal:
            delay = max(left / 1e6, 0) + EXPIRY_SLACK
            cell.timer = self._clock.call_later(asyncio.get_running_loop(), delay, self._doubt, cell.name, Doubt())
        with self._near_mutex:
            if force or cell.near is None or cell.version >= cell.near.version:
                cell.near = Near.of(cell.version, cell.data, left, self._clock.monotonic())

    def note(self, name: str, version: int, data: Data | None, left: int | None) -> None:
        """From any thread: a read or write of this process saw this, so `peek` must not show anything older."""
        cell = self.cells.get(name)
        if cell is None:
            return
        with self._near_mutex:
            if cell.near is not None and version >= cell.near.version:
                cell.near = Near.of(version, data, left, self._clock.monotonic())

    def bury(self, cell: Cell) -> None:
        """Forgets a cell. Nobody may go on trusting it, `peek` of a ref that remembers it included."""
        self.cells.pop(cell.name, None)
        with self._near_mutex:
            cell.near = None
        if cell.timer is not None:
            cell.timer.cancel()
        cell.let_go()


def _spliced(data: Data | None, splice: Splice | None) -> bytes | None:
    """The data after the splice; None when it does not fit what we have."""
    if splice is None or not isinstance(data, bytes):
        return None
    try:
        return apply_splice(data, splice)
    except ValueError:
        return None
