"""Changes that wait for the surrounding database transaction: `ref.on_commit().increment()`.

Each is one of Django's own `on_commit` hooks, so Django says when it runs: after the outermost commit, in order; at
once where no transaction is open; never when the transaction or a savepoint around it is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.db import transaction

from . import workspace
from .flows import Flow

if TYPE_CHECKING:
    from .binding import BaseRef
    from .counters import Counter
    from .flags import Flag
    from .hot_counters import HotCounter
    from .refs import DRef

T = TypeVar("T")


class _Hooks:
    """Registers flows of a ref with Django."""

    _ref: BaseRef[Any]

    def __init__(self, using: str | None, robust: bool) -> None:
        self._using = using
        self._robust = robust

    def _later(self, flow: Flow[Any]) -> None:
        def apply() -> None:
            with workspace.outside():  # the database has committed, whatever becomes of a transaction() of refs
                self._ref._run(flow)

        apply.__qualname__ = f"{self._ref!r}.on_commit"  # Django names a hook that raises by it
        transaction.on_commit(apply, using=self._using, robust=self._robust)


class OnCommit(_Hooks, Generic[T]):
    """The changing methods of a ref, each applied when the transaction commits. They return None.

    Values are checked and encoded at the call: what is wrong raises there, and an object that is changed afterwards is
    written as it was. The function given to `update` is called after the commit.
    """

    def __init__(self, ref: DRef[T], using: str | None, robust: bool) -> None:
        super().__init__(using, robust)
        self._ref: DRef[T] = ref

    def set(self, value: T, *, ttl: float | None = None) -> None:
        self._later(self._ref._set(value, ttl))

    def set_if_absent(self, value: T, *, ttl: float | None = None) -> None:
        self._later(self._ref._set_if_absent(value, ttl))

    def compare_and_set(self, old: T, new: T) -> None:
        """Sets `new` if the value, after the commit, equals `old`."""
        self._later(self._ref._compare_and_set(self._ref._copy(old), new))

    def update(self, function: Callable[[T], T]) -> None:
        self._later(self._ref._modify(lambda old: (None, function(old))))

    def delete(self) -> None:
        self._later(self._ref._delete())

    def expire(self, ttl: float | None) -> None:
        self._later(self._ref._expire(ttl))


class CounterOnCommit(OnCommit[int]):
    _ref: Counter

    def increment(self, amount: int = 1) -> None:
        self._later(self._ref._add(amount))

    def decrement(self, amount: int = 1) -> None:
        self._later(self._ref._subtract(amount))


class HotOnCommit(_Hooks):
    """As `OnCommit`, of a counter with stripes or flush_interval."""

    def __init__(self, ref: HotCounter, using: str | None, robust: bool) -> None:
        super().__init__(using, robust)
        self._ref: HotCounter = ref

    def increment(self, amount: int = 1) -> None:
        self._later(self._ref._add(amount))

    def decrement(self, amount: int = 1) -> None:
        self._later(self._ref._subtract(amount))


class FlagOnCommit(OnCommit[bool]):
    _ref: Flag

    def toggle(self) -> None:
        self.update(lambda on: not on)
