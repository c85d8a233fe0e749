"""Taking and giving back leases: what locks, elections and a ref's own lock stand on.

take()   a flow: waits without polling and returns a `Grant`            here
Held     a lease that this process holds, as long as that is proven     held.py
Keeper   the thread that renews all of them                             keeper.py
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

from .backends.base import Backend
from .exceptions import LockTimeout, Unavailable
from .flows import Flow, Pause
from .held import MARGIN, Held
from .keeper import SOONEST, clock, is_ending, keeper_of
from .protocol import Acquire, Release, Reply, Status
from .streams import get_hub

RECHECK: Final = 5.0
"""Seconds after which a waiter looks again by itself, at the latest."""
PLACE: Final = 12_000_000
"""Microseconds for which a waiter keeps its place without asking again: two rechecks and some."""
MIN_TTL: Final = 1.0

_numbers = itertools.count(1)


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
    back: at once after a timeout, by the keeper's thread after a cancellation. RuntimeError: the system gives no thread
    that would renew it; nothing was taken.
    """
    keeper_of(backend).start()
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
            if is_ending():
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


def hold(backend: Backend, name: str, grant: Grant, ttl: float) -> Held:
    """The grant as a handle that is renewed from now on."""
    held = Held(backend, name, grant, ttl)
    keeper_of(backend).add(held)
    return held
