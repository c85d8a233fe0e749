"""Consensus: what a Raft node decides, and nothing else. No I/O, no clock, no randomness of its own.

A cluster of Django processes has to agree on one sequence of commands, although any of its hosts may stop, come back,
or be cut off at any moment. Raft does that with a leader: it numbers the commands, sends them to the others, and a
command is *committed*, and never lost again, once a majority has it on disk. This package follows Diego Ongaro's
dissertation ("Consensus: Bridging Theory and Practice", 2014; sections are quoted from it), with the refinements that
practice has shown to be needed. Its files can be read in this order:

`messages`    The vocabulary. An entry has an index and the term of the leader that made it. Every message carries its
              sender's term; a higher one makes the receiver a follower of that term, a lower one is refused or dropped,
              so that no answer is ever counted in another term than that of its question.
`ready`       The contract with the driver. The core never acts; it hands out a `Ready`: what to put on disk, what to
              send after that, what to apply. Messages that promise something (a vote, an acknowledgement) leave only
              after what they promise is durable. A leader's own appends may overtake its disk, since its own copy
              counts only when it is there; even these wait as long as the term itself is not durable.
`log`         The log since the snapshot, and how far it is on disk, committed and applied.
`replica`     What a node is whatever its role: who may be voted for, and how one role becomes another.
`follower`    Takes entries from the leader. It truncates only where an entry really conflicts (same index, other
              term): what follows a match may have been acknowledged, and an old message must not take it away. It
              knows as committed only what this leader has proven to match. Bytes of a snapshot prove nothing before
              the last of them is here.
`candidate`   Asks first whether it would be elected (pre-vote, 9.6), so that a node which was cut off disturbs nobody;
              who hears from a leader refuses (6.2).
`leader`      Begins with an empty entry: an entry of an earlier term is committed only together with one of its own
              (3.6.2, figure 8 of the paper). It steps down when it has heard from no majority for an election time-out
              (check-quorum), and hands over on request (3.10) by letting the chosen node campaign at once.
`progress`    What a leader knows of a follower. Probe: where the logs agree is not known, one append at a time.
              Replicate: appends leave one after another, without waiting. Snapshot: the log no longer has what it
              needs. Refusals carry a hint that skips a whole term (5.3 of the paper), acknowledgements only go forward.
`sending`     What a follower is sent next, given its progress.
`reading`     A linearizable read costs a round of heartbeats, and no entry (6.4): the commit index of a leader that
              has committed an entry of its term, and that a majority still followed after the read was asked for. Reads
              that come together share a round; a follower forwards its reads, and of three voters needs no round:
              that it asks in the leader's term makes the two a majority.
`membership`  One server at a time (4.1), in force from the entry on, committed or not. A new node learns first, without
              a vote, and is promoted when it has caught up. A leader begins no change before it has committed an entry
              of its term, nor while another is under way.
`node`        The face: `Raft`.

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

What one has to know, and no test will tell:

- The disk is trusted. A node whose disk comes back older than it was (a restored backup, a copied virtual machine) may
  vote twice and lose what it acknowledged. A node that lost its disk has to join again under a new id.
- Node ids are never used twice, and the founding members are the same on every founding node: two different
  foundings are two clusters that do not notice each other.
- Nodes are assumed to fail, not to lie: who may send messages is the transport's business.
- Safety never depends on clocks. Progress does: ticks have to be about as long on all nodes, an election time-out has
  to be much longer than a round trip and a sync of the disk. A node that ticks several times too fast disturbs nobody
  (pre-vote), one that is starved of CPU for an election time-out is replaced if it led.
- A leader that is cut off accepts proposals until it steps down; they may be committed or lost, and their fate is known
  only by what is finally committed at their index. What is proposed twice is committed twice: telling copies apart is
  the state machine's business.
- The log in memory, proposals and open reads are bounded by the driver, which has to compact, and to stop asking.
- The latest snapshot is kept in memory, since a follower may need it at any time; the state machine has to fit twice.
- Of n voters n // 2 may be down. Of two voters none: going from one to three passes through that state, and a node lost
  in it stops the cluster until it is back, or until someone makes a survivor a cluster of its own, outside of this
  protocol, and gives up what only the lost nodes had.
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
from .node import Raft, bootstrap
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
]
