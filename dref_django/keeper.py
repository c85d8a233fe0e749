"""One OS thread a back end that renews what this process holds, in one batch, every third of the lease.

It also gives back what nobody waits for, tells holders what the back end knows to be lost, and ends with the
interpreter, the back end and a fork.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from . import backends, background
from .backends.base import Backend
from .clock import SYSTEM
from .exceptions import DRefError
from .protocol import Release, Renew, Status
from .streams import get_hub

if TYPE_CHECKING:
    from .held import Held

logger = logging.getLogger("dref_django")

SOONEST: Final = 0.001
RENEWALS: Final = 3
"""Renewals in one lease."""
RETRY: Final = 0.1
"""Seconds between two tries of a renewal that failed."""
LAST_TRY: Final = 0.2
"""Seconds that a renewal may use up, though no time is left for another one."""
IDLE: Final = 60.0
TAKEN: Final = "it ran out, was broken, or another holds it now"
RENEW_BATCH: Final = 500
FAREWELL_TIMEOUT: Final = 1.0

clock: Final = SYSTEM.monotonic
"""What waits go by. The trust window goes by the back end's clock, which tests may move by hand."""


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
        self._mutex = threading.RLock()  # a finaliser may call in the midst of anything
        self._condition = threading.Condition(self._mutex)
        self._renewing = threading.RLock()  # a lost lock may make its holder move the clock
        self._wakes_at = 0.0
        self._asked_for = 0.0  # the moment for which it was woken last: short locks, one after the other, wake it once
        self._thread: threading.Thread | None = None
        self._closed = False
        backend.clock.on_move(self._look)
        backend.on_loss = self.lose

    def _look(self) -> None:
        """The clock was moved by hand: what is due by now is renewed before its mover goes on."""
        self._renew_due()
        with self._condition:
            self._condition.notify()

    def start(self) -> None:
        """Raises RuntimeError when the system gives no thread: nothing is to be taken then, that nobody renews."""
        if self._thread is None:
            with self._condition:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="dref-keeper", daemon=True)
                    thread.start()
                    self._thread = thread

    def add(self, held: Held) -> None:
        with self._mutex:
            self._held.add(held)
            self._ensure(held.renew_at)

    def count(self) -> int:
        """Leases that it renews now."""
        return len(self._held)

    def remove(self, held: Held) -> None:
        with self._mutex:
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
        self._mutex = threading.RLock()
        self._condition = threading.Condition(self._mutex)
        self._renewing = threading.RLock()  # a lost lock may make its holder move the clock
        self._held = set()
        self._releases = []
        self._closed = True

    def _ensure(self, at: float) -> None:
        """The thread runs and wakes by then. Called with the condition held."""
        if self._thread is None:
            self.start()
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
            self._renew_due()
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

    def _renew_due(self) -> None:
        """One thread at a time: what was sent at an earlier moment must not arrive after what was sent later."""
        with self._renewing:
            with self._condition:
                due = self._due(self._clock())
            self._renew(due)

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


def is_ending() -> bool:
    return _ending


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
