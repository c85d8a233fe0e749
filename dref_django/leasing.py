"""Taking, keeping and giving back leases: what locks, elections and a ref's own lock stand on.

    take()   a flow: waits without polling and returns a `Grant`
    Held     a lease that this process holds: trusted only as long as that can be proven
    Keeper   one OS thread a back end that renews all of them, in one batch, every third of the lease

**The trust window.** A lease is renewed by *setting* its expiry to `ttl` from the server's now. The holder keeps a
deadline of its own: the time at which the last successful renewal was *sent*, plus `ttl`, less a tenth. The server
cannot have granted the lease to another before that, whatever the network does, as long as both clocks run at rates
within 10 %. Past it the lease counts as lost. (The scheme of Gray and Cheriton, "Leases", 1989, section 2; the local
deadline as in River's leader election.)
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from . import backends, background
from .backends.base import Backend
from .exceptions import DRefError, LockLost, LockTimeout
from .flows import Flow, Pause
from .protocol import Acquire, Release, Renew, Reply, Status
from .streams import call_back, get_hub
from .waiting import Waker

logger = logging.getLogger("dref_django")

RECHECK: Final = 5.0
"""Seconds after which a waiter looks again by itself, at the latest."""
PLACE: Final = 12_000_000
"""Microseconds for which a waiter keeps its place without asking again: two rechecks and some."""
SOONEST: Final = 0.001
MARGIN: Final = 0.1
"""The part of a lease that is never trusted."""
RENEWALS: Final = 3
"""Renewals in one lease."""
MIN_TTL: Final = 1.0
RETRY: Final = 0.1
"""Seconds between two tries of a renewal that failed."""
RENEW_BATCH: Final = 500
FAREWELL_TIMEOUT: Final = 1.0

_numbers = itertools.count(1)


def clock() -> float:
    """Seconds on a clock that never steps and, where the system has one, also counts time spent suspended."""
    return time.clock_gettime(_CLOCK)


_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def new_owner(backend: Backend) -> str:
    """An owner that no other handle of any process ever has. The part before "/" is where its wake-ups go."""
    return f"{backend.node_id()}/{next(_numbers)}"


class Grant(NamedTuple):
    lease: str
    owner: str
    token: int
    sent: float
    """`clock()` when the command that was granted was sent."""


def take(
    backend: Backend, lease: str, *, ttl: float, timeout: float | None, meta: str = "", owner: str = ""
) -> Flow[Grant]:
    """Acquires the lease, waiting up to `timeout` seconds (None: as long as it takes; 0: a single try).

    Raises `LockTimeout`. Whatever is raised, the place in the queue, or the lease if it was granted meanwhile, is given
    back: at once after a timeout, by the keeper's thread after a cancellation.
    """
    owner = owner or new_owner(backend)
    ttl_us = int(ttl * 1e6)
    sent = clock()
    try:
        reply: Reply = yield Acquire(lease, owner, ttl_us, 0, meta)
    except BaseException:
        keeper_of(backend).release_soon(lease, owner)
        raise
    if reply.status is Status.APPLIED:
        return Grant(lease, owner, reply.token, sent)
    deadline = None if timeout is None else sent + timeout
    if deadline is not None and clock() >= deadline:
        raise _timeout(lease, timeout)
    hub = get_hub(backend)
    waker = hub.expect_wake(owner)
    try:
        while deadline is None or clock() < deadline:
            waker.clear()
            sent = clock()
            reply = yield Acquire(lease, owner, ttl_us, PLACE, meta)
            if reply.status is Status.APPLIED:
                return Grant(lease, owner, reply.token, sent)
            yield Pause(_until_recheck(reply, deadline), waker)
        yield Release(lease, owner)
        raise _timeout(lease, timeout)
    except LockTimeout:
        raise
    except BaseException:
        keeper_of(backend).release_soon(lease, owner)
        raise
    finally:
        hub.forget_wake(owner)


def give(lease: str, owner: str, token: int = 0, keep: float = 0) -> Flow[bool]:
    """Releases the lease, or leaves it taken for `keep` seconds more; returns whether `owner` still held it."""
    reply: Reply = yield Release(lease, owner, token, int(keep * 1e6))
    return reply.existed


def _timeout(lease: str, timeout: float | None) -> LockTimeout:
    kind, _, name = lease.partition(":")
    return LockTimeout(
        f"{kind} {name!r} was not free within {timeout or 0:g} s. (`timeout` is the time to wait, `ttl` is the lease.)"
    )


def _until_recheck(reply: Reply, deadline: float | None) -> float:
    left = RECHECK if reply.left is None else max(reply.left / 1e6, SOONEST)
    until = RECHECK if deadline is None else max(deadline - clock(), 0)
    return min(left, until, RECHECK)


class LostEvent(Waker):
    """Set once, when a lease is lost: `if held.lost`, `held.lost.wait(seconds)`, `await held.lost.await_(seconds)`."""

    __slots__ = ("_held",)

    def __init__(self, held: Held) -> None:
        super().__init__()
        self._held = held

    def is_set(self) -> bool:
        return super().is_set() or self._held.remaining() <= 0

    __bool__ = is_set


class Held:
    """A lease that this handle holds, or once held. Ownership is the handle's, not the thread's.

    - `name`, `token`: the fencing token rises strictly for the life of the name; hand it to what the lock protects.
    - `lost`: an event, see `LostEvent`. `check()` raises `LockLost` when it is lost. `remaining()`: seconds for which
      holding it is proven; 0 when lost or released.
    """

    def __init__(self, backend: Backend, name: str, grant: Grant, ttl: float) -> None:
        self.name = name
        self.token = grant.token
        self.lease = grant.lease
        self.kind = grant.lease.partition(":")[0]
        self.owner = grant.owner
        self.ttl = ttl
        self.backend = backend
        self.acquired = grant.sent
        self.renew_at = 0.0
        self.released = False
        self.lost = LostEvent(self)
        self.on_lost: list[Callable[[], None]] = []
        self._reason = ""
        self._deadline = 0.0
        self._mutex = threading.Lock()
        self._pid = os.getpid()
        self.renewed(grant.sent)

    def __repr__(self) -> str:
        state = "released" if self.released else "lost" if self.lost else "held"
        return f"<{self.lease!r} {state}, token {self.token}>"

    def remaining(self) -> float:
        if self.released or self._reason or os.getpid() != self._pid:
            return 0.0
        return max(self._deadline - clock(), 0.0)

    def check(self) -> None:
        """Raises `LockLost` unless it is proven that the lease is held now. No I/O."""
        if self.remaining() <= 0:
            raise self.error()

    def error(self) -> LockLost:
        if os.getpid() != self._pid:
            reason = "it belongs to the process that this one was forked from"
        elif self.released and not self._reason:
            reason = "it was released"
        else:
            reason = self._reason or f"it could not be renewed within its lease of {self.ttl:g} s"
        return LockLost(f"{self.kind} {self.name!r} (token {self.token}) is not held any more: {reason}")

    def renewed(self, sent: float) -> None:
        """A renewal that was sent then succeeded. It cannot bring a lost lease back."""
        with self._mutex:
            if not self._reason:
                self._deadline = max(self._deadline, sent + self.ttl * (1 - MARGIN))
                self.renew_at = sent + self.ttl / RENEWALS

    def deadline(self) -> float:
        return self._deadline

    def mark_lost(self, reason: str) -> None:
        """Tells everybody who asked, once. Callbacks run on the callback thread."""
        with self._mutex:
            if self._reason or self.released:
                return
            self._reason = reason
        logger.warning("dref: %s %r (token %d) lost: %s", self.kind, self.name, self.token, reason)
        self.lost.set()
        for callback in self.on_lost:
            callback()

    def give_back(self, keep: float = 0) -> Flow[bool]:
        """Stops renewing and releases; returns whether it was held to the end. Safe to repeat."""
        if os.getpid() != self._pid:
            return False
        with self._mutex:
            again, self.released = self.released, True
        keeper_of(self.backend).remove(self)
        held = yield from give(self.lease, self.owner, self.token, keep)
        return (held or again) and not self._reason

    def hand_back(self) -> None:
        """Releases without waiting, on the keeper's thread."""
        if os.getpid() == self._pid:
            self.released = True
            keeper = keeper_of(self.backend)
            keeper.remove(self)
            keeper.release_soon(self.lease, self.owner)


class Keeper:
    """Renews what this process holds, on an OS thread: a blocked event loop or a busy request does not starve it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._held: set[Held] = set()
        self._releases: list[Release] = []
        self._condition = threading.Condition()
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, held: Held) -> None:
        with self._condition:
            self._held.add(held)
            self._ensure(held.renew_at)

    def remove(self, held: Held) -> None:
        with self._condition:
            self._held.discard(held)

    def release_soon(self, lease: str, owner: str) -> None:
        with self._condition:
            self._releases.append(Release(lease, owner))
            self._ensure(0.0)

    def look_again(self, lease: str, owner: str) -> None:
        """A wake for a holder: somebody broke its lease. Renews at once, and so learns it."""
        with self._condition:
            for held in self._held:
                if held.owner == owner and held.lease == lease:
                    held.renew_at = 0.0
                    self._ensure(0.0)

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()

    def farewell(self) -> None:
        """Interpreter exit: gives back what is still held, in a bounded time."""
        with self._condition:
            self._closed = True
            releases = [*self._releases, *(Release(held.lease, held.owner, held.token) for held in self._held)]
            self._held.clear()
        if releases:
            try:
                self._backend.execute(releases, timeout=FAREWELL_TIMEOUT)
            except Exception as error:
                logger.warning("dref: %d leases could not be released at exit: %s", len(releases), error)

    def forsake(self) -> None:
        """In a forked child: what the parent holds is lost here, and nothing of it is touched."""
        self._condition = threading.Condition()
        self._held = set()
        self._releases = []
        self._closed = True

    def _ensure(self, at: float) -> None:
        """The thread runs and wakes by then. Called with the condition held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dref-keeper", daemon=True)
            self._thread.start()
        elif at < self._wakes_at:
            self._condition.notify()

    def _run(self) -> None:
        condition = self._condition
        while True:
            with condition:
                if self._closed and not self._releases:
                    return
                now = clock()
                due, releases = self._due(now), self._releases[:RENEW_BATCH]
                del self._releases[:RENEW_BATCH]
                if not due and not releases:
                    self._wakes_at = min((min(held.renew_at, held.deadline()) for held in self._held), default=now + 60)
                    condition.wait(max(self._wakes_at - now, 0))
                    self._wakes_at = 0.0
                    continue
            if releases:
                self._release(releases)
            if due:
                self._renew(due)

    def _due(self, now: float) -> list[Held]:
        """Everything that wants a renewal within a sixth of its lease, as soon as one is due: one batch."""
        if not any(held.renew_at <= now or held.deadline() <= now for held in self._held):
            return []
        return [held for held in self._held if held.renew_at <= now + held.ttl / (2 * RENEWALS)]

    def _renew(self, due: list[Held]) -> None:
        now = clock()
        for held in [held for held in due if held.deadline() <= now]:
            due.remove(held)
            self._lose(held, f"it could not be renewed within its lease of {held.ttl:g} s")
        for start in range(0, len(due), RENEW_BATCH):
            self._renew_batch(due[start : start + RENEW_BATCH])

    def _renew_batch(self, due: list[Held]) -> None:
        sent = clock()
        limit = min(self._backend.params.timeout, max(min(held.deadline() for held in due) - sent, SOONEST))
        renewals = [Renew(held.lease, held.owner, held.token, int(held.ttl * 1e6)) for held in due]
        try:
            replies = self._backend.execute(renewals, timeout=limit)
        except Exception as error:
            if not isinstance(error, DRefError):
                logger.exception("dref: renewing leases failed")
            for held in due:
                held.renew_at = clock() + RETRY
            return
        for held, reply in zip(due, replies, strict=True):
            if reply.status is Status.APPLIED:
                held.renewed(sent)
            else:
                self._lose(held, "it ran out, was broken, or another holds it now")
        self._listen_for_breaks()

    def _listen_for_breaks(self) -> None:
        """Who holds a lease for longer than a renewal wants to hear at once when it is broken."""
        hub = get_hub(self._backend)
        hub.on_other_wake = self.look_again
        hub.start()

    def _lose(self, held: Held, reason: str) -> None:
        self.remove(held)
        held.mark_lost(reason)

    def _release(self, releases: list[Release]) -> None:
        try:
            self._backend.execute(releases)
        except Exception as error:
            logger.warning("dref: %d leases could not be released and will run out: %s", len(releases), error)


_mutex = threading.Lock()
_keepers: weakref.WeakKeyDictionary[Backend, Keeper] = weakref.WeakKeyDictionary()


def keeper_of(backend: Backend) -> Keeper:
    keeper = _keepers.get(backend)
    if keeper is None:
        with _mutex:
            keeper = _keepers.get(backend)
            if keeper is None:
                keeper = _keepers[backend] = Keeper(backend)
    return keeper


def hold(backend: Backend, name: str, grant: Grant, ttl: float) -> Held:
    """The grant as a handle that is renewed from now on."""
    held = Held(backend, name, grant, ttl)
    keeper_of(backend).add(held)
    return held


def notify_lost(function: Callable[..., Any], *args: Any) -> Callable[[], None]:
    """A callback for `Held.on_lost` that runs on the process's callback thread."""
    return lambda: call_back(lambda: function(*args))


def _discard(backend: Backend) -> None:
    keeper = _keepers.pop(backend, None)
    if keeper is not None:
        keeper.farewell()
        keeper.close()


def _farewell() -> None:
    for keeper in list(_keepers.values()):
        keeper.farewell()


def _after_fork() -> None:
    global _mutex, _keepers
    _mutex = threading.Lock()
    for keeper in list(_keepers.values()):
        keeper.forsake()
    _keepers = weakref.WeakKeyDictionary()


backends.on_discard(_discard)
background.at_exit(_farewell)
os.register_at_fork(after_in_child=_after_fork)
