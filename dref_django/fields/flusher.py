"""The flusher: follows the refs of mirrored fields and brings their columns up to date, in batches.

Whoever holds the lock `dref.fields.mirror` flushes for all. It first listens to the names of the mirrored fields, then
compares all rows with their refs, in pages, and from then on flushes what it hears of. When it hears of a gap, or finds
itself on another back end than before, it compares again. What it knows it knows from versions: a flusher that was
killed, or frozen and thawed after another took over, leaves nothing wrong behind.

The lag is bounded by `LAG`: half of it is spent waiting for more to flush together.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
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

logger = logging.getLogger("dref_django")

LOCK: Final = "dref.fields.mirror"
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

    @property
    def lag(self) -> float:
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self, stop: Waker) -> None:
        lock = Lock(LOCK, ttl=self._ttl, using=self.using)
        while not stop.is_set():
            try:
                held = lock.acquire(timeout=RETRY)
            except DRefError:
                stop.wait(0.05)  # somebody else flushes, or the back end is away
                continue
            try:
                self._lead(held, stop)
            except LockLost:
                logger.warning("dref: the mirror's lock is lost; another process goes on")
            except (DRefError, DatabaseError) as error:
                logger.warning("dref: mirrored columns cannot be flushed now: %s", error)
                stop.wait(RETRY)
            finally:
                self.leads = False
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
            _drain(buffer)  # the snapshot: comparing covers it, and what is absent as well
            self.compare(sources)
            self.leads = True
            while not stop.is_set() and not buffer.ended:
                held.check()
                close_old_connections()
                if not heard.wait(self._period):
                    continue
                self._waiting_since = time.monotonic()
                stop.wait(self._period)
                heard.clear()
                raws = _drain(buffer)
                held.check()
                if any(raw.gap for raw in raws):
                    self.compare(sources)
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
        """Writes changes that were heard of; a deleted or expired ref is written as the default."""
        changes = list(raws)
        for field, databases in sources:
            keys = [(field.pattern.pk(raw.name, databases[0]), raw) for raw in changes]
            targets = [Target(pk, raw.data, raw.version) for pk, raw in keys if pk is not None]
            for alias in databases:
                _columns(field).update(alias, targets)
            self.flushed += len(targets)

    def compare(self, sources: Iterable[Source] | None = None) -> None:
        """Reads the versions of all refs, page by page, and writes the rows that differ.

        The row is read before the ref, so that of the two versions the ref's is the newer one: where it is the older
        one, the ref itself was set back.
        """
        for field, databases in self.sources() if sources is None else sources:
            for alias in databases:
                for page in _columns(field).pages(alias):
                    self._compare(field, alias, page)

    def _compare(self, field: DRefField[Any], alias: str, page: list[tuple[Any, Any, int]]) -> None:
        reads = [Read(field.pattern.name(pk, alias)) for pk, _, _ in page]
        replies = backends.get_backend(self.using).execute(reads)
        default = field.decode(None)
        newer: list[Target] = []
        older: list[tuple[Target, int]] = []
        for (pk, value, version), reply in zip(page, replies, strict=True):
            if reply.version > version:
                newer.append(Target(pk, reply.data, reply.version))
            elif reply.data is None and value != default:  # absent for so long that its last version is forgotten
                older.append((Target(pk, None, version), version))
            elif reply.data is not None and reply.version < version:
                older.append((Target(pk, reply.data, reply.version), version))
        columns = _columns(field)
        columns.update(alias, newer)
        columns.set_back(alias, older)
        self.flushed += len(newer) + len(older)


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
