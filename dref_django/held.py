"""A lease that this process holds: trusted only as long as that can be proven.

**The trust window.** A lease is renewed by *setting* its expiry to `ttl` from the server's now. The holder keeps a
deadline of its own: the time at which the last successful renewal was *sent*, plus `ttl`, less a tenth. The server
cannot have granted the lease to another before that, whatever the network does, as long as both clocks run at rates
within 10 %. Past it the lease counts as lost. (The scheme of Gray and Cheriton, "Leases", 1989, section 2; the local
deadline as in River's leader election.)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import process
from .backends.base import Backend
from .exceptions import LockLost
from .flows import Flow
from .keeper import RENEWALS, TAKEN, keeper_of
from .protocol import Release, Reply
from .streams import call_back
from .waiting import Waker

if TYPE_CHECKING:
    from .leasing import Grant

logger = logging.getLogger("dref_django")

MARGIN: Final = 0.1
"""The part of a lease that is never trusted."""


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
        self._pid = process.pid

    def __repr__(self) -> str:
        state = "lost" if self.is_lost() else "released" if self.released else "held"
        return f"<{self.lease!r} {state}, token {self.token}>"

    @property
    def kind(self) -> str:
        return self.lease.partition(":")[0]

    @property
    def lost(self) -> LostEvent:
        if self._event is None:
            with self._mutex:
                if self._event is None:
                    self._event = LostEvent(self)
        return self._event

    def is_lost(self) -> bool:
        if self._reason or process.pid != self._pid:
            return True
        return not self.released and self.remaining() <= 0

    def remaining(self) -> float:
        if self.released or self._reason or process.pid != self._pid:
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
        if process.pid != self._pid:
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
        extra = {"dref_event": "lock_lost", "dref_kind": self.kind, "dref_name": self.name, "dref_token": self.token}
        logger.warning("dref: %s %r (token %d) lost: %s", self.kind, self.name, self.token, reason, extra=extra)
        if event is not None:
            event.set()
        for listener in listeners:
            try:
                listener()
            except Exception:
                logger.exception("dref: telling the loss of %s %r failed", self.kind, self.name)

    def let_go(self, keep: float = 0) -> Release | None:
        """From now on it is released and not renewed. Returns what to tell the server; None when that is nothing."""
        if process.pid != self._pid:
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


def notify_lost(function: Callable[..., Any], *args: Any) -> Callable[[], None]:
    """A callback for `Held.when_lost` that runs on the process's callback thread."""
    return lambda: call_back(lambda: function(*args))
