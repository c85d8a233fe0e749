"""Taking and giving back a lease: the flows under locks, elections and a ref's own lock.

Waiting does not poll: the release wakes the next waiter. A lost wake-up costs at most `RECHECK` seconds, or what is
left of the lease in the way if that is less.
"""

from __future__ import annotations

import itertools
import time
from typing import Final

from .backends.base import Backend
from .exceptions import LockTimeout
from .flows import Flow, Pause
from .hub import Hub
from .protocol import Acquire, Release, Reply, Status

RECHECK: Final = 5.0
"""Seconds after which a waiter looks again by itself, at the latest."""
PLACE: Final = 12_000_000
"""Microseconds for which a waiter keeps its place without asking again: two rechecks and some."""
SOONEST: Final = 0.001

_numbers = itertools.count(1)


def new_owner(backend: Backend) -> str:
    """An owner that no other handle of any process ever has. The part before "/" is where its wake-ups go."""
    return f"{backend.node_id()}/{next(_numbers)}"


def take(hub: Hub, lease: str, owner: str, *, ttl: int, timeout: float | None, meta: str = "") -> Flow[Reply]:
    """Acquires the lease, waiting up to `timeout` seconds (None: as long as it takes; 0: a single try).

    Returns the granting reply (token, left). Raises `LockTimeout`. Whatever is raised, the place in the queue, or the
    lease if it was granted meanwhile, is given back.
    """
    reply: Reply = yield Acquire(lease, owner, ttl, 0, meta)
    if reply.status is Status.APPLIED:
        return reply
    deadline = None if timeout is None else time.monotonic() + timeout
    waker = hub.expect_wake(owner)
    try:
        while deadline is None or time.monotonic() < deadline:
            waker.clear()
            reply = yield Acquire(lease, owner, ttl, PLACE, meta)
            if reply.status is Status.APPLIED:
                return reply
            yield Pause(_until_recheck(reply, deadline), waker)
        raise LockTimeout(
            f"{lease!r} was not free within {timeout:g} s (timeout= is the time to wait, the lease is ttl=)."
        )
    except BaseException:
        yield Release(lease, owner)
        raise
    finally:
        hub.forget_wake(owner)


def give(lease: str, owner: str, token: int = 0) -> Flow[bool]:
    """Releases the lease; returns whether `owner` still held it."""
    reply: Reply = yield Release(lease, owner, token)
    return reply.existed


def _until_recheck(reply: Reply, deadline: float | None) -> float:
    left = RECHECK if reply.left is None else max(reply.left / 1e6, SOONEST)
    until = RECHECK if deadline is None else max(deadline - time.monotonic(), 0)
    return min(left, until, RECHECK)
