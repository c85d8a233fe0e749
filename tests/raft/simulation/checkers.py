"""What must hold whatever happens. The checkers see what nodes put out: what they write, send, apply and answer."""

from __future__ import annotations

from typing import Any, NamedTuple

from dref_django.backends.raft.core import (
    Append,
    Entry,
    Heartbeat,
    Message,
    Ready,
    Role,
    Snapshot,
    SnapshotChunk,
    TimeoutNow,
)
from tests.linearizability import CheckTimedOut, Operation, Ref, check

from .disk import Contents, Disk

LINEARIZABILITY_SECONDS = 120.0


class Violation(AssertionError):
    """A promise of Raft was broken."""


class Committed(NamedTuple):
    entry: Entry
    term: int
    """The term of the node that was first to know; it may be later than that of the leader who committed it."""


class Checkers:
    def __init__(self, founding: tuple[Entry, ...]) -> None:
        self.leaders: dict[int, str] = {}
        self.committed = [Committed(entry, entry.term) for entry in founding]
        self._complete: set[int] = set()
        self._matching: dict[tuple[int, int], tuple[int | None, Entry]] = {}
        self._results: dict[int, Any] = {}
        self._states: dict[int, tuple[str, bytes]] = {}

    def sent(self, message: Message) -> None:
        if isinstance(message, Append | Heartbeat | SnapshotChunk | TimeoutNow):
            self._leads(message.sender, message.term)

    def ready(self, node: str, ready: Ready, before: Contents) -> None:
        """A node hands out work; `before` is its disk, not yet changed by it."""
        self._matches(node, ready, before)
        if ready.role is Role.LEADER:
            self._leads(node, ready.term)
            if ready.term not in self._complete:
                self._complete.add(ready.term)
                self._is_complete(node, ready, before.copy())
        for entry in ready.committed:
            self._commits(node, entry, ready.term)

    def _leads(self, node: str, term: int) -> None:
        """Election safety."""
        other = self.leaders.setdefault(term, node)
        if other != node:
            raise Violation(f"one leader a term: {other} and {node} both lead term {term}")

    def _is_complete(self, node: str, ready: Ready, log: Contents) -> None:
        """Leader completeness: whoever is elected has what was committed in earlier terms."""
        if ready.truncate_from is not None:
            log.drop_from(ready.truncate_from)
        log.entries.extend(ready.entries)
        for entry, known_in in self.committed:
            if known_in < ready.term and not log.covers(entry):
                raise Violation(f"leader completeness: {node} leads term {ready.term} without the committed {entry}")

    def _matches(self, node: str, ready: Ready, before: Contents) -> None:
        """Log matching: an entry's index and term tell the entry, and the one before it, and so all before it."""
        for at, entry in enumerate(ready.entries):
            if at:
                term: int | None = ready.entries[at - 1].term
            elif ready.snapshot and ready.snapshot.index == entry.index - 1:
                term = ready.snapshot.term
            else:
                term = before.term_at(entry.index - 1)
            known = self._matching.setdefault((entry.index, entry.term), (term, entry))
            if known[1] != entry or (term is not None and known[0] not in (None, term)):
                raise Violation(f"log matching: {node} has {entry} after term {term}, another has {known}")

    def _commits(self, node: str, entry: Entry, term: int) -> None:
        """State machine safety: nobody applies anything else at this index."""
        place = entry.index - 1
        if place < len(self.committed):
            if self.committed[place].entry != entry:
                raise Violation(f"state machine safety: {node} applies {entry}, not {self.committed[place].entry}")
        elif place > len(self.committed):
            raise Violation(f"state machine safety: {node} applies {entry}, nobody applied what comes before")
        else:
            self.committed.append(Committed(entry, term))

    def durable(self, leader: str, entry: Entry, disks: dict[str, Disk]) -> None:
        """What a leader takes for committed is on the disks of a majority; `disks` are those of the voters."""
        having = sum(disk.durable.covers(entry) for disk in disks.values())
        if having <= len(disks) // 2:
            raise Violation(f"durability: {leader} commits {entry}, which {having} of {len(disks)} disks have")

    def applied(self, node: str, last: int, entry: Entry, result: Any) -> None:
        """Exactly once and in order; and the machine computes the same everywhere."""
        if entry.index != last + 1:
            raise Violation(f"exactly once: {node} applies {entry.index} after {last}")
        if self._results.setdefault(entry.index, result) != result:
            raise Violation(f"determinism: {node} gets {result} from {entry}, not {self._results[entry.index]}")

    def state(self, node: str, snapshot: Snapshot) -> None:
        """A snapshot of the machine is the same whoever made it, and whoever received it."""
        other, data = self._states.setdefault(snapshot.index, (node, snapshot.data))
        if data != snapshot.data:
            raise Violation(f"state machine safety: the snapshots of {other} and {node} at {snapshot.index} differ")
        if self.committed[snapshot.index - 1].entry.term != snapshot.term:
            raise Violation(f"state machine safety: {node} has a snapshot of {snapshot.term}, {snapshot.index}")

    def histories(self, operations: list[Operation]) -> None:
        try:
            result = check(Ref(), operations, timeout=LINEARIZABILITY_SECONDS)
        except CheckTimedOut as error:
            raise Violation(f"linearizability: {error}") from error
        if not result.ok:
            raise Violation(f"linearizability: {result.explanation}")

    def same_end(self, states: dict[str, bytes]) -> None:
        if len(set(states.values())) > 1:
            raise Violation(f"state machine safety: in the end the nodes differ: {states}")
