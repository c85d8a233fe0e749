"""The flusher: follows the refs of mirrored fields and brings their columns up to date, in batches.

Whoever holds the lock `dref.fields.mirror` flushes for all. It first listens to the names of the mirrored fields, then
compares all rows with their refs, in pages, and from then on flushes what it hears of. When it hears of a gap, or finds
itself on another back end than before, it compares again. What it knows it knows from versions: a flusher that was
killed, or frozen and thawed after another took over, leaves nothing wrong behind.

The lag is bounded by `LAG`: half of it is spent waiting for more to flush together. What others may know of it is said
in `reports.py`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.db import DatabaseError, close_old_connections

from dref_django import backends
from dref_django.exceptions import DRefError, LockLost
from dref_django.held import Held
from dref_django.hub import Raw
from dref_django.locks import Lock
from dref_django.protocol import Read
from dref_django.streams import Buffer, get_hub
from dref_django.waiting import Waker

from .columns import Columns, Target
from .declared import DRefField, ref_fields
from .orphans import databases_of
from .reports import LOCK, Report

logger = logging.getLogger("dref_django")

LAG: Final = 1.0
"""Seconds within which a column follows its ref, while the flusher and the database keep up."""
TTL: Final = 5.0
"""Seconds of the lock's lease: so long nobody flushes after a flusher was killed."""
LATE: Final = 2.0
"""How many times the lag that was asked for is worth a warning."""
RETRY: Final = 1.0
"""Seconds before it tries again when the back end or the database is away."""


class Source(NamedTuple):
    """One field in one database (or several that share their names)."""

    field: DRefField[Any]
    databases: list[str]

    @property
    def prefix(self) -> str:
        return self.field.pattern.prefix(self.databases[0])

    @property
    def label(self) -> str:
        return f"{self.field.owner._meta.label}.{self.field.name}"

    @property
    def key(self) -> str:
        """Of this source in reports."""
        return f"{self.label}@{self.databases[0]}"


class Differences(NamedTuple):
    """Of one page of rows: what to write, and what to set back from the version that was seen."""

    newer: list[Target]
    older: list[tuple[Target, int]]


def mirrored_fields() -> list[DRefField[Any]]:
    """Of all models of the project."""
    return [
        field
        for model in apps.get_models()
        for field in ref_fields(model)
        if field.columns is not None and field.owner is model and model._meta.managed
    ]


class Flusher:
    """Flushes the mirrored fields whose refs are on the back end `using`.

    - `run(stop)` does it until `stop` rings, waiting for the lock first; `compare()` once, for all rows.
    - The argument `lag`: seconds within which it flushes; `databases`: only rows of these aliases; `ttl`: of its lock.
    - `flusher.lag`: seconds for which the oldest change that it has heard of has waited, 0 when nothing waits.
    """

    def __init__(self, using: str, *, lag: float = LAG, databases: list[str] | None = None, ttl: float = TTL) -> None:
        self.using = using
        self.leads = False
        self.flushed = 0
        """Changes that were written so far."""
        self._period = lag / 2
        self._databases = databases
        self._ttl = ttl
        self._waiting_since: float | None = None
        self._report = Report(using)
        _flushers.add(self)

    @property
    def lag(self) -> float:
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    @staticmethod
    def lags() -> dict[str, float]:
        """Of the flushers in this process that lead, by the alias of the back end."""
        return {flusher.using: flusher.lag for flusher in list(_flushers) if flusher.leads}

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self, stop: Waker) -> None:
        lock = Lock(LOCK, ttl=self._ttl, using=self.using)
        while not stop.is_set():
            try:
                held = lock.acquire(timeout=RETRY)
            except DRefError:
                stop.wait(0.05)  # somebody else flushes, or the back end is away
                continue
            self._report.is_told = True
            try:
                self._lead(held, stop)
            except LockLost:
                logger.warning("dref: the mirror's lock is lost; another process goes on")
            except (DRefError, DatabaseError) as error:
                logger.warning("dref: mirrored columns cannot be flushed now: %s", error)
                self._report.fails(error)
                stop.wait(RETRY)
            finally:
                self.leads = self._report.is_told = False
                self._waiting_since = None
                close_old_connections()
                with suppress(DRefError):  # then it runs out by itself
                    lock.release(held)

    def _lead(self, held: Held, stop: Waker) -> None:
        sources = self.sources()
        heard = Waker()
        buffer = Buffer(False, 1, heard.set)
        backend = backends.get_backend(self.using)
        hub = get_hub(backend)
        try:
            for prefix in {source.prefix for source in sources}:
                hub.add(buffer, prefix=prefix).result(backend.params.timeout)
            heard.clear()
            _drain(buffer)  # the snapshot: comparing covers it, and what is absent as well
            self.compare(sources)
            self.leads = True
            while not stop.is_set() and not buffer.ended:
                held.check()
                close_old_connections()
                self._report.publish()
                if not heard.wait(self._period):
                    continue
                self._waiting_since = time.monotonic()
                stop.wait(self._period)
                heard.clear()
                raws = _drain(buffer)
                held.check()
                self.flush(sources, raws)
                if self.lag > 2 * LATE * self._period:
                    logger.warning("dref: mirrored columns lag by %.1f s", self.lag)
                self._waiting_since = None
        finally:
            hub.remove(buffer)

    # --- its work ---------------------------------------------------------------------------------------------------

    def sources(self) -> list[Source]:
        return [
            Source(field, databases)
            for field in mirrored_fields()
            if field.ref_using == self.using
            for databases in databases_of(field, self._databases)
        ]

    def flush(self, sources: Iterable[Source], raws: Iterable[Raw]) -> None:
        """Writes changes that were heard of; a deleted or expired ref as the default. After a gap it compares first."""
        changes = list(raws)
        work: list[tuple[Source, list[Target]]] = []
        for source in sources:
            pattern, alias = source.field.pattern, source.databases[0]
            keys = [(pattern.pk(raw.name, alias), raw) for raw in changes]
            work.append((source, [Target(pk, raw.data, raw.version) for pk, raw in keys if pk is not None]))
            self._report.hears(source.key, len(work[-1][1]), self._waiting_since)
        self._report.publish()
        if any(raw.gap for raw in changes):
            self.compare(source for source, _ in work)
        for source, targets in work:
            for alias in source.databases:
                _columns(source.field).update(alias, targets)
            self.flushed += len(targets)
            self._report.wrote(source.key, len(targets))
        self._report.goes_well()

    def compare(self, sources: Iterable[Source] | None = None) -> None:
        """Reads the versions of all refs, page by page, and writes the rows that differ."""
        for source in self.sources() if sources is None else sources:
            columns = _columns(source.field)
            for alias in source.databases:
                for newer, older in self._differences(source.field, alias):
                    columns.update(alias, newer)
                    columns.set_back(alias, older)
                    self.flushed += len(newer) + len(older)
                    self._report.wrote(source.key, len(newer) + len(older))
                    self._report.publish()
        self._report.goes_well()

    def count_behind(self, source: Source) -> int:
        """How many rows do not show their ref's value now; reads all of them, and writes nothing."""
        return sum(
            len(newer) + len(older)
            for alias in source.databases
            for newer, older in self._differences(source.field, alias)
        )

    def _differences(self, field: DRefField[Any], alias: str) -> Iterator[Differences]:
        """Page by page. The row is read before the ref, so that of the two versions the ref's is the newer one: where
        it is the older one, the ref itself was set back."""
        backend = backends.get_backend(self.using)
        default = field.decode(None)
        for page in _columns(field).pages(alias):
            replies = backend.execute([Read(field.pattern.name(pk, alias)) for pk, _, _ in page])
            found = Differences([], [])
            for (pk, value, version), reply in zip(page, replies, strict=True):
                if reply.version > version:
                    found.newer.append(Target(pk, reply.data, reply.version))
                elif reply.data is None and value != default:  # absent for so long that its last version is forgotten
                    found.older.append((Target(pk, None, version), version))
                elif reply.data is not None and reply.version < version:
                    found.older.append((Target(pk, reply.data, reply.version), version))
            yield found


_flushers: weakref.WeakSet[Flusher] = weakref.WeakSet()


def _columns(field: DRefField[Any]) -> Columns:
    if field.columns is None:
        raise ValueError(f"{field.owner._meta.label}.{field.name} is not mirrored")
    return field.columns


def _drain(buffer: Buffer) -> list[Raw]:
    raws: list[Raw] = []
    while (raw := buffer.pop()) is not None:
        raws.append(raw)
    return raws


# --- in the background of a process -------------------------------------------------------------------------------

_mutex = threading.Lock()
_running: tuple[int, Waker] | None = None


def start_mirrors(*, lag: float = LAG) -> None:
    """Lets this process flush mirrored columns, in a thread for each back end, as long as it holds their lock.

    Call it in `asgi.py` or `wsgi.py`, in each process that serves (forked workers have to call it themselves), or run
    `manage.py dref mirror` instead. Calling it again does nothing.
    """
    global _running
    with _mutex:
        if _running is not None and _running[0] == os.getpid():
            return
        stop = Waker()
        _running = os.getpid(), stop
        for using in sorted({field.ref_using for field in mirrored_fields()}):
            thread = threading.Thread(
                target=Flusher(using, lag=lag).run, args=(stop,), name=f"dref-mirror-{using}", daemon=True
            )
            thread.start()


def stop_mirrors() -> None:
    """Ends the threads of `start_mirrors` soon; another process takes over at once."""
    global _running
    with _mutex:
        if _running is not None and _running[0] == os.getpid():
            _running[1].set()
        _running = None
