"""Partitions: N pieces of work spread over M processes, one active worker each, rebalanced as processes come and go.

    def gained(partition, term): workers[partition] = start_worker(partition, term)
    def lost(partition): workers.pop(partition).stop()

    with Partitions("orders", count=8, on_gained=gained, on_lost=lost) as mine:
        ...                                     # mine.owned -> frozenset({0, 3, 5})

Each process holds one lease as a member and one for each partition that it owns. A thread of its own looks at all of
them whenever a member says that something has changed, and when a lease of somebody else may have run out. All members
see the same leases and compute the same shares: with the members in order of their joining, the first `count % M` of
them one more than the others. Who owns more gives back, after `on_lost` has returned; who owns less takes what is free.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from django.db import close_old_connections

from . import backends, conf, naming
from .backends.base import Backend
from .exceptions import DRefError, LockLost
from .flows import Flow, drive, refuse_running_loop
from .held import MARGIN, Held
from .hub import Hub
from .keeper import keeper_of
from .leasing import MIN_TTL, RECHECK, Grant, hold, new_owner
from .locks import DEFAULT_TTL, seconds, who_am_i
from .protocol import OP_ID_SIZE, Acquire, Add, LeaseInfo, Reply, ScanLeases, Status, check_name
from .streams import Buffer, get_hub
from .waiting import Waker

logger = logging.getLogger("dref_django")

GROUP: Final = "dref.partitions"
"""The reserved group of the counters that members raise when others should look again."""
MAX_COUNT: Final = 1000
PAGE: Final = 500
RETRY: Final = 1.0
"""Seconds between two looks while the back end is out of reach."""
SLACK: Final = 0.01
"""Seconds after which a lease that should have run out has."""


class _Seen(NamedTuple):
    """What the leases say."""

    members: list[str]
    """Leases of members in the order of their joining."""
    taken: set[int]
    """Partitions that somebody holds."""
    left: float
    """Seconds until the first lease of somebody else runs out unless it is renewed."""


class Partitions:
    """This process's part of `count` partitions, numbered from 0; `with`, `async with`, or `start()` and `stop()`.

    - `count`: 1 to 1000; every process must give the same number.
    - `ttl`: the leases in seconds, 1 or more: so long the partitions of a dead or frozen process stay without worker.
    - `on_gained(partition, term)`: the partition is this process's from now on; `term` is a `Held` with the partition's
      fencing token. `on_lost(partition)`: it is not, or will not be: a partition that is given back is released when
      the callback returns, so stop its worker in it. One that was lost already is told by `term.lost` at once.
    - `using`: the back end.

    Callbacks run on the thread of this object, one after the other; what they raise is logged. While one of them runs
    nothing is gained or given back, so they should only start and stop workers. The leases are renewed meanwhile.
    """

    def __init__(
        self,
        name: str,
        count: int,
        *,
        ttl: float = DEFAULT_TTL,
        on_gained: Callable[[int, Held], Any] | None = None,
        on_lost: Callable[[int], Any] | None = None,
        using: str = conf.DEFAULT_ALIAS,
    ) -> None:
        if not 1 <= count <= MAX_COUNT:
            raise ValueError(f"count is a number from 1 to {MAX_COUNT}, not {count!r}")
        self.name = check_name(name)
        self.count = count
        self.ttl = seconds("ttl", ttl, MIN_TTL)
        self.on_gained = on_gained
        self.on_lost = on_lost
        self.using = using
        self._terms: dict[int, Held] = {}  # in the order in which they were gained; replaced, never changed
        self._thread: threading.Thread | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"Partitions({self.name!r}, count={self.count})"

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that are proven to be this process's now. No I/O."""
        return frozenset(partition for partition, term in self._terms.items() if term.remaining() > 0)

    def term(self, partition: int) -> Held:
        """The handle of an owned partition: `token`, `check()`, `lost`. Raises `LockLost` when it is not owned."""
        term = self._terms.get(partition)
        if term is None or term.remaining() <= 0:
            raise LockLost(f"partition {partition} of {self.name!r} is not owned by this process")
        return term

    # --- coming and going ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Joins the members, in the background: partitions are told to `on_gained` as they come."""
        if self._thread is not None and self._pid == os.getpid():
            raise RuntimeError(f"{self!r} has been started already")
        self._pid = os.getpid()
        self._terms = {}
        self._member: Held | None = None
        self._backend: Backend | None = None
        self._hub: Hub | None = None
        self._waker = Waker()
        self._stopping = False
        self._stopped = Waker()
        self._thread = threading.Thread(target=self._run, name=f"dref-partitions-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Gives everything back, `on_lost` for each, and returns when that is done; after `ttl` seconds in any case."""
        refuse_running_loop()
        if self._ask_to_stop():
            self._warn_unless(self._stopped.wait(self.ttl))

    async def astop(self) -> None:
        if self._ask_to_stop():
            self._warn_unless(await self._stopped.await_(self.ttl))

    def __enter__(self) -> Self:
        refuse_running_loop()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.astop()

    def _ask_to_stop(self) -> bool:
        """Whether there is a thread of this process to wait for."""
        thread, self._thread = self._thread, None
        if thread is None or self._pid != os.getpid():
            return False
        self._stopping = True
        self._waker.set()
        return thread is not threading.current_thread()

    def _warn_unless(self, stopped: bool) -> None:
        if not stopped:
            logger.warning("dref: %r: on_lost did not return within %g s; its partition stays taken", self, self.ttl)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._waker.clear()
                self._waker.wait(self._look())
            self._leave()
        finally:
            self._stopped.set()

    def _look(self) -> float:
        """One round; returns the seconds until the next unless the waker rings."""
        try:
            backend = self._bind()
            return drive(backend, self._round(backend))
        except DRefError as error:
            logger.warning("dref: %r cannot be balanced now: %s", self, error)
        except Exception:
            logger.exception("dref: balancing %r failed", self)
        return RETRY

    def _bind(self) -> Backend:
        backend = backends.get_backend(self.using)
        if backend is not self._backend:
            self._unbind()
            self._backend, self._hub = backend, get_hub(backend)
            self._changes = Buffer(False, 1, self._waker.set)
            self._hub.add(self._changes, name=self._counter)  # its first push rings, when it listens
        return backend

    def _unbind(self) -> None:
        if self._hub is not None:
            self._hub.remove(self._changes)

    def _round(self, backend: Backend) -> Flow[float]:
        changed = self._drop_lost()
        if self._member is None or self._member.remaining() <= 0:
            self._member = yield from self._join(backend)
            changed = True
        seen = yield from self._see(self._member.lease)
        share = self._share(seen.members, self._member.lease)
        if surplus := list(self._terms)[share:]:
            yield from self._give_back(surplus)
            changed = True
        wanted = share - len(self._terms)
        if wanted > 0 and not self._stopping:
            free = [number for number in range(self.count) if number not in seen.taken]
            wanted -= yield from self._take(backend, random.sample(free, min(wanted, len(free))))
        if changed:
            yield from self._tell()
        return min(seen.left + SLACK, RECHECK if wanted > 0 else self.ttl)

    def _join(self, backend: Backend) -> Flow[Held]:
        owner = new_owner(backend)
        (member,) = yield from self._acquire(backend, {f"{self._prefix}m:{owner}": self.name}, owner)
        return member

    def _see(self, own: str) -> Flow[_Seen]:
        rows = yield from _leases(self._prefix)
        members = sorted((row.since, row.name) for row in rows if row.name.startswith(f"{self._prefix}m:"))
        partitions = {int(row.name.rpartition(":")[2]): row for row in rows if row.name.startswith(f"{self._prefix}p:")}
        mine = {own, *(term.lease for term in self._terms.values())}
        lefts = [row.left / 1e6 for row in rows if row.name not in mine]
        return _Seen([name for _, name in members], set(partitions), min(lefts, default=self.ttl))

    def _share(self, members: list[str], own: str) -> int:
        if own not in members:  # it has run out meanwhile; the next round joins again
            return len(self._terms)
        each, more = divmod(self.count, len(members))
        return each + (members.index(own) < more)

    def _take(self, backend: Backend, numbers: list[int]) -> Flow[int]:
        if not numbers:
            return 0
        names = {f"{self._prefix}p:{number}": f"{self.name}[{number}]" for number in numbers}
        terms = yield from self._acquire(backend, names, new_owner(backend))
        for term in terms:
            number = int(term.lease.rpartition(":")[2])
            self._terms = {**self._terms, number: term}
            logger.info("dref: %r gained partition %d (token %d)", self, number, term.token)
            self._call(self.on_gained, number, term)
        return len(terms)

    def _acquire(self, backend: Backend, names: dict[str, str], owner: str) -> Flow[list[Held]]:
        """Those of the leases (with the names of their handles) that are free now."""
        meta = json.dumps(who_am_i())
        sent = backend.clock.monotonic()
        try:
            replies: list[Reply] = yield [Acquire(lease, owner, int(self.ttl * 1e6), 0, meta) for lease in names]
        except BaseException:
            for lease in names:
                keeper_of(backend).release_soon(lease, owner)
            raise
        terms = []
        for (lease, name), reply in zip(names.items(), replies, strict=True):
            if reply.status is Status.APPLIED and backend.clock.monotonic() < sent + self.ttl * (1 - MARGIN):
                terms.append(hold(backend, name, Grant(lease, owner, reply.token, sent), self.ttl))
                terms[-1].when_lost(self._waker.set)
        return terms

    def _drop_lost(self) -> bool:
        lost = [number for number, term in self._terms.items() if term.remaining() <= 0]
        for number in lost:
            self._forget(number)
        return bool(lost)

    def _give_back(self, numbers: Iterable[int]) -> Flow[None]:
        for number in numbers:
            term = self._forget(number)
            logger.info("dref: %r gives back partition %d", self, number)
            try:
                yield from term.give_back()
            except DRefError as error:
                logger.warning("dref: %r could not be released and will run out: %s", term, error)

    def _forget(self, number: int) -> Held:
        """The worker is stopped before anybody else may have the partition."""
        terms = dict(self._terms)
        term = terms.pop(number)
        self._terms = terms
        self._call(self.on_lost, number)
        return term

    def _tell(self) -> Flow[None]:
        yield Add(self._counter, 1, op=os.urandom(OP_ID_SIZE))

    def _leave(self) -> None:
        self._unbind()
        member, backend = self._member, self._backend
        if backend is None:
            return
        try:
            drive(backend, self._farewell(member))
        except DRefError as error:
            logger.warning("dref: %r: the others are not told at once that it left: %s", self, error)

    def _farewell(self, member: Held | None) -> Flow[None]:
        yield from self._give_back(list(self._terms))
        if member is not None:
            yield from member.give_back()
        yield from self._tell()

    def _call(self, callback: Callable[..., Any] | None, *args: Any) -> None:
        if callback is None:
            return
        close_old_connections()
        try:
            callback(*args)
        except Exception:
            logger.exception("dref: a callback of %r raised", self)
        finally:
            close_old_connections()

    @property
    def _prefix(self) -> str:
        return f"partitions:{self.name}{naming.GROUP_SEPARATOR}"

    @property
    def _counter(self) -> str:
        return naming.grouped(self.name, GROUP)


def _leases(prefix: str) -> Flow[list[LeaseInfo]]:
    """All leases with the prefix that somebody holds."""
    rows: list[LeaseInfo] = []
    after = ""
    while True:
        reply: Reply = yield ScanLeases(prefix, after, PAGE)
        rows += [row for row in reply.page if isinstance(row, LeaseInfo) and row.owner]
        if not (after := reply.cursor):
            return rows
