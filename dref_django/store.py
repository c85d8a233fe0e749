"""What every command means: the pure state machine behind memory and raft, the model for Redis and SQL.

`Store.apply(commands, now)` answers with one reply a command and the events (notices to watchers, wakes to waiters)
that the same step made. No clock, no I/O: `now` (microseconds) is an argument, and the state after a sequence of
calls depends on nothing else.

Three rules carry the rest:

- A new version is max(the last one + 1, now), so versions rise across delete, re-create and restart.
- An entry whose deadline has passed *is* absent, at version + 1; that it still lies there is nobody's business.
  Deleted and expired entries are kept for `GRAVE`, so that a clock that steps back cannot turn versions back.
- A lease whose deadline has passed is free. A free lease belongs to the first live waiter of its queue.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from .deltas import apply_splice
from .leases import Lease, LeaseImage
from .protocol import (
    ABSENT,
    GRAVE,
    INT_MAX,
    INT_MIN,
    KEEP,
    RING_SIZE,
    Acquire,
    Add,
    Break,
    Check,
    Command,
    Data,
    Delete,
    Expire,
    Find,
    Inspect,
    LeaseInfo,
    Notice,
    Patch,
    Read,
    Release,
    Renew,
    Reply,
    Row,
    Scan,
    ScanLeases,
    Splice,
    Status,
    Wake,
    Write,
    check_batch,
)

Event: TypeAlias = Notice | Wake

READS = (Read, Check, Find, Scan, Inspect, ScanLeases)
"""Commands that only look."""

SWEEP = 2
"""Graves removed by each call, at most: garbage collection never makes one call slow."""


class Mark(NamedTuple):
    """One remembered op id: it made `version`; `result` is Add's sum, else 1 when there was a value before."""

    op: bytes
    version: int
    result: int


class Entry(NamedTuple):
    """What is stored under a name. Never changed in place: undoing a batch is putting the old entries back."""

    data: Data | None
    """None: deleted."""
    version: int
    deadline: int | None
    """Microseconds; of a deleted entry the time of its deletion."""
    ring: tuple[Mark, ...]


class View(NamedTuple):
    """An entry as it stands at one `now`."""

    data: Data | None
    version: int
    left: int | None
    ring: tuple[Mark, ...]


class Image(NamedTuple):
    """All that a store holds, as plain values that later calls do not touch; for a snapshot."""

    entries: dict[str, Entry]
    leases: list[LeaseImage]
    graves: list[tuple[int, str]]


NEVER = View(None, 0, None, ())


class Failed(Exception):
    """A command of an atomic batch failed with this reply; nothing of the batch is kept."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class Store:
    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._names: list[str] = []  # sorted, for Scan
        self._leases: dict[str, Lease] = {}
        self._lease_names: list[str] = []
        self._graves: list[tuple[int, str]] = []  # heap of (time, name) worth looking at, each name once
        self._marked: set[str] = set()  # the names in that heap

    def apply(self, commands: Sequence[Command], now: int) -> tuple[list[Reply], list[Event]]:
        """One atomic step. Raises ValueError when the commands may not stand in one batch."""
        check_batch(commands)
        events: list[Event] = []
        before: dict[str, Entry | None] = {}
        replies: list[Reply] = []
        for index, command in enumerate(commands):
            try:
                replies.append(_RULES[type(command)](self, command, now, events, before))
            except Failed as failure:
                self._undo(before)
                aborted = [Reply(Status.ABORTED)] * len(commands)
                aborted[index] = failure.reply
                return aborted, []
        self.sweep(now)
        return replies, events

    def query(self, commands: Sequence[Command], now: int) -> list[Reply]:
        """`apply` for commands that only look (`READS`): changes nothing, not even what is collected as garbage."""
        replies: list[Reply] = []
        for index, command in enumerate(commands):
            if not isinstance(command, READS):
                raise ValueError(f"{type(command).__name__} is no command that only looks")
            try:
                replies.append(_RULES[type(command)](self, command, now, [], {}))
            except Failed as failure:
                aborted = [Reply(Status.ABORTED)] * len(commands)
                aborted[index] = failure.reply
                return aborted
        return replies

    # --- as a replicated state: what a leader and a snapshot need --------------------------------------------------

    def turns(self, names: Iterable[str], since: int, now: int) -> bool:
        """Whether one of these entries or leases runs out after `since` and up to `now`."""
        for name in names:
            entry, lease = self._entries.get(name), self._leases.get(name)
            if entry is not None and entry.deadline is not None and since < entry.deadline <= now:
                return True
            if lease is not None and lease.turns(since, now):
                return True
        return False

    def extend_leases(self, before: int, now: int) -> None:
        """After a time without a server: whoever held a lease `before` it gets its whole time again, from `now`."""
        for lease in self._leases.values():
            lease.extend(before, now)

    def free(self, owners: str, now: int) -> list[Event]:
        """Gives back what is held and waited for by owners that begin so."""
        events: list[Event] = []
        for name, lease in list(self._leases.items()):
            for owner in lease.owners():
                if owner.startswith(owners):
                    events += self.apply([Release(name, owner)], now)[1]
        return events

    def next_grave(self) -> int | None:
        """When `sweep` is worth a call again."""
        return self._graves[0][0] if self._graves else None

    def is_empty(self) -> bool:
        return not self._entries and not self._leases

    def dump(self) -> Image:
        return Image(dict(self._entries), [lease.dump() for lease in self._leases.values()], sorted(self._graves))

    @classmethod
    def load(cls, image: Image) -> Store:
        """A store that answers to whatever follows as the dumped one does."""
        store = cls()
        store._entries = dict(image.entries)
        store._names = sorted(store._entries)
        store._leases = {lease.name: Lease.load(lease) for lease in image.leases}
        store._lease_names = sorted(store._leases)
        store._graves = sorted(image.graves)
        store._marked = {name for _, name in store._graves}
        return store

    # --- entries ------------------------------------------------------------------------------------------------

    def _view(self, name: str, now: int) -> View:
        entry = self._entries.get(name)
        if entry is None:
            return NEVER
        data, version, deadline, ring = entry
        if deadline is None:
            return View(data, version, None, ring)
        if deadline > now and data is not None:
            return View(data, version, deadline - now, ring)
        if deadline + GRAVE <= now:
            return NEVER
        return View(None, version if data is None else version + 1, None, ring)

    def _put(
        self,
        name: str,
        entry: Entry,
        before: dict[str, Entry | None],
    ) -> None:
        old = self._entries.get(name)
        before[name] = old
        if old is None:
            insort(self._names, name)
        self._entries[name] = entry
        if entry.deadline is not None:
            self._mark_grave(entry.deadline + GRAVE, name)

    def _undo(self, before: dict[str, Entry | None]) -> None:
        for name, entry in before.items():
            if entry is None:
                self._forget(name)
            else:
                self._entries[name] = entry

    def _forget(self, name: str) -> None:
        del self._entries[name]
        del self._names[bisect_left(self._names, name)]

    def _mark_grave(self, time: int, name: str) -> None:
        if name not in self._marked:
            self._marked.add(name)
            heapq.heappush(self._graves, (time, name))

    def sweep(self, now: int, limit: int = SWEEP) -> None:
        """Looks at up to `limit` graves and collects what is old enough."""
        for _ in range(limit):
            if not self._graves or self._graves[0][0] > now:
                return
            _, name = heapq.heappop(self._graves)
            self._marked.discard(name)
            entry = self._entries.get(name)
            if entry is not None and entry.deadline is not None:
                if entry.deadline + GRAVE <= now:
                    self._forget(name)
                else:
                    self._mark_grave(entry.deadline + GRAVE, name)
            lease = self._leases.get(name)
            if lease is not None:
                if lease.is_buried(now):
                    del self._leases[name]
                    del self._lease_names[bisect_left(self._lease_names, name)]
                else:
                    self._mark_grave(lease.last_use() + GRAVE, name)

    def _read(self, command: Read, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        view = self._view(command.name, now)
        if command.known is not None and command.known == view.version:
            return Reply(Status.UNCHANGED, None, view.version, view.left, view.data is not None)
        return _current(Status.APPLIED, view)

    def _check(self, command: Check, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        view = self._view(command.name, now)
        _expect(view, command.expect)
        return Reply(Status.APPLIED, None, view.version, view.left, view.data is not None)

    def _write(self, command: Write, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        view = self._view(command.name, now)
        _expect(view, command.expect)
        data, splice = command.data, None
        if isinstance(data, Splice):
            if not isinstance(view.data, bytes):
                raise Failed(_current(Status.WRONG_KIND, view))
            try:
                splice, data = data, apply_splice(view.data, data)
            except ValueError:
                raise Failed(_current(Status.WRONG_KIND, view)) from None
        deadline = _deadline(command.ttl, view, now)
        version = max(view.version + 1, now)
        existed = int(view.data is not None)
        self._put(command.name, Entry(data, version, deadline, _mark(view, command.op, version, existed)), before)
        left = None if deadline is None else deadline - now
        if splice is None:
            events.append(Notice(command.name, version, view.version, Patch.FULL, data, None, left))
        else:
            events.append(Notice(command.name, version, view.version, Patch.SPLICE, None, splice, left))
        return Reply(Status.APPLIED, None, version, left, view.data is not None)

    def _add(self, command: Add, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        view = self._view(command.name, now)
        if isinstance(view.data, bytes):
            raise Failed(_current(Status.WRONG_KIND, view))
        total = (command.initial if view.data is None else view.data) + command.amount
        if not INT_MIN <= total <= INT_MAX:
            raise Failed(_current(Status.OVERFLOW, view))
        version = max(view.version + 1, now)
        deadline = _deadline(KEEP, view, now)
        self._put(command.name, Entry(total, version, deadline, _mark(view, command.op, version, total)), before)
        events.append(Notice(command.name, version, view.version, Patch.FULL, total, None, view.left))
        return Reply(Status.APPLIED, total, version, view.left, view.data is not None)

    def _delete(self, command: Delete, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        view = self._view(command.name, now)
        _expect(view, command.expect)
        if view.data is None:
            return Reply(Status.APPLIED, None, view.version)
        version = max(view.version + 1, now)
        self._put(command.name, Entry(None, version, now, _mark(view, command.op, version, 1)), before)
        events.append(Notice(command.name, version, view.version, Patch.GONE))
        return Reply(Status.APPLIED, None, version, None, True)

    def _expire(self, command: Expire, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        view = self._view(command.name, now)
        if view.data is None:
            raise Failed(_current(Status.CONFLICT, view))
        version = max(view.version + 1, now)
        deadline = _deadline(command.ttl, view, now)
        self._put(command.name, Entry(view.data, version, deadline, _mark(view, command.op, version, 1)), before)
        if isinstance(view.data, int):
            notice = Notice(command.name, version, view.version, Patch.FULL, view.data, None, command.ttl)
        else:
            same = Splice(0, 0, b"")
            notice = Notice(command.name, version, view.version, Patch.SPLICE, None, same, command.ttl)
        events.append(notice)
        return Reply(Status.APPLIED, None, version, command.ttl, True)

    def _find(self, command: Find, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        for mark in self._view(command.name, now).ring:
            if mark.op == command.op:
                return Reply(Status.APPLIED, mark.result, mark.version, None, True)
        return Reply(Status.NOT_FOUND)

    def _scan(self, command: Scan, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        rows: list[Row] = []

        def collect(name: str) -> None:
            view = self._view(name, now)
            if view.data is not None:
                size = 8 if isinstance(view.data, int) else len(view.data)
                rows.append(Row(name, view.version, size, view.left, view.data if command.values else None))

        cursor = _page(self._names, command, collect)
        return Reply(Status.APPLIED, page=tuple(rows), cursor=cursor)

    # --- leases -------------------------------------------------------------------------------------------------

    def _lease_command(
        self,
        command: Acquire | Renew | Release | Break,
        now: int,
        events: list[Event],
        before: dict[str, Entry | None],
    ) -> Reply:
        lease = self._leases.get(command.name)
        if lease is None or lease.is_buried(now):
            if not isinstance(command, Acquire):
                return Reply(Status.LOST if isinstance(command, Renew) else Status.APPLIED)
            if lease is None:
                insort(self._lease_names, command.name)
            lease = self._leases[command.name] = Lease(command.name)
        reply, wakes = lease.apply(command, now)
        events.extend(wakes)
        self._mark_grave(lease.last_use() + GRAVE, command.name)
        return reply

    def _inspect(self, command: Inspect, now: int, events: list[Event], before: dict[str, Entry | None]) -> Reply:
        lease = self._leases.get(command.name)
        info = lease.info(now) if lease is not None else None
        return Reply(Status.NOT_FOUND) if info is None else Reply(Status.APPLIED, token=info.token, lease=info)

    def _scan_leases(
        self, command: ScanLeases, now: int, events: list[Event], before: dict[str, Entry | None]
    ) -> Reply:
        rows: list[LeaseInfo] = []

        def collect(name: str) -> None:
            info = self._leases[name].info(now)
            if info is not None:
                rows.append(info)

        cursor = _page(self._lease_names, command, collect)
        return Reply(Status.APPLIED, page=tuple(rows), cursor=cursor)


def _page(names: list[str], command: Scan | ScanLeases, collect: Callable[[str], None]) -> str:
    """Hands up to `limit` names after the cursor to `collect`; returns the next cursor, "" at the end."""
    prefix, after = command.prefix, command.after
    start = bisect_right(names, after) if after >= prefix else bisect_left(names, prefix)
    page = names[start : start + command.limit]
    for name in page:
        if not name.startswith(prefix):
            return ""
        collect(name)
    return page[-1] if len(page) == command.limit else ""


def _current(status: Status, view: View) -> Reply:
    return Reply(status, view.data, view.version, view.left, view.data is not None)


def _expect(view: View, expect: int | None) -> None:
    if expect is None:
        return
    fits = view.data is None if expect == ABSENT else view.data is not None and view.version == expect
    if not fits:
        raise Failed(_current(Status.CONFLICT, view))


def _deadline(ttl: object, view: View, now: int) -> int | None:
    if isinstance(ttl, int):
        return now + ttl
    if ttl is KEEP and view.left is not None:
        return now + view.left
    return None


def _mark(view: View, op: bytes, version: int, result: int) -> tuple[Mark, ...]:
    return (*view.ring[-(RING_SIZE - 1) :], Mark(op, version, result)) if op else view.ring


_RULES: dict[type, Callable[..., Reply]] = {
    Read: Store._read,
    Check: Store._check,
    Write: Store._write,
    Add: Store._add,
    Delete: Store._delete,
    Expire: Store._expire,
    Find: Store._find,
    Scan: Store._scan,
    Acquire: Store._lease_command,
    Renew: Store._lease_command,
    Release: Store._lease_command,
    Break: Store._lease_command,
    Inspect: Store._inspect,
    ScanLeases: Store._scan_leases,
}
