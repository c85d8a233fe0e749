"""Locks that tell the truth.

    with lock("billing", ttl=30, timeout=10) as held: ...
    async with lock("billing") as held: ...

    @lock("nightly", timeout=0, otherwise="skip")
    def nightly(): ...

`timeout` is the time to wait, as in `threading`; `ttl` is the lease (redis-py's `timeout` is what is `ttl` here). One
lock object may be entered by many threads and tasks at once; each entry has its own handle, a `Held`.

A lease can be lost: the process froze, the network went, an operator broke it. That is told in four ways: the event
`held.lost`, the `on_lost` callback, `held.check()`, and `LockLost` when the block is left; the body of an `async with`
is cancelled. What must never happen twice needs the fencing token (`held.token`, `fence(held)`): see docs/locks.md.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast, overload

from . import backends, commits, conf
from .exceptions import DRefError, LockLost, LockTimeout
from .flows import Flow, adrive, drive
from .leasing import MIN_TTL, Grant, Held, clock, hold, notify_lost, take
from .protocol import check_name

logger = logging.getLogger("dref_django")

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TTL: Final = 30.0


class Setting:
    def __repr__(self) -> str:
        return "LOCK_TIMEOUT"


SETTING: Final = Setting()
Timeout = float | Setting | None
Otherwise = Literal["raise", "skip"]


class HeldAll:
    """Several locks that were taken together. As `Held`; lost as soon as one of them is."""

    def __init__(self, members: tuple[Held, ...]) -> None:
        self.members = members
        self.name = ", ".join(held.name for held in members)

    @property
    def tokens(self) -> dict[str, int]:
        return {held.name: held.token for held in self.members}

    @property
    def lost(self) -> bool:
        return any(held.lost for held in self.members)

    def check(self) -> None:
        for held in self.members:
            held.check()

    def remaining(self) -> float:
        return min(held.remaining() for held in self.members)


class Entry:
    """One passage through a lock: what is held, and how the loss is told to the body."""

    def __init__(self, helds: tuple[Held, ...], *, owns: bool) -> None:
        self.helds = helds
        self.owns = owns
        self.depth = 1
        self.task: asyncio.Task[Any] | None = None
        self.cancelling = 0
        self.interrupted = False
        self.left = False

    def interrupt_task(self) -> None:
        """From now on a loss cancels the task that runs the body."""
        self.task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if self.task is None:
            return
        self.cancelling = self.task.cancelling()
        for held in self.helds:
            held.on_lost.append(functools.partial(_call_soon, loop, self._interrupt))

    def _interrupt(self) -> None:
        if self.task is not None and not self.left and not self.interrupted:
            self.interrupted = True
            self.task.cancel()

    def is_own_cancellation(self, error: BaseException | None) -> bool:
        """As `asyncio.timeout`: our cancellation is taken back; somebody else's wins."""
        self.left = True
        if not self.interrupted or self.task is None:
            return False
        others = self.task.uncancel() > self.cancelling
        return isinstance(error, asyncio.CancelledError) and not others

    def loss(self) -> LockLost | None:
        for held in self.helds:
            if held.lost and not held.released:
                return held.error()
        return None


class Lock:
    """A named mutual exclusion for the whole cluster; context manager (`with`, `async with`) and decorator.

    - names: one, or several that are taken together in a fixed order. None as a decorator: module.function.
    - `ttl`: the lease in seconds, 1 or more. It is renewed as long as the block runs; it says how long others wait at
      the most when this process dies.
    - `timeout`: seconds to wait for the lock; 0 tries once; None waits for ever; default the setting LOCK_TIMEOUT.
      `LockTimeout` (a `TimeoutError`) when it is over.
    - `on_lost`: called without arguments on the process's callback thread.
    - `at_least`: seconds for which the lock stays taken from its acquisition, also when the block ends before. A crash
      frees it after `ttl` all the same.
    - `reentrant`: a thread or task that holds the lock may enter this object again.
    - `otherwise`: what a decorated function does when the lock is not free in time: "raise", or "skip" (returns None).

    Inside `transaction.atomic()` sync code keeps the lock until the outermost open transaction has ended; taking the
    same name again meanwhile adopts the held one. `async with` releases at the end of the block.
    """

    kind = "lock"

    def __init__(
        self,
        *names: str,
        ttl: float = DEFAULT_TTL,
        timeout: Timeout = SETTING,
        on_lost: Callable[[], Any] | None = None,
        at_least: float = 0.0,
        reentrant: bool = False,
        otherwise: Otherwise = "raise",
        using: str = conf.DEFAULT_ALIAS,
    ) -> None:
        self.names = tuple(sorted({check_name(name) for name in names}))
        self.ttl = seconds("ttl", ttl, MIN_TTL)
        self.timeout = timeout if timeout is None or isinstance(timeout, Setting) else seconds("timeout", timeout, 0)
        self.at_least = seconds("at_least", at_least, 0)
        self.using = using
        self.on_lost = on_lost
        self.reentrant = reentrant
        if otherwise not in ("raise", "skip"):
            raise ValueError(f'otherwise is "raise" or "skip", not {otherwise!r}')
        self.otherwise: Otherwise = otherwise
        self._entries: dict[tuple[int, int], list[Entry]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.names))}, ttl={self.ttl:g})"

    def lease(self, name: str) -> str:
        return f"{self.kind}:{name}"

    # --- handles ------------------------------------------------------------------------------------------------

    def acquire(self, timeout: Timeout = SETTING) -> Held:
        """Takes the lock and returns its handle, which is renewed until `release(held)`. For one name."""
        (held,) = drive(self._backend(), self._take(self._limit(timeout)))
        return held

    async def aacquire(self, timeout: Timeout = SETTING) -> Held:
        (held,) = await adrive(self._backend(), self._take(self._limit(timeout)))
        return held

    def release(self, held: Held) -> None:
        """Gives a handle back. Idempotent; raises `LockLost` when it was not held to the end."""
        drive(held.backend, self._give((held,), strict=True))

    async def arelease(self, held: Held) -> None:
        await adrive(held.backend, self._give((held,), strict=True))

    def _take(self, timeout: float | None) -> Flow[tuple[Held, ...]]:
        backend = self._backend()
        deadline = None if timeout is None else clock() + timeout
        taken: list[Held] = []
        try:
            for name in self._names():
                left = None if deadline is None else max(deadline - clock(), 0)
                grant = yield from self._grant(name, left)
                held = hold(backend, name, grant, self.ttl)
                taken.append(held)
                if self.on_lost is not None:
                    held.on_lost.append(notify_lost(self.on_lost))
        except BaseException:
            for held in taken:
                held.hand_back()
            raise
        return tuple(taken)

    def _grant(self, name: str, timeout: float | None) -> Flow[Grant]:
        """The lease that makes the caller a holder. What other kinds of locks do in their own way."""
        return take(self._backend(), self.lease(name), ttl=self.ttl, timeout=timeout, meta=self._meta())

    def _give(self, helds: Iterable[Held], *, strict: bool) -> Flow[None]:
        """Releases all, whatever happens to one. Unless `strict`, a server out of reach is only logged."""
        loss: LockLost | None = None
        for held in helds:
            keep = max(held.acquired + self.at_least - clock(), 0.0)
            try:
                if not (yield from held.give_back(keep)):
                    loss = held.error()
            except DRefError as error:
                if strict:
                    raise
                logger.warning("dref: %r could not be released and will run out: %s", held, error)
        if loss is not None:
            raise loss

    # --- with ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Held:
        entry = self._again() or self._adopted()
        if entry is None:
            entry = Entry(drive(self._backend(), self._take(self._limit(SETTING))), owns=True)
            self._stack().append(entry)
        return _handle(entry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = self._leave()
        if entry is None:
            return
        entry.left = True
        loss = entry.loss()
        if entry.owns and not self._released_after_commit(entry):
            try:
                drive(self._backend(), self._give(entry.helds, strict=False))
            except LockLost as lost:
                loss = loss or lost
        _report(loss, error)

    async def __aenter__(self) -> Held:
        entry = self._again()
        if entry is None:
            entry = Entry(await adrive(self._backend(), self._take(self._limit(SETTING))), owns=True)
            entry.interrupt_task()
            self._stack().append(entry)
        return _handle(entry)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = self._leave()
        if entry is None:
            return
        ours = entry.is_own_cancellation(error)
        loss = entry.loss()
        try:
            await adrive(self._backend(), self._give(entry.helds, strict=False))
        except LockLost as lost:
            loss = loss or lost
        except asyncio.CancelledError:
            for held in entry.helds:
                held.hand_back()
            raise
        if ours and loss is not None:
            raise loss from error
        _report(loss, error)

    def _stack(self) -> list[Entry]:
        return self._entries.setdefault(here(), [])

    def _again(self) -> Entry | None:
        """The entry that this thread or task is in already, when it may enter again."""
        stack = self._entries.get(here())
        if not self.reentrant or not stack or stack[-1].loss() is not None:
            return None
        stack[-1].depth += 1
        return stack[-1]

    def _leave(self) -> Entry | None:
        """The entry to end; None for an inner one."""
        place = here()
        stack = self._entries.get(place)
        if not stack:
            raise RuntimeError(
                f"{self!r} is left by another thread or task than the one that entered it; use acquire() and release()."
            )
        stack[-1].depth -= 1
        if stack[-1].depth:
            return None
        entry = stack.pop()
        if not stack:
            del self._entries[place]
        return entry

    # --- transactions -------------------------------------------------------------------------------------------

    def _adopted(self) -> Entry | None:
        """The locks that this thread keeps until its transaction ends, when they are the ones asked for."""
        kept = _kept.get(threading.get_ident())
        if not kept:
            return None
        helds = [self._kept_for(name, kept) for name in self._names()]
        if any(held is None or held.lost for held in helds):
            return None
        entry = Entry(cast("tuple[Held, ...]", tuple(helds)), owns=False)
        self._stack().append(entry)
        return entry

    def _kept_for(self, name: str, kept: dict[tuple[str, str], Held]) -> Held | None:
        return kept.get((self.using, self.lease(name)))

    def _released_after_commit(self, entry: Entry) -> bool:
        transactions = commits.open_transactions()
        if not transactions:
            return False
        kept = _kept.setdefault(threading.get_ident(), {})
        keys = [(self.using, self.lease(name)) for name in self._names()]
        kept.update(zip(keys, entry.helds, strict=True))

        def ended(committed: bool) -> None:
            for key in keys:
                kept.pop(key, None)
            if not committed:
                for held in entry.helds:
                    held.hand_back()
                return
            try:
                drive(self._backend(), self._give(entry.helds, strict=False))
            except LockLost as loss:
                logger.warning("dref: lost before the transaction was over: %s", loss)

        commits.after_all(transactions, ended)
        return True

    # --- decorator ----------------------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        guarded = self if self.names else self._named(f"{function.__module__}.{function.__qualname__}")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def aguard(*args: P.args, **kwargs: P.kwargs) -> Any:
                try:
                    await guarded.__aenter__()
                except LockTimeout:
                    if guarded.otherwise == "raise":
                        raise
                    return None
                async with _Entered(guarded):
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", aguard)

        @functools.wraps(function)
        def guard(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                guarded.__enter__()
            except LockTimeout:
                if guarded.otherwise == "raise":
                    raise
                return None
            with _Entered(guarded):
                return function(*args, **kwargs)

        return cast("Callable[P, R]", guard)

    def _named(self, name: str) -> Lock:
        return type(self)(
            name,
            ttl=self.ttl,
            timeout=self.timeout,
            on_lost=self.on_lost,
            at_least=self.at_least,
            reentrant=self.reentrant,
            otherwise=self.otherwise,
            using=self.using,
        )

    # --- small things -------------------------------------------------------------------------------------------

    def _meta(self) -> str:
        """What inspection shows of the holder."""
        return json.dumps(who_am_i())

    def _backend(self) -> backends.Backend:
        return backends.get_backend(self.using)

    def _names(self) -> tuple[str, ...]:
        if not self.names:
            raise ValueError("lock() without a name is a decorator; give it a name to use it in a with block.")
        return self.names

    def _limit(self, timeout: Timeout) -> float | None:
        if isinstance(timeout, Setting):
            timeout = self.timeout
        return self._backend().params.lock_timeout if isinstance(timeout, Setting) else timeout


class _Entered:
    """Leaves a lock that was entered before."""

    def __init__(self, entered: Lock) -> None:
        self._entered = entered

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: Any) -> None:
        await self._entered.__aexit__(*error)


@overload
def lock(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def lock(
    *names: str,
    ttl: float = ...,
    timeout: Timeout = ...,
    on_lost: Callable[[], Any] | None = ...,
    at_least: float = ...,
    reentrant: bool = ...,
    otherwise: Otherwise = ...,
    using: str = ...,
) -> Lock: ...


def lock(*names: Any, **options: Any) -> Any:
    """`Lock(...)`, or a decorator by itself: `@lock` guards a function under the name module.function."""
    if len(names) == 1 and not options and callable(names[0]):
        return Lock()(names[0])
    return Lock(*names, **options)


_kept: dict[int, dict[tuple[str, str], Held]] = {}
"""By thread: what is held until the thread's transaction ends."""


def here() -> tuple[int, int]:
    """The thread and, inside a loop, the task."""
    if asyncio._get_running_loop() is None:
        return threading.get_ident(), 0
    return threading.get_ident(), id(asyncio.current_task())


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


def _handle(entry: Entry) -> Held:
    if len(entry.helds) == 1:
        return entry.helds[0]
    return cast("Held", HeldAll(entry.helds))


def _report(loss: LockLost | None, error: BaseException | None) -> None:
    if loss is None:
        return
    if error is None:
        raise loss
    error.add_note(f"dref: {loss}")


def who_am_i() -> dict[str, Any]:
    return {"host": _HOST, "pid": os.getpid(), "thread": threading.current_thread().name}


_HOST: Final = socket.gethostname()


def seconds(what: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 2**31:
        raise ValueError(f"{what} is a number of seconds, {least:g} or more, not {value!r}")
    return float(value)
