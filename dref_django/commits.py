"""After the transactions that are open now: a hook that fires at commit, at rollback and when the connection closes.

Django has `on_commit` but nothing for a rollback. What it does at a rollback and at a close is to drop the list of
commit hooks; so a hook that is called by the one, or finalised by the others, fires in every case. The hook is put into
that list itself and belongs to no savepoint: a savepoint that rolls back must not fire it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


def open_transactions() -> list[BaseDatabaseWrapper]:
    """This thread's connections that are inside `atomic()`. A `TestCase`'s own transaction does not count."""
    return [
        connection
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block and not _belongs_to_test(connection)
    ]


def _belongs_to_test(connection: BaseDatabaseWrapper) -> bool:
    blocks: list[Any] = connection.atomic_blocks
    return bool(blocks) and bool(getattr(blocks[0], "_from_testcase", False))


def after_all(transactions: Sequence[BaseDatabaseWrapper], callback: Callable[[bool], None]) -> None:
    """Calls `callback(committed)` once, when the outermost transactions of all these connections have ended.

    `committed` says whether all of them did, and that the callback runs as a commit hook, where it may block. Otherwise
    it may run inside a finaliser, where it must not.
    """
    countdown = _Countdown(len(transactions), callback)
    for connection in transactions:
        hook = _Hook()
        hook.finalizer = weakref.finalize(hook, countdown.ended, False)
        hook.finalizer.atexit = False
        hook.countdown = countdown
        no_savepoints: set[str] = set()
        # In front: a hook of the project that raises drops those behind it, and may well take the same lock.
        connection.run_on_commit.insert(0, (no_savepoints, hook, True))  # type: ignore[arg-type]


def first_at_commit(transactions: Sequence[BaseDatabaseWrapper], callback: Callable[[], None]) -> None:
    """Calls back when each commits, before anything that `after_all` was given so far; not when a savepoint that is
    open now is rolled back. The callback must not raise."""
    for connection in transactions:
        connection.run_on_commit.insert(0, (set(connection.savepoint_ids), callback, True))  # type: ignore[arg-type]


def is_due(transactions: Sequence[BaseDatabaseWrapper], callback: Callable[[], None]) -> bool:
    """Whether what was given to `first_at_commit` would be called if they committed now."""
    return all(any(hook[1] == callback for hook in connection.run_on_commit) for connection in transactions)


class _Countdown:
    def __init__(self, count: int, callback: Callable[[bool], None]) -> None:
        self._left = count
        self._committed = True
        self._callback = callback
        self._mutex = threading.RLock()  # the garbage collector may finalise one hook in the midst of another

    def ended(self, committed: bool) -> None:
        with self._mutex:
            self._left -= 1
            self._committed = self._committed and committed
            over = self._left == 0
        if over:
            self._callback(self._committed)


class _Hook:
    finalizer: weakref.finalize[Any, Any]
    countdown: _Countdown

    def __init__(self) -> None:
        vars(self)["__qualname__"] = "dref_django.commits.after_all"  # Django names a hook that raises by it

    def __call__(self) -> None:
        if self.finalizer.detach() is not None:
            self.countdown.ended(True)
