"""Several refs in one atomic step, and refs as part of a database transaction.

What a transaction has read and means to write lies in its workspace (`workspace.py`); here is how one is entered, ended
and run again.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction

from . import backends, conf, naming, workspace
from .exceptions import Conflict, DRefError, LockTimeout
from .flows import Call, Flow, Pause, adrive, drive, refuse_running_loop
from .leasing import Grant, give, take
from .waiting import Waker
from .workspace import Scope, Workspace

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS: Final = 20
QUEUE_AFTER: Final = 3
"""Conflicts after which a decorated function queues behind the lock of the ref in dispute, as `update` does."""
QUEUE_TTL: Final = 5.0
"""Seconds of that lock's lease: it orders writers, the versions that are checked keep them correct."""
LONGEST_PAUSE: Final = 0.02
"""Seconds between two attempts, at most: those who were in each other's way do not meet again in step."""


class Transaction:
    """`transaction()`: a block for `with` and `async with`, and a decorator. Made by `transaction`, below."""

    def __init__(self, *, using: str = conf.DEFAULT_ALIAS, attempts: int = ATTEMPTS) -> None:
        if attempts < 1:
            raise ValueError(f"attempts is a number of 1 or more, not {attempts!r}")
        self._using = using
        self._attempts = attempts

    # --- as a block ---------------------------------------------------------------------------------------------

    def __enter__(self) -> None:
        refuse_running_loop()
        self._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (ending := _leave(error)) is not None:
            drive(ending.backend, ending.commit())

    async def __aenter__(self) -> None:
        self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (ending := _leave(error)) is not None:
            await adrive(ending.backend, ending.commit())

    def _enter(self) -> None:
        backend = backends.get_backend(self._using)
        outer = workspace.current()
        if outer is None:
            workspace.enter(Scope(Workspace(backend), None, {}))
            return
        workspace.executor(backend)  # refuses another back end
        workspace.enter(Scope(outer.workspace, outer, outer.workspace.pages()))

    # --- as a decorator -----------------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        _refuse_undecoratable(function)
        if iscoroutinefunction(function):

            @functools.wraps(function)
            async def arun(*args: P.args, **kwargs: P.kwargs) -> Any:
                if workspace.current() is not None:
                    async with self:
                        return await cast("Any", function(*args, **kwargs))
                backend = backends.get_backend(self._using)
                return await adrive(backend, self._run(functools.partial(function, *args, **kwargs)))

            return cast("Callable[P, R]", arun)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if workspace.current() is not None:  # the outermost one runs again
                with self:
                    return function(*args, **kwargs)
            backend = backends.get_backend(self._using)
            return drive(backend, self._run(functools.partial(function, *args, **kwargs)))

        return run

    def _run(self, function: Callable[[], R]) -> Flow[R]:
        """Attempts until one is not disturbed; after a few conflicts in the queue of the ref in dispute."""
        backend = backends.get_backend(self._using)
        grant: Grant | None = None
        try:
            for attempt in range(1, self._attempts + 1):
                ours = Workspace(backend)
                try:
                    return (yield from _attempt(ours, function))
                except Conflict:
                    if not ours.conflict or attempt == self._attempts or backend.is_joined():
                        raise
                if attempt >= QUEUE_AFTER and grant is None:
                    lease = naming.ref_lease(ours.conflict)
                    with suppress(LockTimeout):  # then it goes on without
                        limit = backend.params.lock_timeout
                        grant = yield from take(backend, lease, ttl=QUEUE_TTL, timeout=limit)
                else:
                    yield Pause(random.uniform(0, LONGEST_PAUSE), Waker())  # noqa: S311
        finally:
            if grant is not None:
                with suppress(DRefError):  # then it runs out; what was asked for has its own result
                    yield from give(grant.lease, grant.owner)
        raise AssertionError("the last attempt returns or raises")


def _refuse_undecoratable(function: Any) -> None:
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"transaction decorates a function, not {function!r}; its options go by name (using=).")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function!r} is a generator: the transaction would end before its body runs. Use a with block inside."
        )


def _attempt(ours: Workspace, function: Callable[[], R]) -> Flow[R]:
    workspace.enter(Scope(ours, None, {}))
    try:
        result = yield Call(function)
    finally:
        workspace.enter(None)
        ours.ended = True
    yield from ours.commit()
    return cast("R", result)


def _leave(error: BaseException | None) -> Workspace | None:
    """Leaves the innermost block; returns the workspace that is to be committed now."""
    scope = workspace.current()
    if scope is None:
        raise DRefError("transaction(): the block is left in another context than it was entered in.")
    workspace.enter(scope.outer)
    if scope.outer is None:
        scope.workspace.ended = True
        return scope.workspace if error is None else None
    if error is not None:
        scope.workspace.go_back(scope.pages)
    return None


@overload
def transaction(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def transaction(*, using: str = ..., attempts: int = ...) -> Transaction: ...


def transaction(function: Any = None, /, **options: Any) -> Any:
    """Several refs change in one atomic step, or none does.

        with transaction():                     # or async with
            a.set(b.get() + 1)
            c.increment()

        @transaction                            # or @transaction(attempts=50); coroutine functions, too
        def move(amount): ...

    Changes are kept back until the end of the block and then written in one batch, on the condition that everything
    that was read inside is unchanged; reads inside see them. When another writer was first, nothing is written and
    `Conflict` is raised: at the end, or at the next read that shows it. A block's body cannot be run again; a decorated
    function is, up to `attempts` times (then `Conflict`), and queues behind the ref in dispute after a few, so it
    should only compute. What the body raises is raised, and nothing is written. A `set` of a ref that was not read
    overwrites whatever stands there.

    A block inside another one, or a decorated function called there, becomes part of the outermost: nothing is written
    before its end; when the inner one raises, its changes are forgotten.

    All refs are of one back end (`using`), and on a Redis Cluster of one `group`. `edit()` cannot be part of it, and
    locks, streams and database transactions know nothing of it. `version()` of a ref that was changed inside is
    provisional. Raises `OutcomeUnknown` at the end when it cannot be proven whether the batch was applied.
    """
    return Transaction(**options) if function is None else Transaction(**options)(function)


def join_transaction(using: str = conf.DEFAULT_ALIAS) -> AbstractContextManager[None]:
    """`with join_transaction(): ref.set(...)` makes ref operations part of the surrounding database transaction.

    Only on the postgres back end, inside `transaction.atomic()` of its database alias; raises `NotJoinable` on others.
    The change is committed or rolled back with that transaction; watchers hear of it after the commit. Reads have that
    transaction's isolation, serialization failures raise `Conflict`, nothing is retried, and `peek` is bypassed.
    """
    return backends.get_backend(using).joined()
