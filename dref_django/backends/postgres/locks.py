"""Leases that an advisory lock backs: free at once when the process that holds them dies.

**The lease is the truth, the advisory lock is the proof of life.** A lease lies in its row, with owner, token and
deadline, and means what it means on every back end (`leases.py`); who takes it, takes the row. Beyond that the session
that was granted it holds an advisory lock on the name. A lease that a session backs ends with that session: when
somebody else could get the advisory lock, then the server has seen the holder's connection end, and there is no need
to wait for the deadline. That gives the best of both:

- A process that is killed holds nothing a moment later: the kernel closes its connection. Who waits for it hears of
  that from nobody, and looks (`lookout.py`).
- A process that is frozen or cut off keeps its connection, and loses each lease at that lease's own deadline, by the
  server's clock, which is later than the deadline that the holder trusts. Were advisory locks alone the truth,
  `idle_session_timeout` would have to end the one session for all of them: after the shortest lease, which is before
  the others are over, or after the longest, which is late for the others. It is set all the same, to somewhat more than
  the longest lease, so that a frozen process does not keep a connection and its keys for ever.
- Two names may have the same key, and somebody else may use it: then the lease is one without a proof of life, as with
  `LOCKS = "lease"`. Both kinds of processes may work on the same leases.
- A lease is broken by changing its row. Nobody's session has to be ended.

One connection of the process, direct and never pooled, holds all its advisory locks (`advisory.py`). Nothing waits on
it: a lock is tried, and a waiter sleeps until the release wakes it, which is told by NOTIFY only when somebody waits in
another process. When the connection ends, whatever it backed is lost, and the holders hear of it in the same moment. An
end that the server sees and this process cannot (a broken network that resets one side only) is the one case in which
another may be granted a lease while its holder still trusts it; the fencing token is there for that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dref_django import background
from dref_django.backends.base import Sink
from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.protocol import Acquire, Command, Release, Renew, Reply, Wake

from .advisory import LockSession
from .lookout import Lookout
from .pools import before_database_changes, greet
from .session import Broken, Late, Limit, Refused, Session, aconnect
from .shared import Call

if TYPE_CHECKING:
    from .backend import PostgresBackend

logger = logging.getLogger("dref_django")

ROW_TIMEOUT: Final = 500
"""Milliseconds for which a row may be locked by somebody else; leases are changed in well under one."""
ROW_HELD: Final = "55P03"
ROW_PAUSE: Final = 0.1
"""Seconds in which the connection serves others before a row that was held is asked for again."""

SETTINGS: Final = {
    "synchronous_commit": "off",  # a crash ends all sessions, and with them all that these rows say
    "default_transaction_isolation": "read committed",
    "lock_timeout": str(ROW_TIMEOUT),
    "idle_in_transaction_session_timeout": "10000",
}


_KINDS: Final = (Acquire, Renew, Release)


class Pooled(Exception):
    """A pooler stands between, which gives one session to many: an advisory lock would prove nothing."""


class Locks:
    """The commands that take, renew and release leases, on the process's connection for locks."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend: PostgresBackend = weakref.proxy(backend)
        self.space = backend.params.key_prefix
        self.timeout = backend.params.timeout
        self._address = backend.address
        self.sinks: weakref.WeakSet[Sink] = weakref.WeakSet()
        """Those that hear of wakes within this process."""
        self._start_anew()
        before_database_changes(self)

    def _start_anew(self) -> None:
        self._mutex = threading.Lock()
        self._opening: concurrent.futures.Future[LockSession] | None = None
        self._session: LockSession | None = None
        self.lookout = Lookout(self)

    # --- one batch ----------------------------------------------------------------------------------------------

    @staticmethod
    def concerns(commands: Sequence[Command]) -> bool:
        return isinstance(commands[0], _KINDS) or any(isinstance(command, _KINDS) for command in commands)

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        """As `Backend.send`; raises Pooled and Refused, too."""
        end = time.monotonic() + timeout
        session = self.session()
        if session is None:
            try:
                session = self._open_soon().result(timeout)
            except TimeoutError:
                raise NotSent("no connection within the time limit") from None
            except (Broken, Refused) as error:
                raise NotSent(str(error)) from error
        while True:
            try:
                replies = _exchange(session, commands, now, end)
                if replies is None:
                    replies = _exchange(session, commands, now, end, exact=True)
                return replies or []
            except Refused as refused:
                if not _may_ask_again(refused, end):
                    raise
            time.sleep(ROW_PAUSE)

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        end = time.monotonic() + timeout
        session = self.session()
        if session is None:
            try:
                async with asyncio.timeout(timeout):
                    session = await asyncio.shield(asyncio.wrap_future(self._open_soon()))
            except TimeoutError:
                raise NotSent("no connection within the time limit") from None
            except (Broken, Refused) as error:
                raise NotSent(str(error)) from error
        while True:
            try:
                replies = await _aexchange(session, commands, now, end)
                if replies is None:
                    replies = await _aexchange(session, commands, now, end, exact=True)
                return replies or []
            except Refused as refused:
                if not _may_ask_again(refused, end):
                    raise
            await asyncio.sleep(ROW_PAUSE)

    # --- the connection -----------------------------------------------------------------------------------------

    def session(self) -> LockSession | None:
        """The connection, when it can be used."""
        session = self._session
        if session is None or session.reason is not None:
            return None
        if session.key != self._address.key():
            session.end("the database's settings were changed")
            return None
        return session

    def _open_soon(self) -> concurrent.futures.Future[LockSession]:
        """One attempt to connect, for all who wait; on the background loop, which no user blocks."""
        with self._mutex:
            if self._opening is None or self._opening.done():
                self._opening = background.submit(self._open())
            return self._opening

    async def _open(self) -> LockSession:
        session = self.session()
        if session is not None:
            return session
        limit = Limit.of(self.timeout)
        if self._session is not None:  # whoever lost a lease with it has heard of it before another is granted
            await asyncio.wait_for(asyncio.wrap_future(self._session.over), self.timeout)
        key = self._address.key()
        plain = Session(await aconnect(self._address.direct_params(self.timeout), limit.end))
        try:
            settings = {**SETTINGS, "statement_timeout": str(int(self.timeout * 1000))}
            if not await plain.await_(greet(plain, self._address, settings), limit):
                raise Pooled
        except BaseException:
            plain.close()
            raise
        self._session = LockSession(
            plain.pgconn, key, self.space, self._backend.node_id(), self.timeout, self._backend.clock, self
        )
        return self._session

    def deliver(self, wakes: Sequence[Wake], own: str) -> None:
        """Rings here who waits here, those whose owners start with `own`. For the others there is NOTIFY, after the
        release is committed."""
        others = []
        for wake in wakes:
            if wake.owner.startswith(own):
                self.ring(wake)
            else:
                others.append(wake)
        if others:
            self._backend.dispatcher.post(others)

    def ring(self, wake: Wake) -> None:
        """Rings somebody who waits here."""
        for sink in list(self.sinks):
            sink.wake(wake)

    def now(self) -> int | None:
        """What to give to the server as `now`."""
        return self._backend.clock.now()

    def lost(self, session: LockSession, leases: Sequence[tuple[str, str]]) -> None:
        """A connection has ended: who holds what it backed must not believe in it a moment longer."""
        logger.info("dref_django: the connection of the locks has ended: %s", session.reason)
        if leases and self._backend.on_loss is not None:
            self._backend.on_loss(leases, f"the connection to PostgreSQL has ended: {session.reason}")

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the connection; the next use opens another."""
        self.lookout.close()
        session = self._session
        if session is not None:
            session.end("the back end was closed")

    def yield_database(self) -> None:
        self.close()

    def forget(self) -> None:
        """In a forked child: leaves the parent's connection alone."""
        session = self._session
        self._start_anew()
        if session is not None:
            session.abandon()


def _exchange(
    session: LockSession, commands: Sequence[Command], now: int | None, end: float, *, exact: bool = False
) -> list[Reply] | None:
    try:
        return _replies(session.exchange(lambda: session.call(commands, now, exact=exact), end))
    except Late as late:
        raise _too_late(session, late) from late
    except Broken as broken:
        raise NotSent(str(broken)) from broken


async def _aexchange(
    session: LockSession, commands: Sequence[Command], now: int | None, end: float, *, exact: bool = False
) -> list[Reply] | None:
    try:
        call = session.submit(lambda: session.call(commands, now, exact=exact))
    except Broken as broken:
        raise NotSent(str(broken)) from broken
    try:
        await session.await_(call, end)
    except Late as late:
        raise _too_late(session, late) from late
    return _replies(call)


def _replies(call: Call) -> list[Reply] | None:
    """None: it takes an exact statement."""
    try:
        replies: list[Reply] | None = call.result()
    except Broken as broken:
        raise ReplyLost(str(broken)) from broken
    return replies


def _may_ask_again(refused: Refused, end: float) -> bool:
    """A row was held for longer than the connection may stand still; nothing was changed, and there is time left."""
    return refused.sqlstate == ROW_HELD and time.monotonic() + ROW_PAUSE + 2 * ROW_TIMEOUT / 1000 < end


def _too_late(session: LockSession, late: Late) -> ReplyLost:
    """The reply may still come, and the connection is worth waiting for as long as a lease depends on it."""
    if not session.holdings:
        session.end(str(late))
    return ReplyLost(str(late))
