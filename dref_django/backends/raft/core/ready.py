"""What the core hands to its driver: its settings, the work of a turn, how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from .messages import Entry, HardState, Members, Message, ReadState, Snapshot


class Dice(Protocol):
    """The part of `random.Random` that the core rolls."""

    def randrange(self, stop: int, /) -> int: ...

    def getrandbits(self, k: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one node. Times are in ticks of the driver's clock; all nodes should agree on them."""

    node_id: str
    election_ticks: int = 10
    """A follower that hears nothing for this long, and up to twice as long (drawn anew each time), asks for votes. A
    leader that hears from no quorum for this long steps down."""
    heartbeat_ticks: int = 1
    max_inflight: int = 256
    """Appends to one follower without an answer, at most."""
    max_inflight_bytes: int = 8 << 20
    """Their entries' bytes, at most; one append beyond is let through."""
    max_batch_bytes: int = 1 << 20
    """Entries of one append, at most; a single larger entry travels alone."""
    chunk_bytes: int = 256 << 10
    """One chunk of a snapshot."""
    chunk_window: int = 4
    """Chunks of a snapshot without an answer, at most."""

    def __post_init__(self) -> None:
        if not self.node_id:
            raise ValueError("node_id must not be empty")
        if not 1 <= self.heartbeat_ticks < self.election_ticks:
            raise ValueError("heartbeat_ticks must be at least 1 and less than election_ticks")
        if min(self.max_inflight, self.max_inflight_bytes, self.max_batch_bytes) < 1:
            raise ValueError("max_inflight, max_inflight_bytes and max_batch_bytes must be at least 1")
        if min(self.chunk_bytes, self.chunk_window) < 1:
            raise ValueError("chunk_bytes and chunk_window must be at least 1")


class Role(Enum):
    FOLLOWER = "follower"
    """Also a learner, and a node that is no member."""
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Ready(NamedTuple):
    """One turn of work, to be done in the order of the fields; then `Raft.advance(ready)`.

    When `must_sync`, first put `hard_state`, `truncate_from`, `snapshot` and `entries` on disk in one transaction and
    make sure that it is durable; `early_messages` may travel meanwhile; then send `messages`; then restore
    the state machine from `snapshot` and apply `committed`; then serve `reads`.
    """

    hard_state: HardState | None
    """To keep; None: unchanged."""
    must_sync: bool
    """False: there is nothing to write, or only a new `commit`, which may wait for the next write, or be lost."""
    truncate_from: int | None
    """Entries from this index on are void: delete them before writing `entries`."""
    entries: tuple[Entry, ...]
    """To be appended to the log on disk."""
    snapshot: Snapshot | None
    """Received from the leader: replaces the state machine, the log up to its index, and the snapshot on disk. (The
    whole log is void then; `truncate_from` deletes the part beyond it.)"""
    early_messages: tuple[Message, ...]
    """May be sent at once, in parallel to the disk."""
    messages: tuple[Message, ...]
    """To be sent only when what comes before is durable."""
    committed: tuple[Entry, ...]
    """To be applied in this order; each entry is handed out once in the life of this object."""
    reads: tuple[ReadState, ...]
    """Confirmed reads: serve each when its index is applied."""
    failed_reads: tuple[bytes, ...]
    """Contexts of reads that will not be confirmed (no leader, or a change of leader): ask again."""
    role: Role
    term: int
    leader: str | None


class PeerStatus(NamedTuple):
    """How a leader sees another member."""

    state: str
    """"probe", "replicate" or "snapshot"."""
    match: int
    """Known to be on that node's disk."""
    next: int
    inflight: int
    silent_ticks: int
    """Since anything was last heard of it."""
    caught_up: bool
    """Could be promoted."""


class Status(NamedTuple):
    node_id: str
    role: Role
    term: int
    leader: str | None
    commit: int
    applied: int
    first_index: int
    """The oldest entry still in the log (one beyond the snapshot, or older entries kept for slow followers)."""
    last_index: int
    snapshot_index: int
    members: Members
    pending_change: bool
    """A change of members is in the log and not yet committed."""
    transferring_to: str | None
    peers: Mapping[str, PeerStatus]
    """On a leader; elsewhere empty."""
