"""What the lease commands mean: one lease, its holder and its queue. Pure; part of the store.

A lease is held while its deadline lies ahead. When it is free it belongs to the first live waiter of its queue: that
one is woken, and the lease is kept for it for `RESERVATION`; a waiter that does not come is passed over. A waiter is
alive until the `wait` that it gave has run out, and stays alive by repeating its Acquire.

A lease that was given back has the deadline 0: it is free whatever the clock says, also when that is set back.
"""

from __future__ import annotations

from typing import NamedTuple

from .protocol import GRAVE, RESERVATION, Acquire, Break, LeaseInfo, Release, Renew, Reply, Status, Wake


class Waiter(NamedTuple):
    owner: str
    expires: int


class LeaseImage(NamedTuple):
    """A lease as plain values, for a snapshot."""

    name: str
    owner: str
    token: int
    since: int
    deadline: int
    ttl: int
    meta: str
    queue: tuple[Waiter, ...]


class Lease:
    """The state of one name. `owner` is "" when it is free, or kept by `at_least` (then the deadline lies ahead)."""

    __slots__ = ("deadline", "meta", "name", "owner", "queue", "since", "token", "ttl")

    def __init__(self, name: str) -> None:
        self.name = name
        self.owner = ""
        self.token = 0
        self.since = 0
        self.deadline = 0
        self.ttl = 0  # as it was last asked for: what an extension gives
        self.meta = ""
        self.queue: list[Waiter] = []

    def dump(self) -> LeaseImage:
        return LeaseImage(
            self.name, self.owner, self.token, self.since, self.deadline, self.ttl, self.meta, tuple(self.queue)
        )

    @classmethod
    def load(cls, image: LeaseImage) -> Lease:
        lease = cls(image.name)
        lease.owner, lease.token, lease.since, lease.deadline, lease.ttl, lease.meta = image[1:7]
        lease.queue = [Waiter(*waiter) for waiter in image.queue]
        return lease

    def extend(self, before: int, now: int) -> None:
        """Gives a holder, and each waiter, whose time had not run out `before` its whole time once more from `now`."""
        if self.deadline > before:
            self.deadline = max(self.deadline, now + self.ttl)
        pause = now - before
        self.queue = [
            Waiter(owner, expires + pause) if expires > before else Waiter(owner, expires)
            for owner, expires in self.queue
        ]

    def turns(self, since: int, now: int) -> bool:
        """Whether what `info` shows changes by itself after `since` and up to `now`."""
        return since < self.deadline <= now or any(since < waiter.expires <= now for waiter in self.queue)

    def apply(self, command: Acquire | Renew | Release | Break, now: int) -> tuple[Reply, list[Wake]]:
        self.queue = [waiter for waiter in self.queue if waiter.expires > now]
        match command:
            case Acquire():
                return self._acquire(command, now)
            case Renew():
                return self._renew(command, now), []
            case Release():
                return self._release(command, now)
            case Break():
                return self._break(command, now)

    def info(self, now: int) -> LeaseInfo | None:
        held = self.deadline > now
        waiters = tuple(waiter.owner for waiter in self.queue if waiter.expires > now)
        if not held and not waiters:
            return None
        left = self.deadline - now if held else 0
        owner, meta = (self.owner, self.meta) if held else ("", "")
        return LeaseInfo(self.name, owner, self.token, self.since, left, meta, waiters)

    def owners(self) -> list[str]:
        """Who holds it, and who waits."""
        return [self.owner, *(waiter.owner for waiter in self.queue)]

    def last_use(self) -> int:
        """A token is no lower than the time of its acquisition: an hour later the next one, the time, is higher."""
        return max(self.deadline, self.token, *(waiter.expires for waiter in self.queue))

    def is_buried(self, now: int) -> bool:
        return self.last_use() + GRAVE <= now

    def _acquire(self, command: Acquire, now: int) -> tuple[Reply, list[Wake]]:
        owner = command.owner
        if self.deadline > now:
            if self.owner == owner:
                self.deadline, self.ttl = now + command.ttl, command.ttl
                return self._granted(now), []
            self._enqueue(owner, command.wait, now)
            return Reply(Status.HELD, left=self.deadline - now, token=self.token), []
        if not self.queue or self.queue[0].owner == owner:
            self.queue = self.queue[1:]
            self.owner, self.meta = owner, command.meta
            self.token = max(self.token + 1, now)
            self.since, self.deadline, self.ttl = now, now + command.ttl, command.ttl
            return self._granted(now), []
        self._enqueue(owner, command.wait, now)
        wakes = self._wake_next(now)
        return Reply(Status.HELD, left=self.queue[0].expires - now, token=self.token), wakes

    def _granted(self, now: int) -> Reply:
        return Reply(Status.APPLIED, left=self.deadline - now, token=self.token)

    def _enqueue(self, owner: str, wait: int, now: int) -> None:
        if wait <= 0:
            return
        waiter = Waiter(owner, now + wait)
        for place, other in enumerate(self.queue):
            if other.owner == owner:
                self.queue[place] = waiter
                return
        self.queue.append(waiter)

    def _wake_next(self, now: int) -> list[Wake]:
        if not self.queue:
            return []
        head = self.queue[0]
        self.queue[0] = Waiter(head.owner, min(head.expires, now + RESERVATION))
        return [Wake(self.name, head.owner)]

    def _renew(self, command: Renew, now: int) -> Reply:
        if self.owner != command.owner or self.token != command.token or self.deadline <= now:
            return Reply(Status.LOST, token=self.token)
        self.deadline, self.ttl = now + command.ttl, command.ttl
        return self._granted(now)

    def _release(self, command: Release, now: int) -> tuple[Reply, list[Wake]]:
        waiting = [waiter for waiter in self.queue if waiter.owner != command.owner]
        queued, self.queue = len(waiting) < len(self.queue), waiting
        held = (
            self.deadline > now and self.owner == command.owner != "" and command.token in (0, self.token)
        )  # an expired lease is nobody's to release
        if held:
            self.owner = self.meta = ""
            self.deadline, self.ttl = now + command.keep if command.keep else 0, 0
        wakes = self._wake_next(now) if (held or queued) and self.deadline <= now else []
        return Reply(Status.APPLIED, existed=held, token=self.token), wakes

    def _break(self, command: Break, now: int) -> tuple[Reply, list[Wake]]:
        if self.deadline <= now or command.token not in (0, self.token):
            return Reply(Status.APPLIED, token=self.token), []
        wakes = [Wake(self.name, self.owner)] if self.owner else []
        self.owner = self.meta = ""
        self.deadline = 0
        return Reply(Status.APPLIED, existed=True, token=self.token), wakes + self._wake_next(now)
