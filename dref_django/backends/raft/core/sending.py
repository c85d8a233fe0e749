"""What a leader sends to a follower next, given how far that follower is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .messages import Append, AppendReply, Entry, Heartbeat, SnapshotChunk, SnapshotReply
from .progress import Progress, State

if TYPE_CHECKING:
    from .leader import Leader
    from .replica import Replica


class Sender:
    __slots__ = ("_config", "_leader", "_log", "_replica")

    def __init__(self, replica: Replica, leader: Leader) -> None:
        self._replica = replica
        self._leader = leader
        self._log = replica.log
        self._config = replica.config

    def heartbeats(self, progress: Mapping[str, Progress], number: int) -> None:
        for peer, each in progress.items():
            self._heartbeat(peer, each, number)

    def _heartbeat(self, peer: str, progress: Progress, number: int) -> None:
        replica = self._replica
        # Beyond its match the follower's log may hold entries of other leaders.
        progress.told = min(progress.match, self._log.commit)
        replica.early.append(Heartbeat(replica.node_id, peer, replica.term, progress.told, number))

    def replicate(self, peer: str, progress: Progress, now: int) -> None:
        """Whatever may be sent now; else at least the commit index, if that is new."""
        if progress.state is State.PROBE:
            self._probe(peer, progress, now)
        if progress.state is State.REPLICATE:
            self._stream(peer, progress, now)
        if progress.state is State.SNAPSHOT:
            self._chunks(peer, progress, now)
        elif progress.told < min(progress.match, self._log.commit):
            self._heartbeat(peer, progress, 0)

    def _probe(self, peer: str, progress: Progress, now: int) -> None:
        if progress.probing:
            return
        if progress.next <= self._log.base:
            self._begin_snapshot(progress, now)
            return
        progress.probing = True
        self._append(peer, progress, self._log.slice(progress.next, self._config.max_batch_bytes))

    def _stream(self, peer: str, progress: Progress, now: int) -> None:
        config, log = self._config, self._log
        if progress.next <= log.base:
            self._begin_snapshot(progress, now)
            return
        while progress.next <= log.last_index and progress.has_room(config.max_inflight, config.max_inflight_bytes):
            entries = log.slice(progress.next, config.max_batch_bytes)
            self._append(peer, progress, entries)
            progress.sent(entries)

    def _append(self, peer: str, progress: Progress, entries: tuple[Entry, ...]) -> None:
        replica, log = self._replica, self._log
        previous = progress.next - 1
        progress.told = log.commit
        replica.early.append(
            Append(replica.node_id, peer, replica.term, previous, log.term_at(previous) or 0, log.commit, entries)
        )

    def after_heartbeat(self, peer: str, progress: Progress) -> None:
        """It lives: ask again what may have been lost."""
        progress.probing = False
        if progress.state is State.REPLICATE and progress.inflight and progress.last_match == progress.match:
            self._append(peer, progress, ())  # refused if anything before it is missing
        progress.last_match = progress.match

    def back_track(self, progress: Progress, message: AppendReply) -> None:
        """The follower refused: its log has no entry at `message.index` with that term. Its hint is the last place at
        which it could agree with a log that has; this log in turn may skip what the hint rules out (section 5.3 of
        the Raft paper, in both directions), so that each round trip skips at least one whole term."""
        if message.index <= progress.match or progress.state is State.SNAPSHOT:
            return  # an old answer
        if progress.state is State.PROBE and message.index != progress.next - 1:
            return
        index = message.hint_index
        if message.hint_term:
            index, _ = self._log.last_agreement(index, message.hint_term)
        progress.probe(min(message.index, index + 1))

    # Snapshots

    def _begin_snapshot(self, progress: Progress, now: int) -> None:
        snapshot = self._replica.snapshot
        if snapshot is None:
            raise AssertionError("the log is compacted, and there is no snapshot")
        progress.send_snapshot(snapshot, now)

    def _chunks(self, peer: str, progress: Progress, now: int) -> None:
        replica, config, snapshot = self._replica, self._config, progress.snapshot
        if snapshot is None:
            return
        if now - progress.stalled_since >= config.election_ticks and now - progress.heard < config.election_ticks:
            progress.sent_bytes = progress.acked_bytes  # something was lost on the way
            progress.chunks_complete = False
            progress.stalled_since = now
        while not progress.chunks_complete:
            offset = progress.sent_bytes
            if offset - progress.acked_bytes >= config.chunk_window * config.chunk_bytes:
                return
            data = snapshot.data[offset : offset + config.chunk_bytes]
            replica.early.append(
                SnapshotChunk(
                    replica.node_id,
                    peer,
                    replica.term,
                    snapshot.index,
                    snapshot.term,
                    snapshot.members,
                    len(snapshot.data),
                    offset,
                    data,
                )
            )
            progress.sent_bytes += len(data)
            progress.chunks_complete = progress.sent_bytes == len(snapshot.data)

    def chunk_acknowledged(self, progress: Progress, message: SnapshotReply, now: int) -> None:
        if progress.snapshot is None or progress.snapshot.index != message.index:
            return
        if message.offset != progress.acked_bytes:
            progress.stalled_since = now
        # Less than before: the follower was restarted, or this answer is late; either way it will be sent again.
        progress.acked_bytes = message.offset
        progress.sent_bytes = max(progress.sent_bytes, message.offset)
