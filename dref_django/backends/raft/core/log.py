"""The log since the snapshot, in memory, and how much of it is on disk, committed and applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .messages import Entry, Snapshot

ENTRY_OVERHEAD = 16
"""What an entry counts for beyond its data, in bytes: an empty entry is not free."""


class Log:
    """Entries `base + 1 ... last_index`. At most one batch at a time is on its way to the disk.

    Invariants: base <= applied <= commit <= last_index (during the restoration of a snapshot applied lags behind
    base); persisted <= offered <= last_index; what is committed is never truncated.
    """

    __slots__ = ("applied", "base", "base_term", "commit", "entries", "offered", "persisted", "truncated")

    def __init__(self, snapshot: Snapshot | None, entries: Sequence[Entry], commit: int) -> None:
        first = entries[0].index if entries else 0
        at = snapshot.index if snapshot else 0
        if entries and 1 < first <= at:
            # Entries that the snapshot covers were kept for slow followers. The oldest one only tells its term: what
            # it follows is not known any more.
            self.base, self.base_term = first, entries[0].term
            self.entries = list(entries[1:])
        elif first == 1:
            self.base, self.base_term = 0, 0
            self.entries = list(entries)
        else:
            self.base, self.base_term = at, snapshot.term if snapshot else 0
            self.entries = list(entries)
        for index, entry in enumerate(self.entries, self.base + 1):
            if entry.index != index:
                raise ValueError(f"the log has a hole: entry {entry.index} stands where {index} belongs")
        last = self.last_index
        if last < at or commit > last:
            raise ValueError(f"the log ends at {last}, before the snapshot at {at} or the commit index {commit}")
        if snapshot and self.term_at(at) != snapshot.term:
            raise ValueError(f"entry {at} has term {self.term_at(at)}, the snapshot of it {snapshot.term}")
        self.commit = max(commit, at)
        self.applied = at
        """Handed out to be applied; the state machine itself may be one batch behind."""
        self.persisted = last
        """Durable up to here."""
        self.offered = last
        """Handed out to be written."""
        self.truncated: int | None = None
        """Entries from here on that the disk may have are void."""

    @property
    def last_index(self) -> int:
        return self.base + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.base_term

    def term_at(self, index: int) -> int | None:
        """None for what is not in the log; the last entry that was compacted away still has its term."""
        at = index - self.base
        if at > 0:
            return self.entries[at - 1].term if at <= len(self.entries) else None
        return self.base_term if at == 0 else None

    def append(self, entries: Iterable[Entry]) -> None:
        self.entries.extend(entries)

    def truncate(self, index: int) -> None:
        """Void entries from `index` on."""
        if index <= self.commit:
            raise AssertionError(f"entry {index} is committed (up to {self.commit}) and cannot be truncated")
        del self.entries[index - self.base - 1 :]
        if index <= self.offered:
            self.truncated = index if self.truncated is None else min(self.truncated, index)
            self.offered = index - 1
            self.persisted = min(self.persisted, index - 1)

    def slice(self, first: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `first` on, at least one if there is one, in all at most `max_bytes`."""
        entries = self.entries
        start = end = first - self.base - 1
        size = 0
        while end < len(entries):
            size += len(entries[end].data) + ENTRY_OVERHEAD
            if size > max_bytes and end > start:
                break
            end += 1
        return tuple(entries[start:end])

    def between(self, after: int, until: int) -> tuple[Entry, ...]:
        """Entries after `after` up to and including `until`."""
        return tuple(self.entries[after - self.base : until - self.base])

    def last_agreement(self, index: int, term: int) -> tuple[int, int]:
        """The last place up to `index` whose term is not above `term`: beyond it a log that has `term` at `index` must
        differ from this one. (0, 0) or (base, its term) when there is none."""
        index = min(index, self.last_index)
        while index > self.base and self.entries[index - self.base - 1].term > term:
            index -= 1
        return (index, self.term_at(index) or 0) if index >= self.base else (index, 0)

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so has everything that this one might have committed (section 3.6.1)."""
        own = self.last_term
        return last_term > own or (last_term == own and last_index >= self.last_index)

    def compact(self, index: int) -> None:
        """Forget entries up to `index`, which are applied."""
        if index > self.base:
            self.base_term = self.term_at(index) or 0
            del self.entries[: index - self.base]
            self.base = index

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing but what the snapshot covers; durable once the driver says so."""
        self.entries.clear()
        self.base, self.base_term = snapshot.index, snapshot.term
        self.commit = self.applied = self.offered = snapshot.index
        self.persisted = min(self.persisted, snapshot.index)
        self.truncated = snapshot.index + 1
