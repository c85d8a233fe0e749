"""A node that takes the log from a leader; also a learner, and a node that belongs to no cluster yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadReply,
    ReadRequest,
    ReadState,
    Snapshot,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
)
from .ready import Role

if TYPE_CHECKING:
    from .replica import Replica

READ_NUMBER_BITS = 62


@dataclass(frozen=True, slots=True)
class _Forwarded:
    contexts: list[bytes]
    since: int


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A snapshot of which a part is here."""

    leader: str
    index: int
    total: int
    data: bytearray

    def continues(self, message: SnapshotChunk) -> bool:
        return (self.leader, self.index, self.total) == (message.sender, message.index, message.total)


class Follower:
    name = Role.FOLLOWER

    def __init__(self, replica: Replica, leader: str | None) -> None:
        self.leader = leader
        self.dirty = False
        self._replica = replica
        self._elapsed = 0
        self._timeout = replica.config.election_ticks + replica.random.randrange(replica.config.election_ticks)
        self._incoming: _Incoming | None = None
        self._now = 0
        self._asked: list[bytes] = []
        self._forwarded: dict[int, _Forwarded] = {}
        self.handlers: dict[type[Message], Callable[[Any], None]] = {
            Append: self._on_append,
            Heartbeat: self._on_heartbeat,
            SnapshotChunk: self._on_chunk,
            TimeoutNow: self._on_timeout_now,
            ReadReply: self._on_read_reply,
        }

    def tick(self) -> None:
        self._now += 1
        self._elapsed += 1
        self._give_up_reads()
        replica = self._replica
        if replica.members.voters == {replica.node_id}:
            replica.campaign(pre=True)  # there is no one to wait for
        elif self._elapsed >= self._timeout:
            if replica.is_electable():
                replica.campaign(pre=True)
            else:
                self._lose_leader()

    def _lose_leader(self) -> None:
        self._elapsed = 0
        self.leader = None
        self._fail_reads()

    def is_loyal(self) -> bool:
        return self.leader is not None and self._elapsed < self._replica.config.election_ticks

    def leave(self) -> None:
        self._fail_reads()

    def _hear(self, leader: str) -> None:
        self.leader = leader
        self._elapsed = 0

    # The log

    def _on_append(self, message: Append) -> None:
        self._hear(message.sender)
        replica, log = self._replica, self._replica.log
        if message.prev_index < log.commit:
            # Delayed, or sent by a leader that does not know yet how much is here. What is committed matches.
            self._acknowledge(message, log.commit)
        elif log.term_at(message.prev_index) == message.prev_term:
            last = message.prev_index + len(message.entries)
            self._merge(message)
            replica.commit_to(min(message.commit, last))  # beyond `last` nothing is known to match
            self._acknowledge(message, last)
        else:
            index, term = log.last_agreement(message.prev_index, message.prev_term)
            replica.outbox.append(
                AppendReply(replica.node_id, message.sender, replica.term, False, message.prev_index, index, term)
            )

    def _merge(self, message: Append) -> None:
        """Append what is new. Truncate only where an entry conflicts: what follows a match may have been acknowledged,
        and a delayed or repeated message must not take it away."""
        replica, log = self._replica, self._replica.log
        entries = message.entries
        if message.prev_index == log.last_index:
            replica.append(entries)
            return
        for at, entry in enumerate(entries):
            term = log.term_at(entry.index)
            if term != entry.term:
                if term is not None:
                    replica.truncate(entry.index)
                replica.append(entries[at:])
                return

    def _acknowledge(self, message: Append | SnapshotChunk, index: int) -> None:
        """Sent after everything up to now is on disk, as all of the outbox."""
        replica = self._replica
        replica.outbox.append(AppendReply(replica.node_id, message.sender, replica.term, True, index, 0, 0))

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._hear(message.sender)
        replica = self._replica
        replica.commit_to(message.commit)
        if message.round:
            replica.early.append(HeartbeatReply(replica.node_id, message.sender, replica.term, message.round))

    # Snapshots

    def _on_chunk(self, message: SnapshotChunk) -> None:
        self._hear(message.sender)
        replica, log = self._replica, self._replica.log
        if message.index <= log.commit:
            self._acknowledge(message, log.commit)
        elif log.term_at(message.index) == message.snapshot_term:
            # The log has all that the snapshot covers; what follows it in the log stays.
            replica.commit_to(message.index)
            self._acknowledge(message, message.index)
        else:
            self._collect(message)

    def _collect(self, message: SnapshotChunk) -> None:
        """Bytes of a snapshot prove nothing about the log until all of them are here."""
        replica, incoming = self._replica, self._incoming
        if incoming is None or not incoming.continues(message):
            if incoming is not None and incoming.index > message.index:
                return  # delayed: the leader has sent a later one meanwhile
            incoming = self._incoming = _Incoming(message.sender, message.index, message.total, bytearray())
        if message.offset == len(incoming.data):
            incoming.data.extend(message.data)
        if len(incoming.data) == message.total:
            self._incoming = None
            data = bytes(incoming.data)
            replica.install(Snapshot(message.index, message.snapshot_term, message.members, data))
            self._acknowledge(message, message.index)
        else:
            size = len(incoming.data)
            replica.early.append(SnapshotReply(replica.node_id, message.sender, replica.term, message.index, size))

    # Leadership transfer

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        if self._replica.is_electable():
            self._replica.campaign(pre=False, forced=True)

    # Reads

    def read(self, context: bytes) -> None:
        if self.leader is None:
            self._replica.failed_reads.append(context)
        else:
            self._asked.append(context)
            self.dirty = True

    def flush(self) -> None:
        self.dirty = False
        if self._asked and self.leader is not None:
            # Random, so that an answer to a read from before a restart answers none from after it.
            number = self._replica.random.getrandbits(READ_NUMBER_BITS)
            self._forwarded[number] = _Forwarded(self._asked, self._now)
            self._asked = []
            self._replica.early.append(ReadRequest(self._replica.node_id, self.leader, self._replica.term, number))

    def _on_read_reply(self, message: ReadReply) -> None:
        forwarded = self._forwarded.pop(message.number, None)
        if forwarded is None:
            return
        if message.index:
            self._replica.reads.extend(ReadState(context, message.index) for context in forwarded.contexts)
        else:
            self._replica.failed_reads.extend(forwarded.contexts)

    def _give_up_reads(self) -> None:
        """The request or its answer was lost; the driver knows better than the core whether to ask again."""
        oldest = self._now - self._replica.config.election_ticks
        for number in [number for number, forwarded in self._forwarded.items() if forwarded.since <= oldest]:
            self._replica.failed_reads.extend(self._forwarded.pop(number).contexts)

    def _fail_reads(self) -> None:
        for contexts in (self._asked, *(forwarded.contexts for forwarded in self._forwarded.values())):
            self._replica.failed_reads.extend(contexts)
        self._asked = []
        self._forwarded.clear()
