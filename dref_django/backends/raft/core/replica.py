"""What a node is whatever its role: term, vote, log, members; the messages that any role answers; changes of role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .candidate import Candidate
from .follower import Follower
from .leader import Leader
from .log import Log
from .membership import History
from .messages import (
    Append,
    AppendReply,
    Entry,
    HardState,
    Heartbeat,
    Members,
    Message,
    PreVote,
    PreVoteReply,
    ReadState,
    Snapshot,
    SnapshotChunk,
    Vote,
    VoteReply,
)
from .ready import Config, Dice, Role

FROM_LEADER = (Append, Heartbeat, SnapshotChunk)


class RoleState(Protocol):
    """What every role can do. A role lives from one change of role to the next and keeps what only it needs."""

    name: Role
    leader: str | None
    """Whom this node takes for the leader of its term."""
    handlers: dict[type[Message], Callable[[Any], None]]
    """The messages of the current term that mean something to this role; the others are dropped."""
    dirty: bool
    """`flush` may have something to say."""

    def tick(self) -> None: ...

    def read(self, context: bytes) -> None: ...

    def flush(self) -> None:
        """Turn what was asked for since the last flush into messages."""

    def is_loyal(self) -> bool:
        """There is a leader whom this node heard from lately: whoever wants to replace it is not helped."""

    def leave(self) -> None:
        """The role ends: let go of what waits for it."""


class Replica:
    __slots__ = (
        "config",
        "early",
        "failed_reads",
        "history",
        "log",
        "node_id",
        "outbox",
        "random",
        "reads",
        "received",
        "role",
        "snapshot",
        "term",
        "vote",
    )

    def __init__(
        self, config: Config, hard_state: HardState, snapshot: Snapshot | None, entries: Sequence[Entry], random: Dice
    ) -> None:
        self.config = config
        self.node_id = config.node_id
        self.random = random
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.log = Log(snapshot, entries, hard_state.commit)
        self.history = History(snapshot, self.log)
        self.snapshot = snapshot
        """The latest one, for followers whose entries are gone."""
        self.received: Snapshot | None = None
        """Installed, and not yet handed out."""
        self.outbox: list[Message] = []
        """To be sent once everything up to now is on disk."""
        self.early: list[Message] = []
        """To be sent at once."""
        self.reads: list[ReadState] = []
        self.failed_reads: list[bytes] = []
        self.role: RoleState = Follower(self, None)

    @property
    def members(self) -> Members:
        return self.history.current

    def is_electable(self) -> bool:
        """A voter; or one that a change not yet committed removes, since the others may not have that change and
        then cannot elect anyone else (section 4.2.2 of the dissertation)."""
        if self.node_id in self.members.voters:
            return True
        return self.history.index > self.log.commit and self.node_id in self.history.as_of(self.log.commit).voters

    # Messages

    def step(self, message: Message) -> None:
        if message.term != self.term and not self._is_of_this_term(message):
            return
        handler = self.role.handlers.get(type(message))
        if handler is not None:
            handler(message)
        elif isinstance(message, PreVote):
            self._on_pre_vote(message)
        elif isinstance(message, Vote):
            self._on_vote(message)

    def _is_of_this_term(self, message: Message) -> bool:
        """After moving to the message's term, if there is reason to. An old term's message is refused or dropped."""
        if message.term < self.term:
            self._refuse_outdated(message)
            return False
        if isinstance(message, PreVote) or (isinstance(message, PreVoteReply) and message.granted):
            return True
        if isinstance(message, Vote) and not message.forced and self.role.is_loyal():
            return False
        self.follow(message.term, message.sender if isinstance(message, FROM_LEADER) else None)
        return True

    def _refuse_outdated(self, message: Message) -> None:
        """Tell its sender the term, so that it stops leading, or catches up and can be elected; drop the rest."""
        to, term = message.sender, self.term
        if isinstance(message, FROM_LEADER):
            self.outbox.append(AppendReply(self.node_id, to, term, False, 0, 0, 0))
        elif isinstance(message, Vote):
            self.outbox.append(VoteReply(self.node_id, to, term, False))
        elif isinstance(message, PreVote):
            self.outbox.append(PreVoteReply(self.node_id, to, term, False))

    def _on_pre_vote(self, message: PreVote) -> None:
        granted = (
            message.term > self.term
            and not self.role.is_loyal()
            and self.log.is_up_to_date(message.last_index, message.last_term)
        )
        term = message.term if granted else self.term
        self.outbox.append(PreVoteReply(self.node_id, message.sender, term, granted))

    def _on_vote(self, message: Vote) -> None:
        granted = self.may_vote(message.sender) and self.log.is_up_to_date(message.last_index, message.last_term)
        if granted and not self.vote:
            self.vote = message.sender
            self.follow(self.term, None)  # starts its time-out anew
        self.outbox.append(VoteReply(self.node_id, message.sender, self.term, granted))

    def may_vote(self, candidate: str) -> bool:
        """One vote a term, repeated when asked again."""
        return self.vote == candidate or (not self.vote and self.role.leader is None)

    # Changes of role

    def enter_term(self, term: int) -> None:
        if term > self.term:
            self.term, self.vote = term, ""

    def follow(self, term: int, leader: str | None) -> None:
        self.role.leave()
        self.enter_term(term)
        self.role = Follower(self, leader)

    def campaign(self, *, pre: bool, forced: bool = False) -> None:
        self.role.leave()
        if not pre:
            self.enter_term(self.term + 1)
            self.vote = self.node_id
        candidate = Candidate(self, pre=pre, forced=forced)
        self.role = candidate
        candidate.start()

    def lead(self) -> None:
        self.role.leave()
        leader = Leader(self)
        self.role = leader
        leader.start()

    # The log

    def append(self, entries: Sequence[Entry]) -> None:
        self.log.append(entries)
        self.history.append(entries)

    def truncate(self, index: int) -> None:
        self.log.truncate(index)
        self.history.truncate(index)

    def commit_to(self, index: int) -> None:
        if index > self.log.commit:
            self.log.commit = min(index, self.log.last_index)

    def install(self, snapshot: Snapshot) -> None:
        self.log.restore(snapshot)
        self.history.restore(snapshot)
        self.snapshot = self.received = snapshot
