"""Who is a member: quorums, single-server changes, and the members that the log says are in force.

Members are in force from the entry that names them, committed or not (section 4.1 of the dissertation), and a
truncated entry takes its members along.
"""

from __future__ import annotations

from collections.abc import Iterable

from .errors import ChangeRefused
from .log import Log
from .messages import AddLearner, Change, Entry, EntryKind, Members, Promote, Remove, Snapshot


def quorum(voters: frozenset[str]) -> int:
    """How many of these voters make a majority."""
    return len(voters) // 2 + 1


def reached_by_quorum(values: Iterable[int], voters: frozenset[str]) -> int:
    """The largest number that a majority of the voters has reached; one value a voter."""
    return sorted(values, reverse=True)[quorum(voters) - 1]


def changed(members: Members, change: Change) -> Members:
    """The members after a change. At most one voter differs, so that any two quorums, old and new, overlap."""
    voters, learners, node = members.voters, members.learners, change.node
    match change:
        case AddLearner():
            if not node:
                raise ChangeRefused("a node id must not be empty")
            if node in members:
                raise ChangeRefused(f"{node} is a member already")
            return Members(voters, learners | {node})
        case Promote():
            if node not in learners:
                raise ChangeRefused(f"{node} is not a learner")
            return Members(voters | {node}, learners - {node})
        case Remove():
            if node not in members:
                raise ChangeRefused(f"{node} is not a member")
            if voters == {node}:
                raise ChangeRefused(f"{node} is the last voter")
            return Members(voters - {node}, learners - {node})


class History:
    """The members in force, and those before as long as the log may go back to them."""

    __slots__ = ("_entries",)

    def __init__(self, snapshot: Snapshot | None, log: Log) -> None:
        self._entries: list[tuple[int, Members]] = [(0, Members())]
        if snapshot:
            self.restore(snapshot)
        self.append(log.between(max(log.base, log.applied), log.last_index))

    @property
    def current(self) -> Members:
        return self._entries[-1][1]

    @property
    def index(self) -> int:
        """The entry that put the current members in force."""
        return self._entries[-1][0]

    def as_of(self, index: int) -> Members:
        return next(members for at, members in reversed(self._entries) if at <= index)

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.kind == EntryKind.MEMBERS:
                self._entries.append((entry.index, Members.decode(entry.data)))

    def truncate(self, index: int) -> None:
        while self._entries[-1][0] >= index:
            self._entries.pop()

    def compact(self, index: int) -> None:
        """What was in force before `index` will not be asked for any more."""
        while len(self._entries) > 1 and self._entries[1][0] <= index:
            del self._entries[0]

    def restore(self, snapshot: Snapshot) -> None:
        self._entries = [(snapshot.index, snapshot.members)]
