"""Shared integers. Those that very many writers hit at once are in `hot_counters.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self, cast, overload

from . import conf
from .binding import checked_amount
from .exceptions import CounterOverflow, WrongKind
from .flows import Flow
from .hot_counters import HotCounter
from .on_commit import CounterOnCommit
from .op_ids import new_op_id
from .protocol import Add, Reply, Status
from .refs import DRef


class Counter(DRef[int]):
    """A signed 64-bit integer. `increment` is one native atomic operation on every back end and never loses one.

    For one that very many writers hit at once, `stripes=N` or `flush_interval=s` make another type: a `HotCounter`,
    whose `increment` returns None.
    """

    if TYPE_CHECKING:

        @overload
        def __new__(  # type: ignore[misc]
            cls,
            name: str | None = None,
            default: int = 0,
            *,
            stripes: int,
            flush_interval: float | None = None,
            using: str = conf.DEFAULT_ALIAS,
            group: str | None = None,
        ) -> HotCounter: ...

        @overload
        def __new__(  # type: ignore[misc]
            cls,
            name: str | None = None,
            default: int = 0,
            *,
            flush_interval: float,
            using: str = conf.DEFAULT_ALIAS,
            group: str | None = None,
        ) -> HotCounter: ...

        @overload
        def __new__(
            cls,
            name: str | None = None,
            default: int = 0,
            *,
            using: str = conf.DEFAULT_ALIAS,
            group: str | None = None,
            history: int = 0,
        ) -> Self: ...

        def __new__(cls, *args: Any, **options: Any) -> Any: ...

    else:

        def __new__(cls, *args, **options):
            if "stripes" in options or "flush_interval" in options:
                return HotCounter(*args, **options)
            return super().__new__(cls)

        def __init__(self, name=None, default=0, *, using=conf.DEFAULT_ALIAS, group=None, history=0):
            super().__init__(name, default, type=int, using=using, group=group, history=history)

    def increment(self, amount: int = 1) -> int:
        """Adds `amount` and returns the new value; an absent counter starts from its default. Keeps the time to live.

        Raises `CounterOverflow` beyond 64 bits (the counter keeps its value), `WrongKind` when the stored value is no
        integer.
        """
        return self._run(self._add(amount))

    async def aincrement(self, amount: int = 1) -> int:
        return await self._arun(self._add(amount))

    def decrement(self, amount: int = 1) -> int:
        """`increment(-amount)`."""
        return self._run(self._subtract(amount))

    async def adecrement(self, amount: int = 1) -> int:
        return await self._arun(self._subtract(amount))

    def on_commit(self, using: str | None = None, *, robust: bool = False) -> CounterOnCommit:
        return CounterOnCommit(self, using, robust)

    def __int__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a ref, not a number: use .value or .get()")

    __index__ = __float__ = __int__

    def _add(self, amount: int) -> Flow[int]:
        return self._count(checked_amount(self.name, amount))

    def _subtract(self, amount: int) -> Flow[int]:
        return self._add(-checked_amount(self.name, amount))

    def _count(self, amount: int) -> Flow[int]:
        reply: Reply = yield Add(self.name, amount, cast("int", self._default), new_op_id())
        if reply.status is Status.APPLIED and isinstance(reply.data, int):
            self._note(reply.version, reply.data, reply.left)
            return reply.data
        if reply.status is Status.OVERFLOW:
            raise CounterOverflow(
                f"{self.name!r}: {reply.data!r} + {amount} does not fit in a signed 64-bit integer; it was not changed"
            )
        raise WrongKind(f"{self.name!r} holds something else than an integer; it was not changed. Is the name in use?")
