"""What the flusher of a back end says of its work, and how others read it: `manage.py dref mirror --status`.

It stands in one entry of dref's own beside the refs: written when something has changed, at most twice a second, and
every 5 s while nothing changes. Who holds the lock is asked of the lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dref_django import backends
from dref_django.codecs import get_codec
from dref_django.exceptions import DRefError
from dref_django.inspection import LockInfo, lock_info
from dref_django.naming import grouped
from dref_django.op_ids import new_op_id
from dref_django.protocol import Read, Write

ENTRY: Final = grouped("flusher", "dref.mirror")
LOCK: Final = "dref.fields.mirror"
SOONEST: Final = 0.5
"""Seconds between two reports."""
IDLE: Final = 5.0
"""The same while nothing changes."""


class _Work:
    """On one field; moments are of the monotonic clock."""

    def __init__(self) -> None:
        self.flushed = 0
        self.last: float | None = None
        self.waiting = 0
        self.since: float | None = None

    def record(self, now: float) -> list[Any]:
        """Moments as seconds ago, since clocks of hosts differ."""
        last, since = (None if moment is None else now - moment for moment in (self.last, self.since))
        return [self.flushed, last, self.waiting, since]


class Report:
    """Of one flusher; kept up by the thread that flushes. `is_told`: while that holds the lock."""

    def __init__(self, using: str) -> None:
        self.is_told = False
        self._using = using
        self._work: dict[str, _Work] = {}
        self._trouble = ""
        self._changed = True
        self._sent = 0.0

    def hears(self, key: str, count: int, since: float | None) -> None:
        """Of `count` changed refs of a field, the first of them at the moment `since`; they are about to be written."""
        if count:
            work = self._work.setdefault(key, _Work())
            work.waiting, work.since, self._changed = count, since, True

    def wrote(self, key: str, count: int) -> None:
        work = self._work.setdefault(key, _Work())
        work.waiting, work.since = 0, None
        if count:
            work.flushed += count
            work.last = time.monotonic()
            self._changed = True

    def goes_well(self) -> None:
        self._changed, self._trouble = self._changed or bool(self._trouble), ""

    def fails(self, error: Exception) -> None:
        self._changed, self._trouble = True, f"{type(error).__name__}: {error}"
        self.publish(at_once=True)

    def publish(self, *, at_once: bool = False) -> None:
        """When it is due. Failing is no trouble: the next one comes soon."""
        now = time.monotonic()
        if not self.is_told or (not at_once and now - self._sent < (SOONEST if self._changed else IDLE)):
            return
        record = {"trouble": self._trouble, "fields": {key: work.record(now) for key, work in self._work.items()}}
        backend = backends.get_backend(self._using)
        with suppress(DRefError):
            backend.execute([Write(ENTRY, get_codec(backend.params.codec).encode(record), op=new_op_id())])
        self._changed, self._sent = False, now


@dataclass(frozen=True, slots=True)
class Status:
    """Of one field, as the flusher last said.

    `holder`: of the flusher's lock, None when nobody flushes. `reported`: when it said so. `lag`: seconds for which the
    oldest change that the flusher has heard of waits by now, 0 when none does; None when nobody flushes, or nothing was
    said yet. `waiting`: how many wait. `flushed`: values that this flusher has written, the last ones at `last_flush`.
    `trouble`: why it cannot flush now.
    """

    holder: LockInfo | None
    reported: datetime | None
    lag: float | None
    waiting: int | None
    flushed: int | None
    last_flush: datetime | None
    trouble: str


def statuses(using: str, keys: Iterable[str]) -> dict[str, Status]:
    """Of these sources, whose refs are on the back end `using`. Asks the back end twice, and no database."""
    backend = backends.get_backend(using)
    found = lock_info(LOCK, using=using)
    holder = found if found is not None and found.held else None
    (reply,) = backend.execute([Read(ENTRY)])
    record = get_codec(backend.params.codec).decode(reply.data) if isinstance(reply.data, bytes) else None
    if not isinstance(record, dict):
        return {key: Status(holder, None, None, None, None, None, "") for key in keys}
    reported = reply.version / 1e6  # versions are times of the server's clock
    age = max(0.0, (backend.clock.now() or time.time() * 1e6) / 1e6 - reported)
    return {key: _status(holder, reported, age, record, record["fields"].get(key)) for key in keys}


def _status(
    holder: LockInfo | None, reported: float, age: float, record: dict[str, Any], work: list[Any] | None
) -> Status:
    flushed, last, waiting, since = work or _Work().record(0)
    return Status(
        holder=holder,
        reported=_moment(reported),
        lag=None if holder is None else 0.0 if since is None else since + age,
        waiting=None if holder is None else waiting,
        flushed=flushed,
        last_flush=None if last is None else _moment(reported - last),
        trouble=record["trouble"],
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
