"""A small pool of connections of our own, one for all threads and all event loops of the process.

Last in, first out, bounded, with a deadline on waiting. A session belongs to no loop (see `session.py`), so
`async_to_sync`, which makes a loop a call, finds the connection of the call before.

Test databases: connections follow the alias's name, and close before Django creates, clones or drops a database. It
does that on a connection to no database in particular, and the signal `connection_created` tells of it in time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg.pq.abc import PGconn

from dref_django.exceptions import DRefError

from .address import Address
from .session import Limit, Refused, Session, Steps, aconnect, connect
from .statements import LAYOUT

DEFAULT_SIZE: Final = 16
LONGEST_CHANGE: Final = 60.0
"""Seconds after which a connection to no database that is still open is taken for forgotten."""
MISSING_TABLE: Final = ("42P01", "42883", "3F000", "42704")


class Exhausted(Exception):
    """No connection was free in time."""


class Unusable(DRefError):
    """The database is there but not as this back end needs it: not migrated, or migrated by a newer release."""


_Waiter = concurrent.futures.Future[Session | None]


class Pool:
    """`take` and `atake` hand out a session until `give` (sound) or `drop` (not sound) returns it."""

    def __init__(self, address: Address, size: int) -> None:
        self.address = address
        self.size = size
        self._start_anew()
        _pools.add(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._places = self.size
        self._waiters: deque[_Waiter] = deque()
        self._pid = os.getpid()
        self._generation: object = object()

    # --- taking and giving --------------------------------------------------------------------------------------

    def take(self, limit: Limit) -> Session:
        """Raises Exhausted, Broken or Refused (by the server, while connecting); nothing was sent then."""
        if self._pid != os.getpid():
            self.forget()
        while True:
            session, waiter = self._reserve()
            if waiter is not None:
                try:
                    session = waiter.result(max(0.0, limit.end - time.monotonic()))
                except concurrent.futures.TimeoutError:
                    raise self._give_up(waiter) from None
            if session is None:
                return self._open_with(limit)
            if self._is_current(session):
                return session
            self.drop(session)

    async def atake(self, limit: Limit) -> Session:
        """`take` on the running loop."""
        if self._pid != os.getpid():
            self.forget()
        while True:
            session, waiter = self._reserve()
            if waiter is not None:
                try:
                    async with asyncio.timeout(max(0.0, limit.end - time.monotonic())):
                        session = await asyncio.wrap_future(waiter)
                except BaseException as error:
                    given_up = self._give_up(waiter)
                    if isinstance(error, TimeoutError):
                        raise given_up from None
                    raise
            if session is None:
                return await self._aopen_with(limit)
            if self._is_current(session):
                return session
            self.drop(session)

    def give(self, session: Session) -> None:
        """Takes a sound session back."""
        if session.cancelled or session.generation is not self._generation:
            self.drop(session)
            return
        with self._lock:
            waiter = self._next_waiter() if self._waiters else None
            if waiter is None:
                self._idle.append(session)
            else:
                waiter.set_result(session)

    def drop(self, session: Session) -> None:
        """Closes a session that is not sound; another may be opened in its place."""
        with self._lock:
            self._free_place()
        session.close()

    def _reserve(self) -> tuple[Session | None, _Waiter | None]:
        """An idle session, or the right to open one (None, None), or a place in the queue for either."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), None
            if self._places:
                self._places -= 1
                return None, None
            waiter: _Waiter = concurrent.futures.Future()
            self._waiters.append(waiter)
            return None, waiter

    def _next_waiter(self) -> _Waiter | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if waiter.set_running_or_notify_cancel():
                return waiter
        return None

    def _free_place(self) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self._places += 1
        else:
            waiter.set_result(None)

    def _give_up(self, waiter: _Waiter) -> Exhausted:
        """Leaves the queue; what was handed over at the last moment goes on to the next."""
        if not waiter.cancel():
            session = waiter.result(1)
            if session is None:
                with self._lock:
                    self._free_place()
            else:
                self.give(session)
        return Exhausted(f"all {self.size} connections of the pool were in use (OPTIONS['POOL_SIZE'])")

    def _is_current(self, session: Session) -> bool:
        return session.generation is self._generation and session.place == self.address.key() and session.is_usable()

    # --- opening ------------------------------------------------------------------------------------------------

    def _open_with(self, limit: Limit) -> Session:
        try:
            generation = self._generation
            pgconn = connect(self.address.params(limit.end - time.monotonic()), limit.end)
            session = self._admit(pgconn, generation)
            try:
                session.wait(greet(session, self.address), limit)
            except BaseException:
                session.close()
                raise
        except BaseException:
            with self._lock:
                self._free_place()
            raise
        with self._lock:
            self._sessions.add(session)
        return session

    async def _aopen_with(self, limit: Limit) -> Session:
        try:
            generation = self._generation
            pgconn = await aconnect(self.address.params(limit.end - time.monotonic()), limit.end)
            session = self._admit(pgconn, generation)
            try:
                await session.await_(greet(session, self.address), limit)
            except BaseException:
                session.close()
                raise
        except BaseException:
            with self._lock:
                self._free_place()
            raise
        with self._lock:
            self._sessions.add(session)
        return session

    def _admit(self, pgconn: PGconn, generation: object) -> Session:
        """`generation` is the one in which the connection was begun: `close` may have come while it was made."""
        return Session(pgconn, prepares=not self.address.pooled, generation=generation, place=self.address.key())

    # --- the whole pool -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes what is idle now, and what is in use when it comes back."""
        with self._lock:
            self._generation = object()
            idle, self._idle = self._idle, []
            for _ in idle:
                self._free_place()
        for session in idle:
            session.close()

    def forget(self) -> None:
        """In a forked child: leaves the parent's connections alone."""
        sessions = list(self._sessions)
        self._start_anew()
        for session in sessions:
            session.abandon()


def greet(session: Session, address: Address, settings: Mapping[str, str] | None = None) -> Steps[bool]:
    """The first words on a new connection. Returns whether the server's session is ours alone; only then are `settings`
    made there, and statements prepared. Raises Unusable when the tables are missing or too new.

    A pooler makes up the process id that it announces, and in transaction mode gives the session to somebody else next:
    what is set or prepared there stays for the project's own transactions, and is missing where we come next.
    """
    announced = session.pgconn.backend_pid
    wanted = {} if address.pooled else {"default_transaction_isolation": "read committed"}
    script = [
        f"SELECT set_config('{name}', '{value}', false) WHERE pg_backend_pid() = {announced}"
        for name, value in {**wanted, **(settings or {})}.items()
    ]
    if role := address.role():
        script.append(f"SET ROLE {psycopg.sql.Identifier(role).as_string()}")
    script.append("SELECT value, pg_backend_pid() FROM dref_meta WHERE key = 'layout'")
    try:
        result = yield from session.script("; ".join(script))
    except Refused as refused:
        if refused.sqlstate in MISSING_TABLE:
            raise missing_tables(address.alias) from None
        raise
    layout = int(result.get_value(0, 0) or 0)
    if layout > LAYOUT:
        raise Unusable(
            f"The tables of dref_django in DATABASES[{address.alias!r}] have layout {layout}, made by a newer release; "
            f"this one knows layout {LAYOUT}. Upgrade dref-django here, too."
        )
    is_own = int(result.get_value(0, 1) or 0) == announced
    session.prepares = session.prepares and is_own
    return is_own


def missing_tables(alias: str) -> Unusable:
    return Unusable(
        f"DATABASES[{alias!r}] lacks the tables of dref_django. Add 'dref_django' to INSTALLED_APPS and run "
        f"'manage.py migrate --database {alias}'."
    )


# --- before Django creates, clones or drops a database --------------------------------------------------------------

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_changes: list[tuple[weakref.ref[BaseDatabaseWrapper], float]] = []
"""Django's connections to no database, and when to forget each. Replaced, never changed: any thread looks at it."""


def before_database_changes(owner: Any) -> None:
    """`owner.yield_database()` is called (while `owner` lives) before Django creates, clones or drops a database."""
    _owners.add(owner)


def databases_change() -> bool:
    """Whether Django is at it now, in this process: who reconnects by himself would be in its way."""
    return any(map(_goes_on, _changes))


def _goes_on(change: tuple[weakref.ref[BaseDatabaseWrapper], float]) -> bool:
    wrapper = change[0]()
    return wrapper is not None and wrapper.connection is not None and time.monotonic() < change[1]


def _make_way(*, connection: BaseDatabaseWrapper, **_: object) -> None:
    global _changes
    if connection.alias != NO_DB_ALIAS:
        return
    _changes = [*filter(_goes_on, _changes), (weakref.ref(connection), time.monotonic() + LONGEST_CHANGE)]
    for pool in list(_pools):
        pool.close()
    closers: list[Callable[[], None]] = [owner.yield_database for owner in list(_owners)]
    for closer in closers:
        closer()


connection_created.connect(_make_way, dispatch_uid="dref_django.postgres.pools")
