"""One batch of commands: one statement on a connection of ours, and what each failure proves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured

from dref_django.backends.base import Backend, Params, Sink
from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.driving import arun, run
from dref_django.exceptions import Unavailable
from dref_django.protocol import Add, Command, Reply

from .address import Address
from .channels import Channels
from .combining import Combiner, Wait
from .dispatcher import Dispatcher
from .join import Joining
from .listener import PostgresFeed
from .locks import Locks, Pooled
from .pools import DEFAULT_SIZE, MISSING_TABLE, Exhausted, Pool, Unusable, missing_tables
from .session import Broken, Limit, Refused, Session, converse
from .statements import Answer

if TYPE_CHECKING:
    from django.core.checks import CheckMessage

logger = logging.getLogger("dref_django")

OPTIONS: Final = {"DATABASE_ALIAS": str, "LISTEN_DSN": str, "POOL_SIZE": int, "LOCKS": str}
LOCK_KINDS: Final = ("advisory", "lease")
CANCELLED: Final = ("57014", "55P03")
AGAIN: Final = ("40", "08", "53", "57", "25006", "26000", "0A000")
"""SQLSTATEs (or their first characters) after which the same batch may succeed on another connection: serialization,
deadlock, no room, shutdown, a server that only reads, a plan or prepared statement that is gone."""


class PostgresBackend(Backend):
    """Values and leases in the project's PostgreSQL database, on connections of its own.

    A change neither waits for nor rolls back with the caller's transaction, unless `join_transaction()` asks for it.

    OPTIONS: `DATABASE_ALIAS` (default "default"): the alias of DATABASES. `LISTEN_DSN`: a direct connection string
    when a pooler in transaction mode stands between; LISTEN needs a session. `POOL_SIZE` (default 16): connections
    of this process, for all threads and loops, besides one that notifies, one that listens and one for locks. `LOCKS`:
    "advisory" (default): a lock is free at once when the process that holds it dies; "lease": after its lease, for
    where only a pooler in transaction mode can be reached.
    """

    ordered_notices = False
    supports_join = True

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self._where = f"DREF_BACKENDS[{params.alias!r}]"
        options = self._options(params.options)
        self.address = Address(options.get("DATABASE_ALIAS", "default"), options.get("LISTEN_DSN", ""), self._where)
        self.channels = Channels(params.key_prefix)
        self.pool = Pool(self.address, options.get("POOL_SIZE", DEFAULT_SIZE))
        self.dispatcher = Dispatcher(self.address, self.channels, params.timeout)
        self.combiner = Combiner()
        self.locks = Locks(self) if options.get("LOCKS", "advisory") == "advisory" else None
        self.fifo_waiters = self.locks is None
        self._joining = Joining(self.address.alias, params.key_prefix, self.dispatcher)

    def _options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise ImproperlyConfigured(
                f"{self._where}: unknown OPTIONS {', '.join(unknown)}; the postgres back end has {', '.join(OPTIONS)}."
            )
        for name, value in options.items():
            if not isinstance(value, OPTIONS[name]) or isinstance(value, bool):
                raise ImproperlyConfigured(
                    f"{self._where}: OPTIONS[{name!r}] must be a {OPTIONS[name].__name__}, not {value!r}."
                )
        if options.get("POOL_SIZE", 1) < 1:
            raise ImproperlyConfigured(f"{self._where}: OPTIONS['POOL_SIZE'] must be at least 1.")
        if options.get("LOCKS", "advisory") not in LOCK_KINDS:
            raise ImproperlyConfigured(
                f"{self._where}: OPTIONS['LOCKS'] must be one of {', '.join(LOCK_KINDS)}, not {options['LOCKS']!r}."
            )
        return options

    # --- one batch ----------------------------------------------------------------------------------------------

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        if self._joining.concerns_caller():
            if self._joining.is_active():
                return self._joining.send(commands, now, Limit.of(timeout))
            self._joining.refuse_own_rows(commands)
        if self.locks is not None and self.locks.concerns(commands):
            try:
                return self.locks.send(commands, now, timeout)
            except Refused as refused:
                raise self._meaning(refused, commands) from refused
            except Pooled:
                self._do_without_sessions()
        limit = Limit.of(timeout)
        if now is None and len(commands) == 1 and isinstance(add := commands[0], Add):
            return self._add(add, limit)
        return self._exchange(commands, now, limit)

    def _add(self, add: Add, limit: Limit) -> list[Reply]:
        def get(wanted: Wait | Sequence[Command]) -> Any:
            return wanted.waited() if isinstance(wanted, Wait) else self._exchange(wanted, None, limit)

        return run(self.combiner.add(add.name, add, limit, concurrent.futures.Future), get)

    def _exchange(self, commands: Sequence[Command], now: int | None, limit: Limit) -> list[Reply]:
        try:
            session = self.pool.take(limit)
        except (Broken, Refused, Exhausted) as error:
            raise NotSent(str(error)) from error
        try:
            answer = session.wait(converse(session, self.params.key_prefix, commands, now), limit)
        except BaseException as error:
            self._fail(session, error, commands)
            raise
        return self._finish(session, answer)

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        if self._joining.is_active():
            self._joining.refuse_async()
        if self._joining.concerns_caller():
            self._joining.refuse_own_rows(commands)
        if self.locks is not None and self.locks.concerns(commands):
            try:
                return await self.locks.asend(commands, now, timeout)
            except Refused as refused:
                raise self._meaning(refused, commands) from refused
            except Pooled:
                self._do_without_sessions()
        limit = Limit.of(timeout)
        if now is None and len(commands) == 1 and isinstance(add := commands[0], Add):
            return await self._aadd(add, limit)
        return await self._aexchange(commands, now, limit)

    async def _aadd(self, add: Add, limit: Limit) -> list[Reply]:
        async def get(wanted: Wait | Sequence[Command]) -> Any:
            return await (wanted.awaited() if isinstance(wanted, Wait) else self._aexchange(wanted, None, limit))

        loop = asyncio.get_running_loop()
        return await arun(self.combiner.add((loop, add.name), add, limit, loop.create_future), get)

    async def _aexchange(self, commands: Sequence[Command], now: int | None, limit: Limit) -> list[Reply]:
        try:
            session = await self.pool.atake(limit)
        except (Broken, Refused, Exhausted) as error:
            raise NotSent(str(error)) from error
        try:
            answer = await session.await_(converse(session, self.params.key_prefix, commands, now), limit)
        except BaseException as error:
            self._fail(session, error, commands)
            raise
        return self._finish(session, answer)

    def _finish(self, session: Session, answer: Answer) -> list[Reply]:
        self.pool.give(session)
        if answer.events:
            self.dispatcher.post(answer.events)
        return answer.replies

    def _fail(self, session: Session, error: BaseException, commands: Sequence[Command]) -> None:
        """Raises what the failure of an exchange means, if that is another error; refused, a session stays whole."""
        if isinstance(error, Refused):
            self.pool.give(session)
            raise self._meaning(error, commands) from error
        self.pool.drop(session)
        if isinstance(error, Broken):
            raise ReplyLost(str(error)) from error

    def _do_without_sessions(self) -> None:
        self.locks = None
        logger.warning(
            "%s: a pooler stands between this process and PostgreSQL, so locks are as with LOCKS = 'lease': that of a "
            "process that dies is free after its lease. Set OPTIONS['LISTEN_DSN'] to a connection string that goes "
            "past the pooler.",
            self._where,
        )

    def _meaning(self, refused: Refused, commands: Sequence[Command]) -> Exception:
        """Every refusal proves that nothing was changed."""
        state = refused.sqlstate
        names = ", ".join(sorted({repr(getattr(command, "name", "a scan")) for command in commands}))
        if state in CANCELLED:
            return Unavailable(
                f"{names}: another transaction holds the row and did not end in time (is a join_transaction() open?). "
                "Nothing was changed."
            )
        if state in MISSING_TABLE:
            return missing_tables(self.address.alias)
        if state.startswith(AGAIN):
            return NotSent(str(refused))
        return Unusable(f"{names}: PostgreSQL refused the operation ({state}: {refused}). Nothing was changed.")

    # --- the rest of the contract -------------------------------------------------------------------------------

    def joined(self) -> AbstractContextManager[None]:
        return self._joining.join()

    def is_joined(self) -> bool:
        return self._joining.is_active()

    def feed(self, sink: Sink) -> PostgresFeed:
        if self.locks is not None:
            self.locks.sinks.add(sink)
        return PostgresFeed(self.address, self.channels, self.params, self.node_id(), sink)

    def close(self) -> None:
        if self.locks is not None:
            self.locks.close()
        self.dispatcher.close()
        self.pool.close()

    def after_fork(self) -> None:
        if self.locks is not None:
            self.locks.forget()
        self.pool.forget()
        self.combiner.forget()
        self.dispatcher.forget()

    def check(self) -> list[CheckMessage]:
        from .inspection import inspect

        return inspect(self)

    def outliving(self) -> Mapping[str, Any]:
        return {"LOCKS": "lease"}

    def facts(self) -> dict[str, Any]:
        from .facts import facts

        return facts(self)
