"""A node that asks for votes: first whether it would get them (pre-vote, section 9.6), then in earnest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .membership import quorum
from .messages import Append, Heartbeat, Message, PreVote, PreVoteReply, SnapshotChunk, Vote, VoteReply
from .ready import Role

if TYPE_CHECKING:
    from .replica import Replica


class Candidate:
    """Campaigns in the replica's term; with `pre` asks about the next one and changes nothing yet."""

    leader: str | None = None
    dirty = False

    def __init__(self, replica: Replica, *, pre: bool, forced: bool) -> None:
        self.name = Role.PRE_CANDIDATE if pre else Role.CANDIDATE
        self._replica = replica
        self._pre = pre
        self._forced = forced
        self._votes: dict[str, bool] = {}
        self._elapsed = 0
        self._timeout = replica.config.election_ticks + replica.random.randrange(replica.config.election_ticks)
        self.handlers: dict[type[Message], Callable[[Any], None]] = {
            PreVoteReply if pre else VoteReply: self._on_reply,
            Append: self._on_leader,
            Heartbeat: self._on_leader,
            SnapshotChunk: self._on_leader,
        }

    def start(self) -> None:
        replica = self._replica
        me, term, log = replica.node_id, replica.term, replica.log
        for peer in sorted(replica.members.voters - {me}):
            if self._pre:
                replica.early.append(PreVote(me, peer, term + 1, log.last_index, log.last_term))
            else:
                replica.outbox.append(Vote(me, peer, term, log.last_index, log.last_term, self._forced))
        self._count(me, True)

    def tick(self) -> None:
        self._elapsed += 1
        if self._elapsed >= self._timeout:
            self._replica.campaign(pre=True)

    def read(self, context: bytes) -> None:
        self._replica.failed_reads.append(context)

    def flush(self) -> None:
        pass

    def is_loyal(self) -> bool:
        return False

    def leave(self) -> None:
        pass

    def _on_reply(self, message: PreVoteReply | VoteReply) -> None:
        # A granted pre-vote is of the term asked about; an answer to an earlier question is of an earlier term.
        if not self._pre or not message.granted or message.term == self._replica.term + 1:
            self._count(message.sender, message.granted)

    def _count(self, voter: str, granted: bool) -> None:
        replica, voters = self._replica, self._replica.members.voters
        if voter in voters:
            self._votes.setdefault(voter, granted)
        needed = quorum(voters)
        if sum(self._votes.values()) >= needed:
            if self._pre:
                replica.campaign(pre=False)
            else:
                replica.lead()
        elif len(self._votes) - sum(self._votes.values()) > len(voters) - needed:
            replica.follow(replica.term, None)

    def _on_leader(self, message: Append | Heartbeat | SnapshotChunk) -> None:
        """Someone else was elected in this term (or, for a pre-candidate, still leads it)."""
        self._replica.follow(message.term, message.sender)
        self._replica.role.handlers[type(message)](message)
