"""Consensus: what a Raft node decides, and nothing else. No I/O, no clock, no randomness of its own.

The interface, which a driver (one thread) uses so:

    hard_state, entries = bootstrap(Members(frozenset({"a", "b", "c"})))
        once in a cluster's life, the same on every founding node, saved before its first start; who joins starts empty

    raft = Raft(Config("a"), hard_state=..., snapshot=..., entries=..., random=Random())
        from what the disk has: HardState(), None and () at first

    raft.tick()                     time went on by one tick
    raft.step(message)              a peer said something
    raft.propose(data)              -> (term, index); NotLeader. If the entry committed at `index` has just this
                                    term, it is this one; if another, this one never will be committed
    raft.propose_many([data, ...])  -> (term, index of the first)
    raft.propose_members(change)    AddLearner(id), Promote(id), Remove(id) -> (term, index); NotLeader, ChangeRefused
    raft.read(context)              answered in Ready.reads or Ready.failed_reads; forwarded on a follower
    raft.transfer(to)               hand leadership over; None: to the most advanced voter; NotLeader, TransferRefused
    raft.compact(index, data, keep) -> Snapshot | None: the state machine as of `index` (applied); the log up to it
                                    goes, but for `keep` entries; the driver puts the snapshot on disk
    raft.report_unreachable(peer)   messages to it were dropped
    raft.status()                   -> Status

    while raft.has_ready():
        ready = raft.ready()        one at a time; step, tick, propose and read may be called before its advance()
        ...                         as `Ready` says: persist, send, restore, apply, serve reads
        raft.advance(ready)
    raft.early_messages()           any time, also between ready() and advance(): what need not wait for the disk
"""

from .errors import ChangeRefused, NotLeader, RaftError, TransferRefused
from .messages import (
    MESSAGES,
    NODE_ID_BYTES,
    AddLearner,
    Append,
    AppendReply,
    Change,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Members,
    Message,
    PreVote,
    PreVoteReply,
    Promote,
    ReadReply,
    ReadRequest,
    ReadState,
    Remove,
    Snapshot,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from .node import Raft, bootstrap, recover
from .ready import Config, Dice, PeerStatus, Ready, Role, Status

__all__ = [
    "MESSAGES",
    "NODE_ID_BYTES",
    "AddLearner",
    "Append",
    "AppendReply",
    "Change",
    "ChangeRefused",
    "Config",
    "Dice",
    "Entry",
    "EntryKind",
    "HardState",
    "Heartbeat",
    "HeartbeatReply",
    "Members",
    "Message",
    "NotLeader",
    "PeerStatus",
    "PreVote",
    "PreVoteReply",
    "Promote",
    "Raft",
    "RaftError",
    "ReadReply",
    "ReadRequest",
    "ReadState",
    "Ready",
    "Remove",
    "Role",
    "Snapshot",
    "SnapshotChunk",
    "SnapshotReply",
    "Status",
    "TimeoutNow",
    "TransferRefused",
    "Vote",
    "VoteReply",
    "bootstrap",
    "recover",
]
