"""Reads without a log entry (ReadIndex, section 6.4): the commit index of a leader that proves to be one still.

That a node of the leader's term asks for a read proves as much as its answer to a heartbeat: after the read was asked
for it had voted for nobody of a later term. Where the two of them are a quorum, of three voters, no round is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .messages import ReadReply, ReadState

if TYPE_CHECKING:
    from .replica import Replica


@dataclass(frozen=True, slots=True)
class _Reader:
    peer: str | None
    """The follower that asked; None: this node itself."""
    context: bytes
    number: int
    witness: str
    """Was in the leader's term after the read had been asked for; "": nobody."""


@dataclass(frozen=True, slots=True)
class _Round:
    number: int
    index: int
    readers: list[_Reader]


class Reads:
    """The reads asked of one leader in one term. Those asked between two flushes share one round of heartbeats."""

    def __init__(self, replica: Replica) -> None:
        self.round = 1
        """The latest round of heartbeats."""
        self._replica = replica
        self._asked: list[_Reader] = []
        self._rounds: deque[_Round] = deque()

    def ask(self, context: bytes, witness: str) -> None:
        self._asked.append(_Reader(None, context, 0, witness))

    def ask_for(self, peer: str, number: int) -> None:
        self._asked.append(_Reader(peer, b"", number, peer))

    def are_asked(self) -> bool:
        return bool(self._asked)

    def are_open(self) -> bool:
        return bool(self._rounds)

    def confirm_witnessed(self, is_quorum_with: Callable[[str], bool]) -> None:
        """Of those asked, what needs no round. As `begin_round`, only after an entry of this term is committed."""
        asked, self._asked = self._asked, []
        for reader in asked:
            if reader.witness and is_quorum_with(reader.witness):
                self._answer(reader, self._replica.log.commit)
            else:
                self._asked.append(reader)

    def begin_round(self) -> int:
        """To be called only after an entry of this term is committed: only then is everything that earlier leaders
        committed known to be."""
        self.round += 1
        self._rounds.append(_Round(self.round, self._replica.log.commit, self._asked))
        self._asked = []
        return self.round

    def confirm(self, number: int) -> None:
        """A quorum answered this round of heartbeats or a later one."""
        while self._rounds and self._rounds[0].number <= number:
            confirmed = self._rounds.popleft()
            for reader in confirmed.readers:
                self._answer(reader, confirmed.index)

    def _answer(self, reader: _Reader, index: int) -> None:
        replica = self._replica
        if reader.peer is None:
            replica.reads.append(ReadState(reader.context, index))
        else:
            replica.early.append(ReadReply(replica.node_id, reader.peer, replica.term, reader.number, index))

    def fail(self) -> None:
        """No longer the leader. Followers see that for themselves."""
        for readers in (self._asked, *(each.readers for each in self._rounds)):
            self._replica.failed_reads.extend(reader.context for reader in readers if reader.peer is None)
        self._asked = []
        self._rounds.clear()
