"""Counters that many writers hit at once: `Counter("views", stripes=16, flush_interval=0.5)`.

`stripes=N` spreads them over N entries, so that writers do not wait for each other's row or node; the value is the sum.
`flush_interval=s` counts in the process and writes at most every `s` seconds. Both give something up, and the type says
what: `increment` returns None, and there is no version, no `set` and no compare-and-set.

The first stripe has the counter's own name, so a `Counter` may be striped later without losing what it counted.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import conf
from .binding import BaseRef, checked_amount
from .exceptions import CounterOverflow, DRefError, WrongKind
from .flows import Await, Flow
from .flushing import Pending, flush, pending_of
from .hub import FeedStatus
from .on_commit import HotOnCommit
from .op_ids import new_op_id
from .protocol import Add, Command, Data, Delete, Read, Reply, Status, check_name
from .streams import Change, Stream, Subscription
from .sums import SumStream, SumSubscription, sum_of

if TYPE_CHECKING:
    from .binding import _Bound

MAX_STRIPES: Final = 1024


class HotCounter(BaseRef[int]):
    """What `Counter(..., stripes=N)` or `Counter(..., flush_interval=s)` makes.

    - `stripes` (1 to 1024): entries that writers are spread over, `name`, `name#1` ... On a Redis Cluster they lie on
      different nodes, unless `group` puts them into one slot. It may be raised later; lowering it leaves out what the
      stripes beyond have counted.
    - `flush_interval` (seconds; None: each increment is written before `increment` returns): increments are counted in
      this process and written at most that long after. A process that is killed loses what it counted in the last
      `flush_interval`, and what it was just writing; one that exits, or is forked from, loses nothing. While the back
      end is out of reach it goes on counting. `get` shows what has been written, by this process too; see `flush`.
    """

    def __init__(
        self,
        name: str | None = None,
        default: int = 0,
        *,
        stripes: int = 1,
        flush_interval: float | None = None,
        using: str = conf.DEFAULT_ALIAS,
        group: str | None = None,
    ) -> None:
        if isinstance(stripes, bool) or stripes not in range(1, MAX_STRIPES + 1):
            raise ValueError(f"stripes is a number from 1 to {MAX_STRIPES}, not {stripes!r}")
        if flush_interval is not None and not 0 < flush_interval < math.inf:
            raise ValueError(f"flush_interval is a positive number of seconds, not {flush_interval!r}")
        super().__init__(name, default, type=int, using=using, group=group)
        self._start = default
        self._count = stripes
        self._interval = flush_interval
        self._names: tuple[str, ...] = ()
        self._pending: tuple[_Bound, Pending] | None = None

    # --- writing ------------------------------------------------------------------------------------------------

    def increment(self, amount: int = 1) -> None:
        """Adds `amount`. Without `flush_interval` it is done when this returns; `CounterOverflow` beyond 64 bits."""
        self._run(self._add(amount))

    async def aincrement(self, amount: int = 1) -> None:
        await self._arun(self._add(amount))

    def decrement(self, amount: int = 1) -> None:
        self._run(self._subtract(amount))

    async def adecrement(self, amount: int = 1) -> None:
        await self._arun(self._subtract(amount))

    def flush(self) -> None:
        """Writes what this process has counted and not written yet (with `flush_interval`), and waits for it.

        Raises `Unavailable` when it could not be written now (it stays counted), `OutcomeUnknown` when that is unknown.
        """
        self._raise_first(flush(self._pending_here()))

    async def aflush(self) -> None:
        self._raise_first(await asyncio.to_thread(flush, self._pending_here()))

    def delete(self) -> bool:
        """Removes all stripes; returns whether there was one. Not one atomic step with increments meanwhile."""
        return self._run(self._delete())

    async def adelete(self) -> bool:
        return await self._arun(self._delete())

    def on_commit(self, using: str | None = None, *, robust: bool = False) -> HotOnCommit:
        """`counter.on_commit().increment()`: counted when the surrounding database transaction commits; see `DRef`."""
        return HotOnCommit(self, using, robust)

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self) -> int:
        """The sum of all stripes, read in one round trip. They are not all read at one moment on a Redis Cluster."""
        return self._run(self._get())

    async def aget(self) -> int:
        return await self._arun(self._get())

    @property
    def value(self) -> int:
        """`get()` as a property."""
        return self.get()

    def peek(self) -> int:
        """The sum as this process last heard of it, without a round trip; the first call watches the stripes."""
        return self._run(self._peek())

    async def apeek(self) -> int:
        return await self._arun(self._peek())

    @property
    def status(self) -> FeedStatus:
        """READY when this process's copies are up to date as far as it knows, STALE while its listener is away."""
        return self._bind().hub.status

    def changes(self, *, timeout: float | None = None) -> Stream[int]:
        """The sum now and each sum to come, a slow reader finds the newest only; see `Stream`."""
        return SumStream(self._using, self._decode, self._stripes(), self._start, timeout)

    def on_change(self, callback: Callable[[Change[int]], Any]) -> Subscription[int]:
        """Calls `callback(change)` with the new sum, on the process's callback thread; also a decorator."""
        return SumSubscription(self._using, self._decode, callback, self._stripes(), self._start)

    def __int__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a ref, not a number: use .value or .get()")

    __index__ = __float__ = __int__

    # --- flows --------------------------------------------------------------------------------------------------

    def _add(self, amount: int) -> Flow[None]:
        amount = checked_amount(self.name, amount)
        return self._write(amount) if self._interval is None else self._count_here(amount)

    def _subtract(self, amount: int) -> Flow[None]:
        return self._add(-checked_amount(self.name, amount))

    def _count_here(self, amount: int) -> Flow[None]:
        if self._bind().is_apart():
            raise DRefError(
                f"{self.name!r} is written after its flush_interval, apart from any transaction. Use on_commit(), or a "
                "counter without flush_interval."
            )
        self._pending_here().add(amount)
        yield from ()  # a flow without a step

    def _write(self, amount: int) -> Flow[None]:
        place = random.randrange(self._count)  # noqa: S311
        name = self._stripes()[place]
        reply: Reply = yield Add(name, amount, 0 if place else self._start, new_op_id())
        if reply.status is Status.APPLIED:
            bound = self._bind()
            if not bound.is_apart():
                bound.hub.note(name, reply.version, reply.data, reply.left)
        elif reply.status is Status.OVERFLOW:
            raise CounterOverflow(
                f"{name!r}: {reply.data!r} + {amount} does not fit in a signed 64-bit integer; it was not changed"
            )
        else:
            raise self._wrong_kind(name)

    def _get(self) -> Flow[int]:
        names = self._stripes()
        replies: list[Reply] = yield [Read(name) for name in names]
        return self._sum([reply.data for reply in replies])

    def _peek(self) -> Flow[int]:
        bound, names = self._bind(), self._stripes()
        if bound.is_apart():
            return (yield from self._get())
        cells = bound.hub.cells
        unknown = [name for name in names if (cell := cells.get(name)) is None or cell.near is None]
        for future in [bound.hub.keep_near(name) for name in unknown]:
            yield Await(future, f"the first look at {self.name!r}")
        data: list[Data | None] = []
        for name in names:
            cell = cells.get(name)
            if cell is None or cell.near is None:  # evicted from the near-cache at once: read it
                return (yield from self._get())
            near = cell.near
            expired = near.expires is not None and near.has_expired(bound.backend.clock.monotonic())
            data.append(None if expired else near.data)
        return self._sum(data)

    def _delete(self) -> Flow[bool]:
        existed = False
        slot = self._bind().backend.slot
        places: dict[object, list[Command]] = {}
        for name in self._stripes():
            places.setdefault(slot(name), []).append(Delete(name, op=new_op_id()))
        for commands in places.values():
            replies: list[Reply] = yield commands
            existed = existed or any(reply.existed for reply in replies)
        return existed

    def _sum(self, data: list[Data | None]) -> int:
        for name, part in zip(self._stripes(), data, strict=True):
            if isinstance(part, bytes):
                raise self._wrong_kind(name)
        return sum_of(data, self._start)

    def _wrong_kind(self, name: str) -> WrongKind:
        return WrongKind(f"{name!r} holds something else than an integer; it was not changed. Is the name in use?")

    def _stripes(self) -> tuple[str, ...]:
        if not self._names:
            rest = [f"{self.name}#{number}" for number in range(1, self._count)]
            if rest:
                check_name(rest[-1].rpartition("\x1f")[2])
            self._names = (self.name, *rest)
        return self._names

    def _pending_here(self) -> Pending:
        bound = self._bind()
        if self._pending is None or self._pending[0] is not bound:
            interval = self._interval or math.inf
            self._pending = bound, pending_of(self.name, bound.backend, self._stripes(), self._start, interval)
        return self._pending[1]

    def _raise_first(self, errors: list[DRefError]) -> None:
        for error in errors:
            raise error
