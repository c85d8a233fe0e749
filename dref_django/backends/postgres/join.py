"""Operations as part of the caller's database transaction: `join_transaction()`.

Within it the commands of this thread run on Django's own connection, with that transaction's isolation, and are
committed or rolled back with it. Every joined change leaves an `_Afterwards` in the transaction's own list of
`on_commit` callbacks. Django drops those of a savepoint that is rolled back, and runs them after the outermost commit:
so that list, and no bookkeeping of ours, says whose notices go out, and which rows this thread holds locked.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from psycopg.pq import TransactionStatus

from dref_django.exceptions import Conflict, DRefError, Unavailable
from dref_django.protocol import LEASE_COMMANDS, Command, Find, Read, Reply, Scan, ScanLeases
from dref_django.store import Event

from .dispatcher import Dispatcher
from .pools import MISSING_TABLE, Unusable, missing_tables
from .session import Broken, Limit, Refused, Session, converse

SERIALIZATION: Final = ("40001", "40P01")
CANCELLED: Final = ("57014", "55P03")
GOOD_BYE: Final = ("57P", "08")
"""SQLSTATEs with which the server ends a connection."""


class OwnLock(DRefError):
    """The row is held by this thread's own open transaction: waiting for it would never end."""


class _Afterwards:
    """What a joined change does when its transaction commits."""

    def __init__(self, names: frozenset[str], events: Sequence[Event], dispatcher: Dispatcher) -> None:
        self.names = names
        self._events = events
        self._dispatcher = dispatcher

    def __call__(self) -> None:
        if self._events:
            self._dispatcher.post(self._events)


class Joining:
    """The joined transactions of one back end."""

    def __init__(self, alias: str, space: str, dispatcher: Dispatcher) -> None:
        self._alias = alias
        self._space = space
        self._dispatcher = dispatcher
        self._holders: dict[int, BaseDatabaseWrapper] = {}
        """Django's connections whose transactions were joined and may be open, by their thread."""
        self._within: contextvars.ContextVar[bool] = contextvars.ContextVar("dref_django.joined", default=False)
        # `async_to_sync` runs the loop in another thread; the context tells for whom.
        self._thread: contextvars.ContextVar[int] = contextvars.ContextVar("dref_django.joining_thread", default=0)

    # --- asked before every operation ---------------------------------------------------------------------------

    def concerns_caller(self) -> bool:
        """Whether the caller may be in a joined transaction, or hold rows of one. Cheap: asked before everything."""
        return bool(self._holders) and self._holder() is not None

    def is_active(self) -> bool:
        """Whether the caller is within `join_transaction()`; a thread that was started there is not."""
        return self._within.get() and self._holder() is not None

    def _holder(self) -> BaseDatabaseWrapper | None:
        return self._holders.get(threading.get_ident()) or self._holders.get(self._thread.get())

    def refuse_async(self) -> None:
        raise DRefError(
            "join_transaction(): asynchronous ref operations cannot take part in a database transaction, Django has no "
            "asynchronous ones. Use the blocking methods within it."
        )

    def refuse_own_rows(self, commands: Sequence[Command]) -> None:
        """Raises OwnLock when a command would wait for a row that the caller's open transaction has written."""
        holder = self._holder()
        callbacks = [func for _, func, *_ in holder.run_on_commit] if holder is not None else []
        held = frozenset[str]().union(*(each.names for each in callbacks if isinstance(each, _Afterwards)))
        if not held:
            self._holders.pop(threading.get_ident(), None)
            return
        for command in commands:
            if not isinstance(command, (Read, Find, Scan, *LEASE_COMMANDS)) and command.name in held:
                raise OwnLock(
                    f"{command.name!r} was changed by join_transaction() in a database transaction that this thread "
                    "has not ended, and is now to be changed outside it: it would wait for itself. Put both within "
                    "join_transaction(), or the second after the transaction."
                )

    # --- the block ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def join(self) -> Iterator[None]:
        """Raises TransactionManagementError outside `transaction.atomic()`."""
        if not connections[self._alias].in_atomic_block:
            raise TransactionManagementError(
                f"join_transaction() stands inside transaction.atomic(using={self._alias!r}): there is no transaction "
                "to join."
            )
        thread = threading.get_ident()
        self._holders[thread] = connections[self._alias]
        self._thread.set(thread)
        token = self._within.set(True)
        try:
            yield
        finally:
            self._within.reset(token)

    def send(self, commands: Sequence[Command], now: int | None, limit: Limit) -> list[Reply]:
        """One batch on Django's connection. Any error of the server leaves the transaction unusable, as in SQL."""
        django = connections[self._alias]
        if not django.in_atomic_block:
            raise TransactionManagementError("join_transaction(): the transaction that was joined has ended.")
        if any(isinstance(command, LEASE_COMMANDS) for command in commands):
            raise DRefError(
                "join_transaction(): locks cannot be taken or released as part of a database transaction: everybody "
                "else who asks for the lock would wait for its end. Take the lock outside join_transaction()."
            )
        django.validate_no_broken_transaction()
        session = self._session(django)
        try:
            answer = session.wait(converse(session, self._space, commands, now, exact=True), limit)
        except (Refused, Broken) as error:
            django.needs_rollback = True
            if isinstance(error, Refused) and not error.sqlstate.startswith(GOOD_BYE):
                raise self._meaning(error, commands) from error
            session.close()
            raise Unavailable(
                f"join_transaction(): the connection of DATABASES[{self._alias!r}] was lost ({error}), and its "
                "transaction with it. Nothing was changed."
            ) from error
        names = frozenset(
            command.name for command in commands if not isinstance(command, (Read, Find, Scan, ScanLeases))
        )
        if names:  # also what it refused to change is locked now
            transaction.on_commit(_Afterwards(names, answer.events, self._dispatcher), using=self._alias)
        return answer.replies

    def _session(self, django: Any) -> Session:
        """Django's connection, in its transaction, as a session that prepares nothing (a pooler may stand between)."""
        django.ensure_connection()
        connection: psycopg.Connection[Any] = django.connection
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.execute("SELECT")  # psycopg begins the transaction with its first statement
        return Session(connection.pgconn, prepares=False)

    def _meaning(self, refused: Refused, commands: Sequence[Command]) -> Exception:
        names = ", ".join(sorted({repr(getattr(command, "name", "a scan")) for command in commands}))
        if refused.sqlstate in SERIALIZATION:
            return Conflict(
                f"{names}: another transaction was first ({refused}). Roll back and run the whole transaction again."
            )
        if refused.sqlstate in CANCELLED:
            return Unavailable(
                f"{names}: another transaction holds the row and did not end in time. Roll back; nothing was changed."
            )
        if refused.sqlstate in MISSING_TABLE:
            return missing_tables(self._alias)
        return Unusable(f"{names}: PostgreSQL refused the operation ({refused.sqlstate}: {refused}).")
