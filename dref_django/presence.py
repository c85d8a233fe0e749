"""Presence: who is in a room, over all processes, and right again soon after one of them died.

    room = Presence("room-1")
    room.join("alice", {"name": "Alice"})    # until leave, or the end of this process
    room.list()                              # {"alice": {"name": "Alice"}}
    for change in room.changes(): ...        # now, and each change

What each process says of its members, and the lease that its word hangs off, is in `attendance.py`. Here it is put
together: the members of all processes that live.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import attendance, backends, conf
from .attendance import Info, alive, attendance_of, bury, prefix_of, seat_of
from .backends.base import Backend
from .exceptions import DRefError, InvalidValue
from .flows import Await, Flow, adrive, drive
from .keeper import SOONEST
from .leasing import MIN_TTL
from .locks import seconds
from .observations import Look, Observation
from .protocol import Data, Reply, Row, Scan, check_name

__all__ = ["Presence", "PresenceChange", "PresenceStream"]

logger = logging.getLogger("dref_django")

DEFAULT_TTL: Final = 10.0
SLACK: Final = 0.01
"""Seconds after which a lease that should have run out has."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """Who is in the room now, and how that differs from the change before (in the first: all have joined)."""

    members: dict[str, Info]
    joined: frozenset[str]
    left: frozenset[str]


class Presence:
    """The members of one room in the whole cluster. Safe to make at import time.

    - `ttl`: the lease of each process in seconds, 1 or more (default 10): so long its members are still shown when it
      dies without a word. Every process should give the same.
    - `using`: the back end. On memory there are the members of this process only.

    A member is a string of up to 200 characters. It is present while any process says so: who joins twice, in two
    browser windows say, leaves with the second `leave`. A process that ends, or is forked off, takes its members along
    or begins without any. Every method raises `Unavailable` when the back end cannot be reached within its TIMEOUT.
    """

    def __init__(self, name: str, *, ttl: float = DEFAULT_TTL, using: str = conf.DEFAULT_ALIAS) -> None:
        self.name = check_name(name)
        self.ttl = seconds("ttl", ttl, MIN_TTL)
        self.using = using

    def __repr__(self) -> str:
        return f"Presence({self.name!r})"

    # --- being there --------------------------------------------------------------------------------------------

    def join(self, member: str, info: Mapping[str, Any] | None = None) -> None:
        """Counts the member in; everybody sees it when this returns. `info`: a dict that JSON can hold, the latest
        one counts. Raises `ValueTooLarge` when this process's part of the room exceeds MAX_VALUE_SIZE; whatever is
        raised, the member has not joined."""
        drive(self._backend(), self._join(member, info))

    async def ajoin(self, member: str, info: Mapping[str, Any] | None = None) -> None:
        await adrive(self._backend(), self._join(member, info))

    def leave(self, member: str) -> bool:
        """Counts the member out; returns whether it had joined in this process. What cannot be written now is made up
        for as soon as the back end is back."""
        return drive(self._backend(), self._leave(member))

    async def aleave(self, member: str) -> bool:
        return await adrive(self._backend(), self._leave(member))

    def leave_soon(self, member: str) -> bool:
        """`leave` without waiting for the write, also inside a running event loop."""
        return attendance_of(self._backend(), self.ttl).leave(self.name, member)[0]

    # --- seeing who is there ------------------------------------------------------------------------------------

    def list(self) -> dict[str, Info]:
        """The members and their infos, in the order of their names."""
        return drive(self._backend(), self._look())

    async def alist(self) -> dict[str, Info]:
        return await adrive(self._backend(), self._look())

    def count(self) -> int:
        """How many members there are."""
        return len(self.list())

    async def acount(self) -> int:
        return len(await self.alist())

    def changes(self, timeout: float | None = None) -> PresenceStream:
        """Who is there now, then each change: `for`, `async for`, also as a context manager.

        Who joins and leaves again quickly may not show. Those of a process that died show as left when its lease has
        run out. Iteration ends after `timeout` seconds without a change (None: never).
        """
        return PresenceStream(self, timeout)

    # --- flows --------------------------------------------------------------------------------------------------

    def _backend(self) -> Backend:
        return backends.get_backend(self.using)

    def _join(self, member: str, info: Mapping[str, Any] | None) -> Flow[None]:
        check_name(member)
        try:
            given: Info = json.loads(json.dumps(dict(info or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidValue(f"presence {self.name!r}: info is a dict that JSON can hold: {error}") from error
        mine = attendance_of(self._backend(), self.ttl)
        done = mine.join(self.name, member, given)
        try:
            yield Await(done, f"joining {self.name!r}")
        except BaseException:
            mine.leave(self.name, member)
            raise

    def _leave(self, member: str) -> Flow[bool]:
        was_in, done = attendance_of(self._backend(), self.ttl).leave(self.name, member)
        yield Await(done, f"leaving {self.name!r}")
        return was_in

    def _look(self) -> Flow[dict[str, Info]]:
        entries: dict[str, Data] = {}
        after = ""
        while True:
            reply: Reply = yield Scan(prefix_of(self.name), after, attendance.PAGE, True)
            entries |= {row.name: row.data for row in reply.page if isinstance(row, Row) and row.data is not None}
            if not (after := reply.cursor):
                break
        living = yield from alive(sorted(map(seat_of, entries)))
        return _members({name: data for name, data in entries.items() if seat_of(name) in living})


class PresenceStream(Observation[PresenceChange]):
    """The members now and each change to come, see `Presence.changes`."""

    retry = attendance.RETRY

    def __init__(self, presence: Presence, timeout: float | None) -> None:
        super().__init__(presence._backend(), presence, timeout, prefix=prefix_of(presence.name))
        self._clock = self._backend.clock.monotonic
        self._entries: dict[str, Data] = {}
        self._until: dict[str, float] = {}
        """By seat the moment up to which its process is known to live."""
        self._told: dict[str, Info] | None = None
        self._backend.clock.on_move(self._ring)

    def _look(self) -> Flow[Look[PresenceChange]]:
        self._take_news()
        yield from self._ask_who_lives()
        change = self._change()
        return Look(None, self._pause()) if change is None else Look((change,))

    def _ring(self) -> None:
        self._waker.set()

    def _take_news(self) -> None:
        while (raw := self._buffer.pop()) is not None:
            if raw.data is None:
                self._entries.pop(raw.name, None)
            else:
                self._entries[raw.name] = raw.data

    def _ask_who_lives(self) -> Flow[None]:
        """Asks about those processes only whose lease, as last seen, has run out: a question each a lease."""
        now = self._clock()
        seats = {seat_of(entry) for entry in self._entries}
        self._until = {seat: until for seat, until in self._until.items() if seat in seats}
        due = sorted(seat for seat in seats if self._until.get(seat, 0.0) <= now)
        if not due:
            return
        living = yield from alive(due)
        self._until |= {seat: now + left for seat, left in living.items()}
        dead = [entry for entry in self._entries if self._until.get(seat_of(entry), 0.0) <= now]
        for entry in dead:
            del self._entries[entry]
        try:
            yield from bury(dead)
        except DRefError as error:
            logger.info("dref: %r: what a dead process left stays for the next to remove: %s", self._what, error)

    def _change(self) -> PresenceChange | None:
        members, before = _members(self._entries), self._told
        if members == before:
            return None
        self._told = members
        known = set(before or ())
        return PresenceChange(dict(members), frozenset(members.keys() - known), frozenset(known - members.keys()))

    def _pause(self) -> float | None:
        if not self._until:
            return None
        return max(min(self._until.values()) - self._clock(), SOONEST) + SLACK


def _members(entries: Mapping[str, Data]) -> dict[str, Info]:
    members: dict[str, Info] = {}
    for _, data in sorted(entries.items()):
        if isinstance(data, bytes):
            members |= json.loads(data)
    return dict(sorted(members.items()))
