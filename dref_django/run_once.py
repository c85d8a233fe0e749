"""Once in the whole cluster: a body that runs for each key a single time, however many hosts start it.

    @once("daily-report", key=date.today)          # a callable: the key is computed at each call
    def daily_report(): ...

    with once("import", key=file.name, timeout=600) as turn:
        if turn: ...

A lock keeps two hosts from running it at the same time; a marker, written when the body has succeeded and while the
lock is still held, keeps those that come later, or that waited, from running it again. A body that raises, or whose
host dies, leaves no marker: another host runs it anew, so it may run *more* than once up to its last step. `once`
promises one success, not one attempt.

**Clocks.** No two hosts' clocks are compared. The marker's life is counted by the server, and the key is a name, not a
time: with `key=date.today` a host whose clock is two seconds behind starts two seconds later, names the same day, and
finds the marker. A host that names the day before (it was asked by something that went by another clock) finds that
day's marker, for which `keep` must be longer than one period.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

from django.db.backends.base.base import BaseDatabaseWrapper

from . import backends, commits, conf, naming
from .codecs import get_codec
from .exceptions import LockTimeout
from .flows import Flow, adrive, drive
from .held import Held
from .leasing import Grant
from .locks import DEFAULT_TTL, SETTING, Lock, Otherwise, Place, Timeout, here, seconds, who_am_i
from .protocol import ABSENT, OP_ID_SIZE, Delete, Read, Reply, Write, check_name

logger = logging.getLogger("dref_django")

P = ParamSpec("P")
R = TypeVar("R")

GROUP: Final = "dref.once"
"""The reserved group of the markers."""
KEEP: Final = timedelta(days=7)
LEAST_KEEP: Final = 10.0
"""Seconds: well above what clocks of hosts that are kept in step differ by."""


class Turn:
    """What `with once(...) as turn` gives: true when the body is to be run, false when it was run already.

    `held` is the lock while it is true; `token`, `check()` and `lost` are its own.
    """

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard
        self.held: Held | None = None

    def __bool__(self) -> bool:
        return self.held is not None

    @property
    def token(self) -> int:
        return self._mine().token

    @property
    def lost(self) -> bool:
        return self.held is not None and bool(self.held.lost)

    def check(self) -> None:
        """Raises `LockLost` unless it is proven that no other host runs the body now."""
        self._mine().check()

    def _mine(self) -> Held:
        if self.held is None:
            raise ValueError(f"{self._guard.names[0]!r} was skipped: there is no lock. Ask `if turn:` first.")
        return self.held


class Once:
    """`once(name, key=...)`: a decorator, `run` and `arun`, and a context manager (`with`, `async with`).

    - `key`: names the occasion; a str, number, date ..., or a callable without arguments that is asked at each call
      (`key=date.today`, without parentheses, in a decorator). None: one occasion for the name, again after `keep`.
    - `keep`: how long it is remembered that it was done, a timedelta or seconds, 10 s at least; default 7 days.
    - `timeout`: seconds to wait for another host that is at it, and to run the body if that one fails; default the
      setting LOCK_TIMEOUT; None waits for ever. When it is over, `otherwise="skip"` (the default) leaves the body to
      the other host, "raise" raises `LockTimeout`.
    - `ttl`: the lease in seconds: when the host dies at it, others may begin after that.

    Inside `transaction.atomic()` sync code counts as having succeeded when the transaction commits. When the lease was
    lost meanwhile, no marker is written and leaving the block raises `LockLost`: another host may run it again.
    """

    def __init__(
        self,
        name: str,
        *,
        key: Any = None,
        keep: timedelta | float = KEEP,
        timeout: Timeout = SETTING,
        ttl: float = DEFAULT_TTL,
        otherwise: Otherwise = "skip",
        using: str = conf.DEFAULT_ALIAS,
    ) -> None:
        self.name = check_name(name)
        self.key = key
        self.keep = seconds("keep", keep.total_seconds() if isinstance(keep, timedelta) else keep, LEAST_KEEP)
        self._options: dict[str, Any] = {"ttl": ttl, "timeout": timeout, "otherwise": otherwise, "using": using}
        self._turns: dict[Place, list[Turn]] = {}
        if not callable(key):
            self._guard()  # a wrong option is told at once

    def __repr__(self) -> str:
        return f"once({self.name!r}, key={self.key!r})"

    # --- running ------------------------------------------------------------------------------------------------

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Calls the function unless it was done already; returns its result, or None when it was skipped."""
        with self as turn:
            return function(*args, **kwargs) if turn else None

    async def arun(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R | None:
        async with self as turn:
            return await function(*args, **kwargs) if turn else None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def arun(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self.arun(function, *args, **kwargs)

            return cast("Callable[P, R | None]", arun)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return self.run(function, *args, **kwargs)

        return run

    def done(self) -> bool:
        """Whether it was done for the key of now."""
        return drive(self._backend(), self._guard().is_done())

    async def adone(self) -> bool:
        return await adrive(self._backend(), self._guard().is_done())

    def forget(self) -> bool:
        """Removes the marker for the key of now, so that it may run again; returns whether there was one."""
        return drive(self._backend(), self._guard().forget())

    async def aforget(self) -> bool:
        return await adrive(self._backend(), self._guard().forget())

    # --- with ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Turn:
        guard = self._guard()
        turn = Turn(guard)
        try:
            turn.held = guard.__enter__()
        except _DoneAlready:
            pass
        except LockTimeout:
            if guard.otherwise == "raise":
                raise
            logger.info("dref: %r is left to the process that is still at it", self)
        if turn.held is not None and guard.stands(turn.held):
            guard.__exit__(None, None, None)
            turn.held = None
        self._turns.setdefault(here(), []).append(turn)
        return turn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        turn = self._leave()
        if turn.held is not None:
            transactions = commits.open_transactions() if error is None else []
            if error is None:
                outcome = _outcomes[turn.held] = _Outcome(transactions)
            turn._guard.__exit__(kind, error, traceback)
            if (
                transactions
            ):  # the guard is released when they have ended; just before, this is told that they committed
                commits.first_at_commit(transactions, outcome.committed)

    async def __aenter__(self) -> Turn:
        guard = self._guard()
        turn = Turn(guard)
        try:
            turn.held = await guard.__aenter__()
        except _DoneAlready:
            pass
        except LockTimeout:
            if guard.otherwise == "raise":
                raise
            logger.info("dref: %r is left to the process that is still at it", self)
        self._turns.setdefault(here(), []).append(turn)
        return turn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        turn = self._leave()
        if turn.held is not None:
            if error is None:
                _outcomes[turn.held] = _Outcome([])
            await turn._guard.__aexit__(kind, error, traceback)

    def _leave(self) -> Turn:
        turns = self._turns[here()]
        turn = turns.pop()
        if not turns:
            del self._turns[here()]
        return turn

    def _backend(self) -> backends.Backend:
        return backends.get_backend(self._options["using"])

    def _guard(self) -> _Guard:
        key = self.key() if callable(self.key) else self.key
        return _Guard(self.name, _text(key), self.keep, self._options)


class _DoneAlready(Exception):
    pass


class _Outcome:
    """A success, standing once all transactions that were open have committed; a savepoint may still undo it."""

    def __init__(self, transactions: list[BaseDatabaseWrapper]) -> None:
        self._transactions = transactions
        self.pending = len(transactions)

    def stands(self) -> bool:
        return self.pending == 0 or commits.is_due(self._transactions, self.committed)

    def committed(self) -> None:
        self.pending -= 1


_outcomes: weakref.WeakKeyDictionary[Held, _Outcome] = weakref.WeakKeyDictionary()


class _Guard(Lock):
    """The lock around one run for one key. It writes the marker before it is released."""

    kind = "once"

    def __init__(self, name: str, key: str, keep: float, options: dict[str, Any]) -> None:
        super().__init__(name, **options)
        self._part = f"{naming.GROUP_SEPARATOR}{key}" if key else ""
        self._marker = naming.grouped(name, GROUP) + self._part
        self._memory = keep

    def lease(self, name: str) -> str:
        return f"{self.kind}:{name}{self._part}"

    def is_done(self) -> Flow[bool]:
        reply: Reply = yield Read(self._marker)
        return reply.data is not None

    def forget(self) -> Flow[bool]:
        reply: Reply = yield Delete(self._marker, op=os.urandom(OP_ID_SIZE))
        return reply.existed

    def stands(self, held: Held) -> bool:
        """Whether it was done before in the transaction that keeps the lock."""
        return held in _outcomes and _outcomes[held].stands()

    def _grant(self, name: str, timeout: float | None) -> Flow[Grant]:
        if (yield from self.is_done()):
            raise _DoneAlready
        return (yield from super()._grant(name, timeout))

    def _take(self, timeout: float | None, names: Sequence[str] = ()) -> Flow[tuple[Held, ...]]:
        helds = yield from super()._take(timeout, names)
        try:
            if (yield from self.is_done()):  # by the one that we waited for
                raise _DoneAlready
        except BaseException:
            helds[0].hand_back()
            raise
        return helds

    def _give(self, helds: Sequence[Held], *, strict: bool) -> Flow[None]:
        for held in helds:
            outcome = _outcomes.get(held)
            if outcome is not None and outcome.pending == 0 and held.remaining() > 0:
                try:
                    yield self._mark(held)
                except BaseException:
                    held.hand_back()
                    raise
        yield from super()._give(helds, strict=strict)

    def _mark(self, held: Held) -> Write:
        data = get_codec(held.backend.params.codec).encode({**who_am_i(), "token": held.token})
        return Write(self._marker, data, ABSENT, int(self._memory * 1e6), os.urandom(OP_ID_SIZE))


def _text(key: object) -> str:
    if key is None:
        return ""
    if type(key).__str__ is object.__str__ and type(key).__repr__ is object.__repr__:
        raise TypeError(f"key is a str, number, date ... that is written the same on every host, not {key!r}")
    return check_name(str(key))


once = Once
