"""The vocabulary of the core: what is in the log, what is kept on disk, what nodes say to each other.

Everything here is a frozen value. Node ids are non-empty
strings. Indexes and terms count from 1; 0 is "before the first".

Every message begins with `sender`, `to` and `term`. The term is the sender's, with one exception: a PreVote and the
PreVoteReply that grants it carry the term that the sender *would* campaign in, and move no one's term.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import msgpack

NODE_ID_BYTES = 255
"""The longest node id, in UTF-8."""


class EntryKind(IntEnum):
    NOOP = 0
    """The first entry of a leader's term; means nothing to the state machine but "a new leader"."""
    COMMAND = 1
    """Bytes of the state machine's."""
    MEMBERS = 2
    """The encoded Members that are in force from this entry on, committed or not."""


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    term: int
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What a node must never forget. `term` and `vote` are durable before any message that depends on them; `commit`
    is a hint that saves work after a restart, and may lag."""

    term: int = 0
    vote: str = ""
    """Whom this node voted for in `term`; empty: no one yet."""
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Members:
    """Who belongs to the cluster: voters elect and count for commits, learners only receive the log."""

    voters: frozenset[str] = frozenset()
    learners: frozenset[str] = frozenset()

    def __contains__(self, node: object) -> bool:
        return node in self.voters or node in self.learners

    def encode(self) -> bytes:
        """The same bytes for the same members, on every node."""
        encoded: bytes = msgpack.packb([sorted(self.voters), sorted(self.learners)])
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Members:
        """Raises ValueError for what is no encoding of members."""
        try:
            voters, learners = msgpack.unpackb(data)
            members = cls(_ids(voters), _ids(learners))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"no encoding of members: {error}") from error
        if members.voters & members.learners:
            raise ValueError("no encoding of members: a node cannot be voter and learner")
        return members


def _ids(names: object) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("node ids are non-empty strings")
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state machine after applying everything up to and including `index`, with the members of that moment."""

    index: int
    term: int
    members: Members
    data: bytes


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in `term`? Asked before campaigning, so that a cut-off node disturbs no one."""

    sender: str
    to: str
    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """Granted: `term` is the one asked about. Refused: the sender's own."""

    sender: str
    to: str
    term: int
    granted: bool


@dataclass(frozen=True, slots=True)
class Vote:
    """Vote for me in `term`. `forced` when the leader asked for this campaign: it overrides loyalty to that leader."""

    sender: str
    to: str
    term: int
    last_index: int
    last_term: int
    forced: bool


@dataclass(frozen=True, slots=True)
class VoteReply:
    sender: str
    to: str
    term: int
    granted: bool


@dataclass(frozen=True, slots=True)
class Append:
    """The entries after (prev_index, prev_term), and how far this leader knows the log to be committed."""

    sender: str
    to: str
    term: int
    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class AppendReply:
    """`success`: everything up to `index` is on disk here and matches the leader of `term`.

    Otherwise `index` is the refused prev_index, and (hint_index, hint_term) the last place of this log at which the
    two might still agree (hint_term 0: unknown).
    """

    sender: str
    to: str
    term: int
    success: bool
    index: int
    hint_index: int
    hint_term: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The leader is alive. `commit` never goes beyond what `to` has acknowledged to this leader.

    `round` counts up in a term; an answer repeats it, and proves that the sender was still loyal after the round
    began. Round 0 only spreads the commit index and is not answered.
    """

    sender: str
    to: str
    term: int
    commit: int
    round: int


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    sender: str
    to: str
    term: int
    round: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """The bytes from `offset` on of the snapshot at (index, snapshot_term) whose data is `total` bytes long."""

    sender: str
    to: str
    term: int
    index: int
    snapshot_term: int
    members: Members
    total: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """Of the snapshot at `index` the first `offset` bytes are here. Once it is installed, an AppendReply says so."""

    sender: str
    to: str
    term: int
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The leader hands over: campaign at once."""

    sender: str
    to: str
    term: int


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A follower's reads, asked of the leader under one `number`, which this follower never uses again."""

    sender: str
    to: str
    term: int
    number: int


@dataclass(frozen=True, slots=True)
class ReadReply:
    """The reads under `number` may be served once `index` is applied. Index 0: the leader cannot say."""

    sender: str
    to: str
    term: int
    number: int
    index: int


Message: TypeAlias = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | SnapshotChunk
    | SnapshotReply
    | TimeoutNow
    | ReadRequest
    | ReadReply
)
MESSAGES: tuple[type[Message], ...] = (
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    ReadRequest,
    ReadReply,
)
"""Every kind of message. The order is part of the wire format: only ever add at the end."""


@dataclass(frozen=True, slots=True)
class AddLearner:
    """`node` receives the log from now on and has no vote yet."""

    node: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The learner `node` becomes a voter; refused until it has caught up."""

    node: str


@dataclass(frozen=True, slots=True)
class Remove:
    """`node` is no longer a member, whatever it was."""

    node: str


Change: TypeAlias = AddLearner | Promote | Remove


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read with this context may be served from any state that has applied `index`."""

    context: bytes
    index: int
