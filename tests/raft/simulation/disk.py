"""A disk that forgets: what was written since the last sync survives a crash up to any point of it.

It behaves as the real storage does: one call of `save` is one transaction, and a transaction that a crash tears apart
is not there at all after recovery.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from dref_django.backends.raft.core import Entry, HardState, Ready, Snapshot


@dataclass(slots=True)
class Contents:
    hard_state: HardState = field(default_factory=HardState)
    snapshot: Snapshot | None = None
    entries: list[Entry] = field(default_factory=list)

    def copy(self) -> Contents:
        return Contents(self.hard_state, self.snapshot, list(self.entries))

    def term_at(self, index: int) -> int | None:
        if self.entries and 0 <= index - self.entries[0].index < len(self.entries):
            return self.entries[index - self.entries[0].index].term
        if self.snapshot and self.snapshot.index == index:
            return self.snapshot.term
        return None

    def covers(self, entry: Entry) -> bool:
        """The entry is in the log, or in what the snapshot stands for."""
        if self.snapshot and entry.index <= self.snapshot.index:
            return True
        return self.term_at(entry.index) == entry.term

    def apply(self, write: Write) -> None:
        if write.hard_state:
            self.hard_state = write.hard_state
        if write.truncate_from is not None:
            self.drop_from(write.truncate_from)
        if write.snapshot:
            self.snapshot = write.snapshot
            self.drop_until(write.snapshot.index - write.keep)
        if write.entries and self.entries and write.entries[0].index != self.entries[-1].index + 1:
            raise AssertionError(f"entry {write.entries[0].index} does not follow {self.entries[-1].index}")
        self.entries.extend(write.entries)

    def drop_from(self, index: int) -> None:
        if self.entries:
            del self.entries[max(0, index - self.entries[0].index) :]

    def drop_until(self, index: int) -> None:
        if self.entries:
            del self.entries[: max(0, index + 1 - self.entries[0].index)]


@dataclass(frozen=True, slots=True)
class Write:
    """One transaction."""

    hard_state: HardState | None = None
    truncate_from: int | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    keep: int = 0


class Disk:
    def __init__(self, founding: Write | None = None) -> None:
        self.written = Contents()
        if founding:
            self.written.apply(founding)
        self.durable = self.written.copy()
        self._unsynced: list[Write] = []

    def save(self, ready: Ready) -> None:
        if ready.hard_state or ready.must_sync:
            self._write(Write(ready.hard_state, ready.truncate_from, ready.entries, ready.snapshot))

    def compact(self, snapshot: Snapshot, keep: int) -> None:
        self._write(Write(snapshot=snapshot, keep=keep))

    def _write(self, write: Write) -> None:
        self.written.apply(write)
        self._unsynced.append(write)

    def sync(self) -> None:
        for write in self._unsynced:
            self.durable.apply(write)
        self._unsynced.clear()

    @property
    def is_dirty(self) -> bool:
        return bool(self._unsynced)

    def crash(self, random: Random) -> bool:
        """What follows the last sync is lost from some point on. Returns whether that tore a transaction apart."""
        parts = 2 * len(self._unsynced)  # each transaction and its commit record
        survived = random.randrange(parts + 1)
        for write in self._unsynced[: survived // 2]:
            self.durable.apply(write)
        self._unsynced.clear()
        self.written = self.durable.copy()
        return survived % 2 == 1
