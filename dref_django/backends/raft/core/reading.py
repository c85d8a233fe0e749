"""Reads without a log entry (ReadIndex, section 6.4): the commit index of a leader that proves to be one still."""

from __future__ import annotations

from collections import deque
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

    def ask(self, peer: str | None, context: bytes | int) -> None:
        if isinstance(context, bytes):
            self._asked.append(_Reader(peer, context, 0))
        else:
            self._asked.append(_Reader(peer, b"", context))

    def are_asked(self) -> bool:
        return bool(self._asked)

    def are_open(self) -> bool:
        return bool(self._rounds)

    def begin_round(self) -> int:
        """To be called only after an entry of this term is committed: only then is everything that earlier leaders
        committed known to be."""
        self.round += 1
        self._rounds.append(_Round(self.round, self._replica.log.commit, self._asked))
        self._asked = []
        return self.round

    def confirm(self, number: int) -> None:
        """A quorum answered this round of heartbeats or a later one."""
        replica = self._replica
        while self._rounds and self._rounds[0].number <= number:
            confirmed = self._rounds.popleft()
            for reader in confirmed.readers:
                if reader.peer is None:
                    replica.reads.append(ReadState(reader.context, confirmed.index))
                else:
                    replica.early.append(
                        ReadReply(replica.node_id, reader.peer, replica.term, reader.number, confirmed.index)
                    )

    def fail(self) -> None:
        """No longer the leader. Followers see that for themselves."""
        for readers in (self._asked, *(each.readers for each in self._rounds)):
            self._replica.failed_reads.extend(reader.context for reader in readers if reader.peer is None)
        self._asked = []
        self._rounds.clear()
