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
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from . import backends, background
from .backends.base import Backend
from .clock import SYSTEM
from .exceptions import DRefError, LockLost, LockTimeout, Unavailable
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
LAST_TRY: Final = 0.2
"""Seconds that a renewal may use up, though no time is left for another one."""
IDLE: Final = 60.0
TAKEN: Final = "it ran out, was broken, or another holds it now"
RENEW_BATCH: Final = 500
FAREWELL_TIMEOUT: Final = 1.0

_numbers = itertools.count(1)


clock: Final = SYSTEM.monotonic
"""What waits go by. The trust window goes by the back end's clock, which tests may move by hand."""


def new_owner(backend: Backend) -> str:
    """An owner that no other handle of any process ever has. The part before "/" is where its wake-ups go."""
    return f"{backend.node_id()}/{next(_numbers)}"


class Grant(NamedTuple):
    lease: str
    owner: str
    token: int
    sent: float
    """Time of the back end's clock when the command that was granted was sent."""


def take(
    backend: Backend, lease: str, *, ttl: float, timeout: float | None, meta: str = "", owner: str = ""
) -> Flow[Grant]:
    """Acquires the lease, waiting up to `timeout` seconds (None: as long as it takes; 0: a single try).

    Raises `LockTimeout`. Whatever is raised, the place in the queue, or the lease if it was granted meanwhile, is given
    back: at once after a timeout, by the keeper's thread after a cancellation.
    """
    owner = owner or new_owner(backend)
    deadline = None if timeout is None else clock() + timeout
    sent = backend.clock.monotonic()
    try:
        reply: Reply = yield Acquire(lease, owner, int(ttl * 1e6), 0, meta)
        if _is_granted(backend, reply, sent, ttl):
            return Grant(lease, owner, reply.token, sent)
        if deadline is None or clock() < deadline:
            grant = yield from _queue_up(backend, Acquire(lease, owner, int(ttl * 1e6), PLACE, meta), deadline)
            if grant is not None:
                return grant
            yield Release(lease, owner)
        elif reply.status is Status.APPLIED:
            yield Release(lease, owner)
    except BaseException:
        keeper_of(backend).release_soon(lease, owner)
        raise
    raise _timeout(lease, timeout)


def _queue_up(backend: Backend, command: Acquire, deadline: float | None) -> Flow[Grant | None]:
    """Sleeps until it is our turn; None when the time is over, with the place in the queue still ours."""
    hub = get_hub(backend)
    waker = hub.expect_wake(command.owner)
    rang = True
    try:
        while rang or deadline is None or clock() < deadline:
            waker.clear()
            if _ending:
                raise Unavailable(f"{command.name!r} is not waited for any more: the process ends.")
            sent = backend.clock.monotonic()
            reply: Reply = yield command
            if _is_granted(backend, reply, sent, command.ttl / 1e6):
                return Grant(command.name, command.owner, reply.token, sent)
            if reply.status is Status.APPLIED:
                rang = False
            else:
                rang = yield Pause(_until_recheck(reply, deadline), waker)
    finally:
        hub.forget_wake(command.owner)
    return None


def _is_granted(backend: Backend, reply: Reply, sent: float, ttl: float) -> bool:
    """A grant that was so long on its way that nothing of it can be trusted any more is asked for again."""
    return reply.status is Status.APPLIED and backend.clock.monotonic() < sent + ttl * (1 - MARGIN)


def give(lease: str, owner: str, token: int = 0, keep: float = 0) -> Flow[bool]:
    """Releases the lease, or leaves it taken for `keep` seconds more; returns whether `owner` still held it."""
    reply: Reply = yield Release(lease, owner, token, int(keep * 1e6))
    return reply.existed


def _timeout(lease: str, timeout: float | None) -> LockTimeout:
    kind, _, name = lease.partition(":")
    return LockTimeout(
        f"{kind} {name!r} was not free within {timeout or 0:.3g} s. "
        "(`timeout` is the time to wait, `ttl` is the lease.)"
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
        return super().is_set() or self._held.is_lost()

    __bool__ = is_set

    def wait(self, seconds: float | None = None) -> bool:
        return self.is_set() or super().wait(seconds)

    async def await_(self, seconds: float | None = None) -> bool:
        return self.is_set() or await super().await_(seconds)


class Held:
    """A lease that this handle holds, or once held. Ownership is the handle's, not the thread's.

    - `name`, `token`: the fencing token rises strictly for the life of the name; hand it to what the lock protects.
    - `lost`: an event, see `LostEvent`. `check()` raises `LockLost` when it is lost or released. `remaining()`: seconds
      for which holding it is proven; 0 when lost or released.
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
        self.renew_at = grant.sent + ttl / RENEWALS
        self.released = False
        self._deadline = grant.sent + ttl * (1 - MARGIN)
        self._reason = ""
        self._gone = False  # the server keeps nothing of it that could be released
        self._releases = 0
        self._listeners: list[Callable[[], None]] = []
        self._event: LostEvent | None = None
        self._mutex = threading.RLock()  # a finaliser may hand back in the midst of anything
        self._clock = backend.clock.monotonic
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "lost" if self.is_lost() else "released" if self.released else "held"
        return f"<{self.lease!r} {state}, token {self.token}>"

    @property
    def lost(self) -> LostEvent:
        if self._event is None:
            with self._mutex:
                if self._event is None:
                    self._event = LostEvent(self)
        return self._event

    def is_lost(self) -> bool:
        if self._reason or os.getpid() != self._pid:
            return True
        return not self.released and self.remaining() <= 0

    def remaining(self) -> float:
        if self.released or self._reason or os.getpid() != self._pid:
            return 0.0
        left = self._deadline - self._clock()
        if left <= 0:
            self.mark_lost(self._too_late())
        return max(left, 0.0)

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
            reason = self._reason or self._too_late()
        return LockLost(f"{self.kind} {self.name!r} (token {self.token}) is not held any more: {reason}")

    def _too_late(self) -> str:
        return f"it could not be renewed within its lease of {self.ttl:g} s"

    def deadline(self) -> float:
        return self._deadline

    def renewed(self, sent: float) -> bool:
        """A renewal that was sent then succeeded. It cannot bring back a lease that was lost meanwhile: then False."""
        with self._mutex:
            if self._reason:
                return False
            if self._clock() < self._deadline:
                self._deadline = max(self._deadline, sent + self.ttl * (1 - MARGIN))
                self.renew_at = sent + self.ttl / RENEWALS
                return True
        self.mark_lost(self._too_late())
        return False

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Calls back once when the lease is lost; at once when it is already. From any thread; must not block."""
        with self._mutex:
            if not self._reason:
                self._listeners.append(callback)
                return
        callback()

    def mark_lost(self, reason: str, *, gone: bool = False, tell: bool = True) -> None:
        """Tells everybody who asked, once. `gone`: the server has forgotten this holder."""
        with self._mutex:
            self._gone = self._gone or gone
            if self.released:
                return
        self._lose(reason, tell)

    def _lose(self, reason: str, tell: bool) -> None:
        with self._mutex:
            if self._reason:
                return
            self._reason = reason
            listeners, self._listeners = self._listeners, []
            event = self._event
        if not tell:
            return
        logger.warning("dref: %s %r (token %d) lost: %s", self.kind, self.name, self.token, reason)
        if event is not None:
            event.set()
        for listener in listeners:
            try:
                listener()
            except Exception:
                logger.exception("dref: telling the loss of %s %r failed", self.kind, self.name)

    def let_go(self, keep: float = 0) -> Release | None:
        """From now on it is released and not renewed. Returns what to tell the server; None when that is nothing."""
        if os.getpid() != self._pid:
            return None
        self.remaining()  # a deadline that has passed still counts as a loss
        with self._mutex:
            self.released = True
            self._releases += 1
            if self._gone:
                return None
        keeper_of(self.backend).remove(self)
        return Release(self.lease, self.owner, self.token, int(keep * 1e6))

    def was_kept(self, existed: bool) -> bool:
        """Whether it was held to the end, after the server's answer to the release."""
        if not existed and self._releases == 1:
            self._lose(TAKEN, True)
        return not self._reason

    def give_back(self, keep: float = 0) -> Flow[bool]:
        """Stops renewing and releases; returns whether it was held to the end. Safe to repeat.

        With `keep` the lease stays taken for so many seconds more.
        """
        release = self.let_go(keep)
        if release is None:
            return False
        reply: Reply = yield release
        return self.was_kept(reply.existed)

    def hand_back(self, keep: float = 0) -> None:
        """Releases without waiting, on the keeper's thread."""
        release = self.let_go(keep)
        if release is not None:
            keeper_of(self.backend).send_soon(release)


class _Waiting(NamedTuple):
    """A release that nobody waits for. What cannot be sent until then runs out by itself."""

    release: Release
    until: float


class Keeper:
    """Renews what this process holds, on an OS thread: a blocked event loop or a busy request does not starve it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._clock = backend.clock.monotonic
        self._held: set[Held] = set()
        self._releases: list[_Waiting] = []
        self._release_at = 0.0
        self._condition = threading.Condition()  # on an RLock: a finaliser may call in the midst of anything
        self._wakes_at = 0.0
        self._asked_for = 0.0  # the moment for which it was woken last: short locks, one after the other, wake it once
        self._thread: threading.Thread | None = None
        self._closed = False
        backend.clock.on_move(self._look)
        backend.on_loss = self.lose

    def _look(self) -> None:
        """The clock was moved by hand: what is due by now is renewed before its mover goes on."""
        with self._condition:
            due = self._due(self._clock())
            self._condition.notify()
        if due:
            self._renew(due)

    def add(self, held: Held) -> None:
        with self._condition:
            self._held.add(held)
            self._ensure(held.renew_at)

    def remove(self, held: Held) -> None:
        with self._condition:
            self._held.discard(held)

    def release_soon(self, lease: str, owner: str) -> None:
        """Takes `owner` out of the queue, or frees the lease if it was granted meanwhile."""
        self.send_soon(Release(lease, owner))

    def send_soon(self, release: Release) -> None:
        with self._condition:
            self._releases.append(_Waiting(release, clock() + self._backend.params.timeout))
            self._ensure(0.0)

    def look_again(self, lease: str, owner: str) -> None:
        """A wake for a holder: somebody broke its lease. Renews at once, and so learns it."""
        with self._condition:
            for held in self._held:
                if held.owner == owner and held.lease == lease:
                    held.renew_at = 0.0
                    self._ensure(0.0)

    def lose(self, leases: Sequence[tuple[str, str]], reason: str) -> None:
        """The back end knows that these (lease, owner) are not held any more: who holds them learns it here and now."""
        gone = set(leases)
        with self._condition:
            helds = [held for held in self._held if (held.lease, held.owner) in gone]
            self._held.difference_update(helds)
        for held in helds:
            held.mark_lost(reason)

    def farewell(self, reason: str, *, tell: bool) -> None:
        """Ends: what is still held is lost here and now, then given back in a bounded time."""
        with self._condition:
            self._closed = True
            helds, self._held = list(self._held), set()
            releases = [waiting.release for waiting in self._releases]
            self._releases = []
            self._condition.notify()
        releases += [Release(held.lease, held.owner, held.token) for held in helds]
        for held in helds:
            held.mark_lost(reason, gone=True, tell=tell)
        if releases:
            try:
                self._backend.execute(releases, timeout=FAREWELL_TIMEOUT)
            except Exception as error:
                logger.warning("dref: %d leases could not be released and will run out: %s", len(releases), error)

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
            self._asked_for = at
            self._condition.notify()

    def _run(self) -> None:
        while not (self._closed and not self._releases):
            try:
                self._round()
            except Exception:
                logger.exception("dref: renewing leases failed")
                time.sleep(RETRY)

    def _round(self) -> None:
        """Sleeps until something is due, or does it."""
        with self._condition:
            if self._closed and not self._releases:
                return
            now = self._clock()
            due, releases = self._due(now), self._due_releases()
            if not due and not releases:
                self._wakes_at = self._next_moment(now)
                self._condition.wait(max(self._wakes_at - now, 0))
                self._wakes_at = 0.0
                return
        if due:
            self._renew(due)
        if releases:
            self._release(releases)

    def _next_moment(self, now: float) -> float:
        moments = [min(held.renew_at, held.deadline()) for held in self._held]
        if self._releases:
            moments.append(now + self._release_at - clock())
        if self._asked_for > now:
            moments.append(self._asked_for)
        return min(moments, default=now + IDLE)

    def _due(self, now: float) -> list[Held]:
        """Everything that wants a renewal within a sixth of its lease, as soon as one is due: one batch."""
        if not any(held.renew_at <= now or held.deadline() <= now for held in self._held):
            return []
        return [held for held in self._held if held.renew_at <= now + held.ttl / (2 * RENEWALS)]

    def _due_releases(self) -> list[_Waiting]:
        if clock() < self._release_at:
            return []
        due = self._releases[:RENEW_BATCH]
        del self._releases[:RENEW_BATCH]
        return due

    def _time_limit(self) -> float:
        """For one exchange: the lease that runs out first must have time for another try after it."""
        now = self._clock()
        with self._condition:
            left = min((held.deadline() - now for held in self._held), default=FAREWELL_TIMEOUT)
        return min(self._backend.params.timeout, max(left / 2, min(left, LAST_TRY), SOONEST))

    def _renew(self, due: list[Held]) -> None:
        for held in due:
            if held.remaining() <= 0:
                self.remove(held)
        due = [held for held in due if held.remaining() > 0]
        for start in range(0, len(due), RENEW_BATCH):
            self._renew_batch(due[start : start + RENEW_BATCH])

    def _renew_batch(self, due: list[Held]) -> None:
        sent = self._clock()
        renewals = [Renew(held.lease, held.owner, held.token, int(held.ttl * 1e6)) for held in due]
        try:
            replies = self._backend.execute(renewals, timeout=self._time_limit())
        except Exception as error:
            if not isinstance(error, DRefError):
                logger.exception("dref: renewing leases failed")
            for held in due:
                held.renew_at = self._clock() + RETRY
            return
        for held, reply in zip(due, replies, strict=True):
            if reply.status is not Status.APPLIED:
                self.remove(held)
                held.mark_lost(TAKEN, gone=True)
            elif not held.renewed(sent):
                self.remove(held)
        self._listen_for_breaks()

    def _listen_for_breaks(self) -> None:
        """Who holds a lease for longer than a renewal wants to hear at once when it is broken."""
        if not self._closed:
            hub = get_hub(self._backend)
            hub.on_other_wake = self.look_again
            hub.start()

    def _release(self, releases: list[_Waiting]) -> None:
        try:
            self._backend.execute([waiting.release for waiting in releases], timeout=self._time_limit())
        except Exception as error:
            now = clock()
            again = [waiting for waiting in releases if waiting.until > now]
            with self._condition:
                self._releases[:0] = again
                self._release_at = now + RETRY
            if len(again) < len(releases):
                count = len(releases) - len(again)
                logger.warning("dref: %d leases could not be released and will run out: %s", count, error)


_ending = False
"""The interpreter exits: what a daemon thread were granted now, nobody would give back."""
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
    """A callback for `Held.when_lost` that runs on the process's callback thread."""
    return lambda: call_back(lambda: function(*args))


def _discard(backend: Backend) -> None:
    keeper = _keepers.pop(backend, None)
    if keeper is not None:
        keeper.farewell("its back end was discarded (the settings were changed)", tell=True)


def _farewell() -> None:
    global _ending
    _ending = True
    for keeper in list(_keepers.values()):
        keeper.farewell("the process ends", tell=False)


def _after_fork() -> None:
    global _mutex, _keepers
    _mutex = threading.Lock()
    for keeper in list(_keepers.values()):
        keeper.forsake()
    _keepers = weakref.WeakKeyDictionary()


backends.on_discard(_discard)
background.at_exit(_farewell)
os.register_at_fork(after_in_child=_after_fork)
