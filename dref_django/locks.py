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
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypeAlias, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction

from . import backends, commits, conf, process
from .entries import Entry, HeldAll
from .exceptions import DRefError, LockLost, LockTimeout
from .flows import Flow, adrive, drive
from .held import Held, notify_lost
from .keeper import clock
from .leasing import MIN_TTL, Grant, hold, take
from .protocol import Reply, check_name

logger = logging.getLogger("dref_django")

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TTL: Final = 30.0
THREADS_REMEMBERED: Final = 128


class Setting:
    def __repr__(self) -> str:
        return "LOCK_TIMEOUT"


SETTING: Final = Setting()
Timeout = float | Setting | None
Otherwise = Literal["raise", "skip"]
Place: TypeAlias = tuple[threading.Thread, "asyncio.Task[Any] | None"]


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
        self._entries: dict[Place, list[Entry]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.names))}, ttl={self.ttl:g})"

    def lease(self, name: str) -> str:
        return f"{self.kind}:{name}"

    # --- handles ------------------------------------------------------------------------------------------------

    def acquire(self, timeout: Timeout = SETTING) -> Held:
        """Takes the lock and returns its handle, which is renewed until `release(held)`. For one name.

        Handles know nothing of transactions: `release` frees the lock at once. They may change threads.
        """
        self._only_name()
        (held,) = drive(self._backend(), self._take(self._limit(timeout)))
        return held

    async def aacquire(self, timeout: Timeout = SETTING) -> Held:
        self._only_name()
        (held,) = await adrive(self._backend(), self._take(self._limit(timeout)))
        return held

    def release(self, held: Held) -> None:
        """Gives a handle back. Idempotent; raises `LockLost` when it was not held to the end."""
        drive(held.backend, self._give((held,), strict=True))

    async def arelease(self, held: Held) -> None:
        await adrive(held.backend, self._give((held,), strict=True))

    def _take(self, timeout: float | None, names: Sequence[str] = ()) -> Flow[tuple[Held, ...]]:
        """Takes these names (all of the lock's when none are given), or none of them."""
        backend = self._backend()
        names = names or self._names()
        deadline = None if timeout is None or len(names) == 1 else clock() + timeout
        taken: list[Held] = []
        try:
            for name in names:
                left = timeout if deadline is None or not taken else max(deadline - clock(), 0)
                grant = yield from self._grant(name, left)
                taken.append(hold(backend, name, grant, self.ttl))
            if self.on_lost is not None:
                tell = _once(notify_lost(self.on_lost))
                for held in taken:
                    held.when_lost(tell)
            if len(taken) > 1:
                for held in taken:
                    held.check()  # the first may have been lost while the last was waited for
        except BaseException:
            for held in taken:
                held.hand_back()
            raise
        return tuple(taken)

    def _grant(self, name: str, timeout: float | None) -> Flow[Grant]:
        """The lease that makes the caller a holder. What other kinds of locks do in their own way."""
        return take(self._backend(), self.lease(name), ttl=self.ttl, timeout=timeout, meta=self._meta())

    def _give(self, helds: Sequence[Held], *, strict: bool) -> Flow[None]:
        """Releases all in one step. Unless `strict`, a server out of reach is only logged."""
        releases = {held: release for held in helds if (release := held.let_go(self._keep(held))) is not None}
        try:
            replies: list[Reply] = (yield [*releases.values()]) if releases else []
        except DRefError as error:
            if strict:
                raise
            logger.warning("dref: %s could not be released and will run out: %s", ", ".join(map(repr, helds)), error)
            return
        except BaseException:
            self._hand_back(helds)
            raise
        kept = {held for held, reply in zip(releases, replies, strict=True) if held.was_kept(reply.existed)}
        for held in helds:
            if held not in kept:
                raise held.error()

    def _hand_back(self, helds: Iterable[Held]) -> None:
        for held in helds:
            held.hand_back(self._keep(held))

    def _keep(self, held: Held) -> float:
        """Seconds for which `at_least` wants it taken."""
        return max(held.acquired + self.at_least - held.backend.clock.monotonic(), 0.0) if self.at_least else 0.0

    # --- with ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Held:
        entry = self._again() if self.reentrant else None
        if entry is None:
            kept = self._kept_names()
            missing = [name for name in self._names() if name not in kept] if kept else self._names()
            owned: tuple[Held, ...] = ()
            if missing:
                owned = drive(self._backend(), self._take(self._limit(SETTING), missing))
            entry = Entry((*kept.values(), *owned) if kept else owned, owned)
            self._stack().append(entry)
        return _handle(entry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = self._leave()
        if entry is None:
            return
        loss: LockLost | None = None
        if entry.owned and not self._released_after_commit(entry.owned):
            try:
                drive(entry.owned[0].backend, self._give(entry.owned, strict=False))
            except LockLost as lost:
                loss = lost
        _report(entry.loss() or loss, error)

    async def __aenter__(self) -> Held:
        entry = self._again() if self.reentrant else None
        if entry is None:
            helds = await adrive(self._backend(), self._take(self._limit(SETTING)))
            entry = Entry(helds, helds)
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
            await adrive(entry.owned[0].backend, self._give(entry.owned, strict=False))
        except LockLost as lost:
            loss = loss or lost
        if ours and loss is not None:
            raise loss from error
        _report(loss, error)

    def _stack(self) -> list[Entry]:
        return self._entries.setdefault(here(), [])

    def _again(self) -> Entry | None:
        """The entry that this thread or task is in already, when it may enter again."""
        stack = self._entries.get(here())
        if not stack or stack[-1].loss() is not None:
            return None
        stack[-1].depth += 1
        return stack[-1]

    def _leave(self) -> Entry | None:
        """The entry to end; None for an inner one."""
        place = here()
        stack = self._entries.get(place)
        if not stack:
            place, stack = self._only_stack()
        stack[-1].depth -= 1
        if stack[-1].depth:
            return None
        entry = stack.pop()
        if not stack:
            del self._entries[place]
        return entry

    def _only_stack(self) -> tuple[Place, list[Entry]]:
        """A generator may be closed by another thread or task than the one that entered; one entry is unmistakable."""
        if len(self._entries) == 1:
            return next(iter(self._entries.items()))
        raise RuntimeError(
            f"{self!r} is left by a thread or task that did not enter it, and which of its {len(self._entries)} "
            "entries is meant cannot be told; use acquire() and release()."
        )

    # --- transactions -------------------------------------------------------------------------------------------

    def _kept_names(self) -> dict[str, Held]:
        """Those of this lock's names that this thread keeps until its transaction ends."""
        kept = _local.kept
        if not kept:
            return {}
        found = {name: kept.get((self.using, self.lease(name))) for name in self._names()}
        return {name: held for name, held in found.items() if held is not None and held.remaining() > 0}

    def _released_after_commit(self, owned: tuple[Held, ...]) -> bool:
        transactions = commits.open_transactions()
        if not transactions:
            return False
        kept = _local.kept
        if kept is None:
            kept = _local.kept = {}
        keys = [(self.using, self.lease(held.name)) for held in owned]
        kept.update(zip(keys, owned, strict=True))

        def ended(committed: bool) -> None:
            for key, held in zip(keys, owned, strict=True):
                if kept.get(key) is held:
                    del kept[key]
            if not committed:
                self._hand_back(owned)
                return
            try:
                drive(owned[0].backend, self._give(owned, strict=False))
            except LockLost as loss:
                logger.warning("dref: lost before the transaction was over: %s", loss)

        commits.after_all(transactions, ended)
        return True

    # --- decorator ----------------------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        _refuse_unguardable(function)
        guarded = self if self.names else self._named(f"{function.__module__}.{function.__qualname__}")
        if iscoroutinefunction(function):

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
        return _described(process.pid, threading.current_thread().name)

    def _backend(self) -> backends.Backend:
        return backends.get_backend(self.using)

    def _names(self) -> tuple[str, ...]:
        if not self.names:
            raise ValueError("lock() without a name is a decorator; give it a name to use it in a with block.")
        return self.names

    def _only_name(self) -> None:
        if len(self._names()) > 1:
            raise ValueError(f"acquire() is for a lock of one name; enter {self!r} in a with block instead.")

    def _limit(self, timeout: Timeout) -> float | None:
        if isinstance(timeout, Setting):
            timeout = self.timeout
        elif timeout is not None:
            timeout = seconds("timeout", timeout, 0)
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


class _Local(threading.local):
    kept: dict[tuple[str, str], Held] | None = None
    """What this thread holds until its transaction ends, by alias and lease."""


_local: Final = _Local()


def here() -> Place:
    """The thread and, inside a loop, the task: the objects, as their ids are used again."""
    if asyncio._get_running_loop() is None:
        return threading.current_thread(), None
    return threading.current_thread(), asyncio.current_task()


def _once(callback: Callable[[], None]) -> Callable[[], None]:
    """For several leases that belong together and are mostly lost together."""
    callbacks = [callback]

    def tell() -> None:
        if callbacks:
            callbacks.pop()()

    return tell


def _refuse_unguardable(function: Any) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function!r} is a generator: a lock around the call would be released before its body runs. "
            "Use a with block inside it."
        )
    if inspect.isclass(function) or not hasattr(function, "__qualname__"):
        raise TypeError(f"@lock guards a function, not {function!r}.")


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
    return _who(process.pid, threading.current_thread().name)


def _who(pid: int, thread: str) -> dict[str, Any]:
    return {"host": _HOST, "pid": pid, "thread": thread}


@functools.lru_cache(THREADS_REMEMBERED)
def _described(pid: int, thread: str) -> str:
    """Made once a thread, which takes locks more often than it is renamed."""
    return json.dumps(_who(pid, thread))


_HOST: Final = socket.gethostname()


def seconds(what: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 2**31:
        raise ValueError(f"{what} is a number of seconds, {least:g} or more, not {value!r}")
    return float(value)
