"""The leader: replicates its log, commits what a quorum has on disk, confirms reads, changes members, hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import ChangeRefused, NotLeader, TransferRefused
from .membership import changed, quorum, reached_by_quorum
from .messages import (
    AppendReply,
    Change,
    Entry,
    EntryKind,
    HeartbeatReply,
    Message,
    Promote,
    ReadRequest,
    SnapshotReply,
    TimeoutNow,
)
from .progress import Progress, State
from .reading import Reads
from .ready import PeerStatus, Role
from .sending import Sender

if TYPE_CHECKING:
    from .replica import Replica

REMOVED_TIMEOUTS = 4
"""A removed node is still sent the log for this many election time-outs, so that it learns of its removal."""


class Leader:
    name = Role.LEADER

    def __init__(self, replica: Replica) -> None:
        self.leader: str | None = replica.node_id
        self.dirty = True
        self.now = 0
        self.progress: dict[str, Progress] = {}
        self.transfer_to: str | None = None
        self._replica = replica
        self._transfer_until = 0
        self._term_start = 0
        self._commit_at_heartbeat = 0
        self._sender = Sender(replica, self)
        self._reads = Reads(replica)
        self.handlers: dict[type[Message], Callable[[Any], None]] = {
            AppendReply: self._on_append_reply,
            HeartbeatReply: self._on_heartbeat_reply,
            SnapshotReply: self._on_snapshot_reply,
            ReadRequest: self._on_read_request,
        }

    def start(self) -> None:
        """The first entry of the term tells what is committed: nothing of an earlier term is, until it is."""
        self._term_start = self._replica.log.last_index + 1
        self._follow_members()
        self._append([(EntryKind.NOOP, b"")])

    def _append(self, items: Sequence[tuple[EntryKind, bytes]]) -> int:
        """Returns the index of the first."""
        replica = self._replica
        first = replica.log.last_index + 1
        replica.append([Entry(index, replica.term, kind, data) for index, (kind, data) in enumerate(items, first)])
        self.dirty = True
        return first

    def _follow_members(self) -> None:
        """Replicate to the members in force."""
        members, me = self._replica.members, self._replica.node_id
        for peer in sorted((members.voters | members.learners) - {me}):
            progress = self.progress.setdefault(peer, Progress(self._replica.log.last_index + 1, self.now))
            progress.leaving_at = None
        for peer, progress in self.progress.items():
            if peer not in members and progress.leaving_at is None:
                progress.leaving_at = self.now + REMOVED_TIMEOUTS * self._replica.config.election_ticks

    # Asked by the driver

    def propose(self, commands: Sequence[bytes]) -> int:
        self._check_not_handing_over()
        return self._append([(EntryKind.COMMAND, data) for data in commands])

    def propose_members(self, change: Change) -> int:
        self._check_not_handing_over()
        replica = self._replica
        if replica.history.index > replica.log.commit:
            raise ChangeRefused("another change of members is not committed yet")
        if replica.log.commit < self._term_start:
            # Else a change that an earlier leader left behind could meet this one without an overlap of quorums.
            raise ChangeRefused("this leader has not committed an entry of its term yet")
        members = changed(replica.members, change)
        if isinstance(change, Promote) and not self._has_caught_up(self.progress[change.node]):
            raise ChangeRefused(f"{change.node} has not caught up yet")
        if sum(map(self._is_alive, members.voters)) < quorum(members.voters):
            raise ChangeRefused("no majority of the voters would be alive")
        index = self._append([(EntryKind.MEMBERS, members.encode())])
        self._follow_members()
        self._count_commit()  # of fewer voters a smaller quorum may have what came before
        return index

    def read(self, context: bytes, witness: str = "") -> None:
        self._reads.ask(context, witness)
        self.dirty = True

    def transfer(self, to: str | None) -> None:
        if to == self._replica.node_id:
            raise TransferRefused(f"{to} leads already")
        voters = [peer for peer in self._replica.members.voters if peer != self.leader and self._is_alive(peer)]
        if to is None:
            if not voters:
                raise TransferRefused("no other voter is alive")
            to = max(sorted(voters), key=lambda peer: self.progress[peer].match)
        elif to not in voters:
            raise TransferRefused(f"{to} is no voter, or not alive")
        self.transfer_to = to
        self._transfer_until = self.now + self._replica.config.election_ticks
        self._hand_over()

    def _check_not_handing_over(self) -> None:
        if self.transfer_to is not None:
            raise NotLeader(None)

    def _hand_over(self) -> None:
        """Once the chosen node has everything, it may campaign at once."""
        replica, to = self._replica, self.transfer_to
        if to is not None and self.progress[to].match == replica.log.last_index:
            replica.early.append(TimeoutNow(replica.node_id, to, replica.term))

    # Time

    def tick(self) -> None:
        self.now += 1
        config = self._replica.config
        if not self._has_quorum():
            self._replica.follow(self._replica.term, None)
            return
        if self.transfer_to is not None and self.now >= self._transfer_until:
            self.transfer_to = None
        for peer in [p for p, progress in self.progress.items() if progress.leaving_at == self.now]:
            del self.progress[peer]
        if self.now % config.heartbeat_ticks == 0:
            self._commit_at_heartbeat = self._replica.log.commit
            self._sender.heartbeats(self.progress, self._reads.round)
            self._hand_over()

    def _has_quorum(self) -> bool:
        """A leader that is cut off must know it: its clients ask elsewhere then."""
        voters = self._replica.members.voters
        return sum(map(self._is_alive, voters)) >= quorum(voters)

    def _is_alive(self, node: str) -> bool:
        if node == self._replica.node_id:
            return True
        progress = self.progress.get(node)
        return progress is not None and self.now - progress.heard < self._replica.config.election_ticks

    def _has_caught_up(self, progress: Progress) -> bool:
        """It has what was committed a heartbeat ago: to the last entry it could never catch up under load."""
        return progress.state is State.REPLICATE and progress.match >= self._commit_at_heartbeat

    def is_loyal(self) -> bool:
        return True

    def leave(self) -> None:
        self._reads.fail()

    # Answers

    def _hear(self, peer: str) -> Progress | None:
        progress = self.progress.get(peer)
        if progress is not None:
            progress.heard = self.now
        return progress

    def _on_append_reply(self, message: AppendReply) -> None:
        progress = self._hear(message.sender)
        if progress is None or message.index > self._replica.log.last_index:
            return
        self.dirty = True
        if not message.success:
            self._sender.back_track(progress, message)
            return
        before = progress.match
        progress.acknowledge(message.index)
        if progress.state is not State.REPLICATE and self._agrees(progress, message.index):
            progress.replicate()
        if progress.match > before:
            if progress.match > self._replica.log.commit:
                self._count_commit()
            if self.transfer_to == message.sender:
                self._hand_over()

    def _agrees(self, progress: Progress, index: int) -> bool:
        """Whether an acknowledged `index` ends the search for where the logs agree; an old answer does not."""
        if progress.snapshot is None:
            return index == progress.match
        return progress.match >= min(progress.snapshot.index, self._replica.log.base)

    def _on_heartbeat_reply(self, message: HeartbeatReply) -> None:
        progress = self._hear(message.sender)
        if progress is None:
            return
        progress.round = max(progress.round, message.round)
        self._confirm_reads()
        self._sender.after_heartbeat(message.sender, progress)
        self.dirty = True

    def _on_snapshot_reply(self, message: SnapshotReply) -> None:
        progress = self._hear(message.sender)
        if progress is not None:
            self._sender.chunk_acknowledged(progress, message, self.now)
            self.dirty = True

    # Commit

    def on_persisted(self) -> None:
        """More of this node's own log is on disk."""
        if self._replica.log.persisted > self._replica.log.commit:
            self._count_commit()

    def _count_commit(self) -> None:
        replica, log = self._replica, self._replica.log
        voters = replica.members.voters
        index = reached_by_quorum((self._match(voter) for voter in voters), voters)
        if index > log.commit and self._may_commit(index):
            replica.commit_to(index)
            self.dirty = True
            if replica.node_id not in voters and replica.history.index <= index:
                self._resign()

    def _may_commit(self, index: int) -> bool:
        """An earlier term's entry may be on a quorum's disks and still be replaced (figure 8 of the Raft paper)."""
        return self._replica.log.term_at(index) == self._replica.term

    def _match(self, voter: str) -> int:
        return self._replica.log.persisted if voter == self._replica.node_id else self.progress[voter].match

    def _resign(self) -> None:
        """This node is removed, and everyone may know: spread the commit, and name a successor."""
        replica = self._replica
        self.flush()
        successor = max(sorted(replica.members.voters), key=self._match)
        replica.early.append(TimeoutNow(replica.node_id, successor, replica.term))
        replica.follow(replica.term, None)

    # Reads

    def _on_read_request(self, message: ReadRequest) -> None:
        self._reads.ask_for(message.sender, message.number)
        self.dirty = True

    def _is_quorum_with(self, peer: str) -> bool:
        voters = self._replica.members.voters
        return len({self._replica.node_id, peer} & voters) >= quorum(voters)

    def _confirm_reads(self) -> None:
        replica = self._replica
        voters = replica.members.voters
        if self._reads.are_open():
            self._reads.confirm(reached_by_quorum((self._round(voter) for voter in voters), voters))

    def _round(self, voter: str) -> int:
        return self._reads.round if voter == self._replica.node_id else self.progress[voter].round

    # Messages

    def flush(self) -> None:
        self.dirty = False
        if self._reads.are_asked() and self._replica.log.commit >= self._term_start:
            self._reads.confirm_witnessed(self._is_quorum_with)
            if self._reads.are_asked():
                self._sender.heartbeats(self.progress, self._reads.begin_round())
                self._confirm_reads()  # alone, this node is the quorum
        for peer, progress in self.progress.items():
            self._sender.replicate(peer, progress, self.now)

    def report_unreachable(self, peer: str) -> None:
        progress = self.progress.get(peer)
        if progress is not None and progress.state is State.REPLICATE:
            progress.probe(progress.match + 1)
            self.dirty = True

    def peers(self) -> dict[str, PeerStatus]:
        return {peer: self._peer_status(progress) for peer, progress in self.progress.items()}

    def _peer_status(self, progress: Progress) -> PeerStatus:
        return PeerStatus(
            progress.state.value,
            progress.match,
            progress.next,
            progress.inflight,
            self.now - progress.heard,
            self._has_caught_up(progress),
        )
