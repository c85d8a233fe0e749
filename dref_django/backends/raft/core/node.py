"""The face of the core: what a driver calls."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import NotLeader
from .leader import Leader
from .messages import Change, Entry, EntryKind, HardState, Members, Message, Snapshot
from .ready import Config, Dice, Ready, Role, Status
from .replica import Replica

MAX_COMMITTED = 4096
"""Entries to apply in one turn, at most: a restart with a long log does not hold up everything else."""


def bootstrap(members: Members) -> tuple[HardState, tuple[Entry, ...]]:
    """What every founding node has to have on disk before its first start: the log that founds the cluster.

    Raises ValueError for members without voters. A node that joins later starts with an empty disk instead.
    """
    if not members.voters:
        raise ValueError("a cluster needs at least one voter")
    return HardState(term=1, vote="", commit=1), (Entry(1, 1, EntryKind.MEMBERS, members.encode()),)


class Raft:
    """One node of a cluster. Not for several threads at a time. See the package for the protocol of use."""

    __slots__ = ("_applied", "_durable", "_inflight", "_replica", "_told")

    def __init__(
        self,
        config: Config,
        *,
        hard_state: HardState,
        snapshot: Snapshot | None,
        entries: Sequence[Entry],
        random: Dice,
    ) -> None:
        """Starts as a follower from what was on disk; the state machine starts from `snapshot`, or empty.

        Raises ValueError when these do not fit together.
        """
        self._replica = replica = Replica(config, hard_state, snapshot, entries, random)
        self._durable = HardState(replica.term, replica.vote, replica.log.commit)
        self._applied = replica.log.applied
        self._inflight: Ready | None = None
        self._told: tuple[Role, int, str | None] = (Role.FOLLOWER, replica.term, None)

    # Input

    def tick(self) -> None:
        """The driver's clock went on by one tick."""
        self._replica.role.tick()

    def step(self, message: Message) -> None:
        """A message arrived; one to another node is dropped."""
        if message.to == self._replica.node_id:
            self._replica.step(message)

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append a command. Returns (term, index): if an entry with just these is committed, it is this command; once
        another one is committed at `index`, this one never will be. Raises NotLeader."""
        return self.propose_many((data,))

    def propose_many(self, commands: Sequence[bytes]) -> tuple[int, int]:
        """Append commands in one go. Returns (term, index of the first). Raises NotLeader."""
        return self._replica.term, self._leader().propose(commands)

    def propose_members(self, change: Change) -> tuple[int, int]:
        """Append a change of members; in force at once, done when committed. Returns (term, index).

        Raises NotLeader, or ChangeRefused: one change at a time, none before this leader has committed an entry of
        its term, a promotion only when the learner has caught up, none that would leave no living majority.
        """
        return self._replica.term, self._leader().propose_members(change)

    @property
    def term(self) -> int:
        return self._replica.term

    def read(self, context: bytes, witness: tuple[str, int] = ("", 0)) -> None:
        """Ask for a linearizable read. The context, unique among this node's open reads, comes back in `Ready.reads`
        with the index to wait for, or in `Ready.failed_reads`, the latter at most an election time-out (or the end
        of leadership) later.

        `witness`: a node, and the term in which it was after the read had been asked of it. When that is this
        leader's, it saves the question whether that node still follows."""
        role, (node, term) = self._replica.role, witness
        if isinstance(role, Leader) and term == self._replica.term:
            role.read(context, node)
        else:
            role.read(context)

    def transfer(self, to: str | None = None) -> None:
        """Hand leadership to `to`, or to the most advanced voter. Meanwhile nothing can be proposed; after an election
        time-out without a new leader this one goes on. Raises NotLeader, TransferRefused."""
        self._leader().transfer(to)

    def report_unreachable(self, peer: str) -> None:
        """Messages to this peer were dropped: find out what it has before more is sent."""
        role = self._replica.role
        if isinstance(role, Leader):
            role.report_unreachable(peer)

    def compact(self, index: int, data: bytes, keep: int = 0) -> Snapshot | None:
        """`data` is the state machine after applying `index`; the log up to it is not needed any more, but `keep`
        entries stay for followers that are a little behind.

        Returns the snapshot, to be put on disk, or None when there is one as new already. Raises ValueError for an
        index that is not applied yet (or whose Ready has not been advanced).
        """
        replica = self._replica
        if index > self._applied:
            raise ValueError(f"{index} is not applied yet, only up to {self._applied}")
        if replica.snapshot is not None and index <= replica.snapshot.index:
            return None
        term = replica.log.term_at(index)
        if term is None or index == 0:
            return None
        replica.snapshot = Snapshot(index, term, replica.history.as_of(index), data)
        replica.log.compact(index - keep)
        replica.history.compact(index)
        return replica.snapshot

    def _leader(self) -> Leader:
        role = self._replica.role
        if not isinstance(role, Leader):
            raise NotLeader(role.leader)
        return role

    # Output

    def has_ready(self) -> bool:
        """There is work for the driver, and none of it under way."""
        if self._inflight is not None:
            return False
        replica, log = self._replica, self._replica.log
        return bool(
            replica.role.dirty
            or replica.outbox
            or replica.early
            or log.offered < log.last_index
            or log.applied < log.commit
            or replica.reads
            or replica.failed_reads
            or self._must_vote_sync()
            or replica.received is not None
            or log.truncated is not None
            or self._told != (replica.role.name, replica.term, replica.role.leader)
        )

    def _must_vote_sync(self) -> bool:
        return self._replica.term != self._durable.term or self._replica.vote != self._durable.vote

    def ready(self) -> Ready:
        """The work of a turn. Raises RuntimeError while an earlier one has not been advanced."""
        if self._inflight is not None:
            raise RuntimeError("the last Ready has not been advanced yet")
        replica, log = self._replica, self._replica.log
        if replica.role.dirty:
            replica.role.flush()
        hard_state = HardState(replica.term, replica.vote, log.commit)
        entries = log.between(log.offered, log.last_index)
        must_sync = bool(entries or self._must_vote_sync() or replica.received or log.truncated is not None)
        committed = log.between(log.applied, min(log.commit, log.applied + MAX_COMMITTED))
        early, late = tuple(replica.early), tuple(replica.outbox)
        if self._must_vote_sync():
            early, late = (), (*late, *early)  # a term that a crash could take back must not be heard of
        ready = Ready(
            hard_state if hard_state != self._durable else None,
            must_sync,
            log.truncated,
            entries,
            replica.received,
            early,
            late,
            committed,
            tuple(replica.reads),
            tuple(replica.failed_reads),
            replica.role.name,
            replica.term,
            replica.role.leader,
        )
        self._take(ready)
        return ready

    def _take(self, ready: Ready) -> None:
        """What was handed out is not handed out again."""
        replica, log = self._replica, self._replica.log
        replica.early.clear()
        replica.outbox.clear()
        replica.reads.clear()
        replica.failed_reads.clear()
        replica.received = None
        log.truncated = None
        log.offered = log.last_index
        if ready.committed:
            log.applied = ready.committed[-1].index
        self._told = (ready.role, ready.term, ready.leader)
        self._inflight = ready

    def advance(self, ready: Ready) -> None:
        """Everything in this Ready is done. Raises RuntimeError for another one than the last."""
        if ready is not self._inflight:
            raise RuntimeError("this is not the Ready under way")
        self._inflight = None
        replica, log = self._replica, self._replica.log
        if ready.hard_state is not None:
            self._durable = ready.hard_state
        if ready.snapshot is not None:
            self._applied = ready.snapshot.index
        if ready.committed:
            self._applied = ready.committed[-1].index
        written = ready.entries[-1].index if ready.entries else ready.snapshot.index if ready.snapshot else 0
        # What was truncated meanwhile is not there any more, though it was written.
        log.persisted = max(log.persisted, min(written, log.offered))
        if ready.entries and isinstance(replica.role, Leader):
            replica.role.on_persisted()

    def early_messages(self) -> tuple[Message, ...]:
        """Messages that need not wait for the disk, so that heartbeats and appends travel while it is busy. May be
        called at any time."""
        replica = self._replica
        if self._must_vote_sync():
            return ()
        if replica.role.dirty:
            replica.role.flush()
        early = tuple(replica.early)
        replica.early.clear()
        return early

    # How it stands

    def status(self) -> Status:
        replica, log, role = self._replica, self._replica.log, self._replica.role
        leader = role if isinstance(role, Leader) else None
        return Status(
            node_id=replica.node_id,
            role=role.name,
            term=replica.term,
            leader=role.leader,
            commit=log.commit,
            applied=self._applied,
            first_index=log.base + 1,
            last_index=log.last_index,
            snapshot_index=replica.snapshot.index if replica.snapshot else 0,
            members=replica.members,
            pending_change=replica.history.index > log.commit,
            transferring_to=leader.transfer_to if leader else None,
            peers=leader.peers() if leader else {},
        )
