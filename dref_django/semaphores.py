"""Semaphores and read/write locks, built from plain leases: what a crash leaves behind runs out by itself.

    pool = Semaphore("pdf-renderers", permits=4)
    with pool: ...                         async with pool: ...

    prices = ReadWriteLock("price-list")
    with prices.read(): ...                with prices.write() as held: ...

**Semaphore.** One lease for the queue, one for each permit. Who holds the queue's lease is the head: it waits in the
queues of all permits at once, keeps the first that it is given, and leaves the others and the queue. So waiters are
served first come, first served, and a permit whose holder died comes free with its lease.

**Read/write lock.** One lease for the gate, one for each reader. Everybody comes through the gate: a reader takes a
lease of its own and opens the gate again; a writer keeps it shut, and waits until the leases of all readers are gone.
Who comes after a waiting writer waits behind it, so neither side starves.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from . import conf
from .backends.base import Backend
from .exceptions import LockTimeout
from .flows import Flow, Pause
from .held import MARGIN, Held
from .keeper import SOONEST, clock, keeper_of
from .leasing import PLACE, RECHECK, Grant, hold, new_owner, take
from .locks import DEFAULT_TTL, SETTING, Lock, Otherwise, Timeout
from .naming import GROUP_SEPARATOR
from .protocol import Acquire, Command, Inspect, LeaseInfo, Release, Renew, Reply, ScanLeases, Status
from .streams import get_hub

MAX_PERMITS: Final = 1000
"""The head of the queue asks for all permits in one batch."""
TRIES: Final = 3
"""Free permits that are tried, when others are quicker, before it counts as taken or is queued for."""
PAGE: Final = 500


class Semaphore(Lock):
    """Up to `permits` holders at once in the whole cluster; `with`, `async with` and decorator, as `lock`.

    - `permits`: 1 to 1000; every process must give the same number. Lowering it takes effect as holders leave.
    - `ttl`, `timeout`, `on_lost`, `reentrant`, `otherwise`, `using`: as for `Lock`. `timeout=0` takes a permit that is
      free now, also when others wait their turn.
    - `at_least`: seconds for which a permit stays taken from its acquisition: that makes a limit of rate.

    The handle is a `Held`. Its token rises for each permit by itself, not over the semaphore: it names the acquisition
    but cannot say which of two holders came first, so `fence` is of no use with more than one permit.
    """

    kind = "semaphore"

    def __init__(
        self,
        name: str,
        permits: int,
        *,
        ttl: float = DEFAULT_TTL,
        timeout: Timeout = SETTING,
        on_lost: Callable[[], Any] | None = None,
        at_least: float = 0.0,
        reentrant: bool = False,
        otherwise: Otherwise = "raise",
        using: str = conf.DEFAULT_ALIAS,
    ) -> None:
        if not _is_count(permits):
            raise ValueError(f"permits is a number from 1 to {MAX_PERMITS}, not {permits!r}")
        super().__init__(
            name,
            ttl=ttl,
            timeout=timeout,
            on_lost=on_lost,
            at_least=at_least,
            reentrant=reentrant,
            otherwise=otherwise,
            using=using,
        )
        self.permits = permits

    def _grant(self, name: str, timeout: float | None) -> Flow[Grant]:
        backend = self._backend()
        owner = new_owner(backend)
        queue = self.lease(name)
        permits = [f"{queue}{GROUP_SEPARATOR}{number}" for number in range(self.permits)]
        command = Acquire(queue, owner, int(self.ttl * 1e6), meta=self._meta())
        deadline = None if timeout is None else clock() + timeout
        try:
            grant = yield from self._free_permit(command, permits, barge=timeout == 0)
            if grant is None and timeout != 0:
                grant = yield from self._queued_permit(command, permits, deadline)
            if grant is not None:
                return grant
            yield [Release(lease, owner) for lease in (*permits, queue)]
        except LockTimeout:
            raise  # it was still in the queue
        except BaseException:
            _release_soon(backend, (*permits, queue), owner)
            raise
        raise LockTimeout(
            f"semaphore {name!r} had none of its {self.permits} permits free within {timeout or 0:.3g} s."
        )

    def _free_permit(self, command: Acquire, permits: list[str], *, barge: bool) -> Flow[Grant | None]:
        """A permit that nobody waits for: one at random, which mostly is free, else one that shows as free."""
        backend = self._backend()
        candidates = [random.choice(permits)]  # noqa: S311
        for _ in range(TRIES):
            wanted = random.choice(candidates)  # noqa: S311
            sent = backend.clock.monotonic()
            queue, reply = yield [Inspect(command.name), _of(command, wanted)]
            may = barge or queue.lease is None
            if reply.status is Status.APPLIED:
                if may and _is_trusted(backend, sent, self.ttl):
                    return Grant(wanted, command.owner, reply.token, sent)
                yield Release(wanted, command.owner)
            if not may:
                return None
            seen: list[Reply] = yield [Inspect(permit) for permit in permits]
            candidates = [permit for permit, reply in zip(permits, seen, strict=True) if reply.lease is None]
            if not candidates:
                return None
        return None

    def _queued_permit(self, command: Acquire, permits: list[str], deadline: float | None) -> Flow[Grant | None]:
        """Waits to be the head of the queue, then for any permit; None when the time is over."""
        backend = self._backend()
        left = None if deadline is None else max(deadline - clock(), 0)
        place = yield from take(
            backend, command.name, ttl=self.ttl, timeout=left, meta=command.meta, owner=command.owner
        )
        with _renewed(backend, command.name, place, self.ttl), _waker(backend, command.owner) as waker:
            while True:
                waker.clear()
                sent = backend.clock.monotonic()
                replies: list[Reply] = yield [_of(command, permit, PLACE) for permit in permits]
                granted = [permit for permit, reply in zip(permits, replies, strict=True) if _applied(reply)]
                if granted and _is_trusted(backend, sent, self.ttl):
                    kept = granted[0]
                    token = replies[permits.index(kept)].token
                    others = [permit for permit in permits if permit != kept]
                    yield [Release(lease, command.owner) for lease in (*others, command.name)]
                    return Grant(kept, command.owner, token, sent)
                if deadline is not None and clock() >= deadline:
                    return None
                yield Pause(_until_recheck(replies, deadline), waker)


class ReadWriteLock:
    """Many readers or one writer. `read()` and `write()` make locks of their own: `with`, `async with`, decorator.

    - `ttl`: the lease of readers and writers in seconds; `using`: the back end.
    - `read` and `write` take `timeout`, `on_lost` and `otherwise` as `Lock` does. `timeout=0` also fails while others
      come through the gate.

    The tokens of writers rise strictly and fence (`fence(held)`); a reader's token only names its acquisition. A reader
    that asks to write waits for itself, until the timeout. Who writes may not ask to read, but inside `atomic()` where
    the write lock is kept until the commit: there a reader adopts it.
    """

    def __init__(self, name: str, *, ttl: float = DEFAULT_TTL, using: str = conf.DEFAULT_ALIAS) -> None:
        self._options: dict[str, Any] = {"ttl": ttl, "using": using}
        self.name = WriteLock(name, **self._options).names[0]  # checked here and now

    def __repr__(self) -> str:
        return f"ReadWriteLock({self.name!r})"

    def read(
        self,
        *,
        timeout: Timeout = SETTING,
        on_lost: Callable[[], Any] | None = None,
        otherwise: Otherwise = "raise",
    ) -> ReadLock:
        """Shared with other readers, never with a writer."""
        return ReadLock(self.name, timeout=timeout, on_lost=on_lost, otherwise=otherwise, **self._options)

    def write(
        self,
        *,
        timeout: Timeout = SETTING,
        on_lost: Callable[[], Any] | None = None,
        otherwise: Otherwise = "raise",
    ) -> WriteLock:
        """Shared with nobody."""
        return WriteLock(self.name, timeout=timeout, on_lost=on_lost, otherwise=otherwise, **self._options)


class WriteLock(Lock):
    """The writer's side of a `ReadWriteLock`: holds the gate."""

    kind = "rwlock"

    def _grant(self, name: str, timeout: float | None) -> Flow[Grant]:
        backend, gate = self._backend(), self.lease(name)
        deadline = None if timeout is None else clock() + timeout
        while True:
            left = None if deadline is None else max(deadline - clock(), 0)
            grant = yield from take(backend, gate, ttl=self.ttl, timeout=left, meta=self._meta())
            try:
                with _renewed(backend, name, grant, self.ttl):
                    alone = yield from self._readers_gone(gate, grant.owner, deadline)
                if alone:
                    sent = backend.clock.monotonic()
                    reply: Reply = yield Renew(gate, grant.owner, grant.token, int(self.ttl * 1e6))
                    if _applied(reply) and _is_trusted(backend, sent, self.ttl):
                        return grant._replace(sent=sent)
                yield Release(gate, grant.owner)
            except BaseException:
                keeper_of(backend).release_soon(gate, grant.owner)
                raise
            if not alone:
                raise LockTimeout(f"rwlock {name!r} was not free of readers within {timeout or 0:.3g} s.")

    def _readers_gone(self, gate: str, owner: str, deadline: float | None) -> Flow[bool]:
        """With the gate shut: waits in the queue behind each reader's lease. False when the time is over."""
        backend = self._backend()
        readers = yield from _held_leases(gate + GROUP_SEPARATOR)
        try:
            with _waker(backend, owner) as waker:
                while readers:
                    waker.clear()
                    queued = [Acquire(lease, owner, int(self.ttl * 1e6), PLACE) for lease in readers]
                    replies: list[Reply] = yield queued
                    gone = [lease for lease, reply in zip(readers, replies, strict=True) if _applied(reply)]
                    if gone:
                        yield [Release(lease, owner) for lease in gone]
                        readers = [lease for lease in readers if lease not in gone]
                    if readers and deadline is not None and clock() >= deadline:
                        yield [Release(lease, owner) for lease in readers]
                        return False
                    if readers:
                        yield Pause(_until_recheck(replies, deadline), waker)
        except BaseException:
            _release_soon(backend, readers, owner)
            raise
        return True


class ReadLock(Lock):
    """A reader's side of a `ReadWriteLock`: passes the gate and holds a lease of its own, its seat."""

    kind = "rwlock"

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._writer = WriteLock(name, ttl=self.ttl, using=self.using)

    def lease(self, name: str) -> str:
        return self._writer.lease(name) + GROUP_SEPARATOR

    def _grant(self, name: str, timeout: float | None) -> Flow[Grant]:
        backend, gate = self._backend(), self._writer.lease(name)
        owner, ttl, meta = new_owner(backend), int(self.ttl * 1e6), self._meta()
        deadline = None if timeout is None else clock() + timeout
        numbers: list[int] = []
        seats: list[str] = []
        try:
            while True:
                numbers.append(_seats.take())
                seats.append(f"{self.lease(name)}{backend.node_id()}/{numbers[-1]}")
                sent = passed = backend.clock.monotonic()
                # In this order, in one slot of a cluster: the gate is open again only when the seat is taken.
                sit: list[Command] = [Acquire(seats[-1], owner, ttl, 0, meta), Release(gate, owner)]
                through, mine, _ = yield [Acquire(gate, owner, ttl, 0, meta), *sit]
                if not _applied(through):
                    yield Release(seats[-1], owner)  # or the writer would wait for it
                    left = None if deadline is None else max(deadline - clock(), 0)
                    place = yield from take(backend, gate, ttl=self.ttl, timeout=left, meta=meta, owner=owner)
                    sent, passed = backend.clock.monotonic(), place.sent
                    mine, _ = yield sit
                if _applied(mine) and _is_trusted(backend, passed, self.ttl):
                    numbers.pop()
                    return Grant(seats[-1], owner, mine.token, sent)
                yield Release(seats[-1], owner)
        except BaseException:
            _release_soon(backend, (gate, *seats), owner)
            raise
        finally:
            _seats.put_aside(numbers)

    def _give(self, helds: Sequence[Held], *, strict: bool) -> Flow[None]:
        try:
            yield from super()._give(helds, strict=strict)
        finally:
            self._leave_seats(helds)

    def _hand_back(self, helds: Iterable[Held]) -> None:
        helds = tuple(helds)
        super()._hand_back(helds)
        self._leave_seats(helds)

    def _leave_seats(self, helds: Iterable[Held]) -> None:
        for held in helds:
            _seats.give_back(int(held.lease.rpartition("/")[2]))

    def _kept_names(self) -> dict[str, Held]:
        """Inside a transaction that keeps the write lock, a reader is covered by it."""
        return super()._kept_names() or self._writer._kept_names()


class _Seats:
    """Numbers for readers' leases, used again and again: so few names are left behind on the server.

    Only a hint: a seat that turns out to be taken still (by a reader that was lost) is passed over.
    """

    def __init__(self) -> None:
        self._free: deque[int] = deque()
        self._next = itertools.count()

    def take(self) -> int:
        try:
            return self._free.pop()
        except IndexError:
            return next(self._next)

    def give_back(self, number: int) -> None:
        self._free.append(number)

    def put_aside(self, numbers: Iterable[int]) -> None:
        self._free.extendleft(numbers)


_seats: Final = _Seats()


@contextmanager
def _renewed(backend: Backend, name: str, grant: Grant, ttl: float) -> Iterator[None]:
    """Renews the lease meanwhile; what becomes of it then is the caller's business."""
    place = hold(backend, name, grant, ttl)
    try:
        yield
    finally:
        place.let_go()


@contextmanager
def _waker(backend: Backend, owner: str) -> Iterator[Any]:
    hub = get_hub(backend)
    try:
        yield hub.expect_wake(owner)
    finally:
        hub.forget_wake(owner)


def _is_count(permits: Any) -> bool:
    return isinstance(permits, int) and not isinstance(permits, bool) and 1 <= permits <= MAX_PERMITS


def _of(command: Acquire, lease: str, wait: int = 0) -> Acquire:
    return Acquire(lease, command.owner, command.ttl, wait, command.meta)


def _applied(reply: Reply) -> bool:
    return reply.status is Status.APPLIED


def _is_trusted(backend: Backend, sent: float, ttl: float) -> bool:
    """Whether what was granted is still worth something: it may have been on its way for long."""
    return backend.clock.monotonic() < sent + ttl * (1 - MARGIN)


def _until_recheck(replies: list[Reply], deadline: float | None) -> float:
    """Until the first of these leases may be free, the deadline, or the bounded recheck."""
    lefts = [max(reply.left / 1e6, SOONEST) for reply in replies if reply.left is not None and not _applied(reply)]
    return min(RECHECK, *lefts, *([] if deadline is None else [max(deadline - clock(), 0)]))


def _release_soon(backend: Backend, leases: Iterable[str], owner: str) -> None:
    keeper = keeper_of(backend)
    for lease in leases:
        keeper.release_soon(lease, owner)


def _held_leases(prefix: str) -> Flow[list[str]]:
    names: list[str] = []
    after = ""
    while True:
        reply: Reply = yield ScanLeases(prefix, after, PAGE)
        names.extend(row.name for row in reply.page if isinstance(row, LeaseInfo) and row.owner)
        if not (after := reply.cursor):
            return names
