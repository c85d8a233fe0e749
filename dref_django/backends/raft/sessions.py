"""Sessions: what makes a retry harmless. Part of the replicated state; changes by entries only.

A client numbers its requests. The session remembers the encoded replies of those that the client may still ask for
again; a repeated number is answered from there and changes nothing (Raft dissertation, section 6.3). Everything is
bounded: a client says with each request which numbers it has done with, at most `WINDOW` results are kept, large
replies are not, and a session that nobody uses for `SESSION_TTL` ends, by an entry, on every node at the same place.

A session also knows for whom it took leases: when it is closed because its process has ended, they are free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dref_django.protocol import Acquire, Command, Renew

WINDOW: Final = 1024
"""Results a session keeps; a client has no more requests under way."""
RESULT_LIMIT: Final = 512
"""Bytes of a result that is kept. Of a larger one only that there was one."""
SESSION_TTL: Final = 3_600_000_000
"""Microseconds."""
MAX_SESSIONS: Final = 10_000
"""More than that, and the one longest unused ends."""


class Forgotten(Exception):
    """The request was applied, or may have been, and its result is no longer known."""


class SessionImage(NamedTuple):
    """A session as plain values, for a snapshot."""

    id: int
    last_use: int
    floor: int
    results: dict[int, bytes | None]
    holders: tuple[tuple[str, str], ...] = ()


class Session:
    __slots__ = ("floor", "holders", "last_use", "results")

    def __init__(self, last_use: int) -> None:
        self.last_use = last_use
        self.floor = 0  # lower numbers are done with
        self.results: dict[int, bytes | None] = {}
        self.holders: set[tuple[str, str]] = set()
        """Spaces, and what the owners of its process's leases there begin with."""

    def note_holders(self, space: str, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, (Acquire, Renew)):
                process, slash, _ = command.owner.rpartition("/")
                if slash:
                    self.holders.add((space, process + slash))

    def result(self, number: int) -> bytes | None:
        """What the request `number` was answered with; None when it is new. Raises `Forgotten`."""
        if number < self.floor:
            raise Forgotten
        if number not in self.results:
            return None
        if (result := self.results[number]) is None:
            raise Forgotten
        return result

    def record(self, number: int, result: bytes) -> None:
        self.results[number] = result if len(result) <= RESULT_LIMIT else None
        if len(self.results) > WINDOW:
            oldest = min(self.results)
            del self.results[oldest]
            self.floor = max(self.floor, oldest + 1)

    def done_below(self, floor: int) -> None:
        if floor > self.floor:
            self.floor = floor
            while self.results and (first := next(iter(self.results))) < floor:  # nearly always they came in order
                del self.results[first]


class Sessions:
    """All sessions, the one longest unused first."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session_id: int, now: int) -> None:
        self._sessions[session_id] = Session(now)
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def use(self, session_id: int, now: int) -> Session | None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.last_use = now
            self._sessions[session_id] = session
        return session

    def close(self, session_id: int) -> Session | None:
        return self._sessions.pop(session_id, None)

    def extend(self, before: int, now: int) -> None:
        """Nobody could be served from `before` on: whoever had not ended then has as much time left as it had."""
        for session in self._sessions.values():
            session.last_use += now - before

    def next_end(self) -> int | None:
        """When the first session ends if nobody uses it."""
        return next(iter(self._sessions.values())).last_use + SESSION_TTL if self._sessions else None

    def expire(self, now: int) -> None:
        while (end := self.next_end()) is not None and end <= now:
            del self._sessions[next(iter(self._sessions))]

    def dump(self) -> Iterator[SessionImage]:
        for session_id, session in self._sessions.items():
            holders = tuple(sorted(session.holders))
            yield SessionImage(session_id, session.last_use, session.floor, dict(session.results), holders)

    def load(self, image: SessionImage) -> None:
        session = self._sessions[image.id] = Session(image.last_use)
        session.floor, session.results = image.floor, dict(image.results)
        session.holders = {(space, process) for space, process in image.holders}
