"""Cores and copies that are wrong on purpose, in ways seen in the wild or plausible: the checkers have to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from dref_django.backends.raft.calls import Answer, Answered, Question
from dref_django.backends.raft.copies import Copies, _Look
from dref_django.backends.raft.core import (
    Append,
    AppendReply,
    Change,
    EntryKind,
    Heartbeat,
    Message,
    Raft,
    Ready,
    Snapshot,
    SnapshotChunk,
)
from dref_django.backends.raft.core.follower import Follower
from dref_django.backends.raft.core.leader import Leader
from dref_django.backends.raft.core.membership import changed
from dref_django.backends.raft.core.replica import Replica
from dref_django.backends.raft.core.sending import Sender
from dref_django.backends.raft.wire import decode_commands, encode_replies

from .checkers import Violation
from .faults import Scenario
from .host import Host
from .world import World

Patches = list[tuple[type, str, Callable[..., Any]]]


def _votes_twice() -> Patches:
    """Grants its vote to whoever asks."""
    return [(Replica, "may_vote", lambda self, candidate: True)]


def _skips_the_fsync() -> Patches:
    """Calls nothing durable before messages that depend on it go out."""
    original = Raft.ready

    def ready(self: Raft) -> Ready:
        wrong = original(self)._replace(must_sync=False)
        self._inflight = wrong
        return wrong

    return [(Raft, "ready", ready)]


def _counts_its_own_copy_before_it_is_durable() -> Patches:
    """A leader takes its own log for written as soon as it has appended to it."""
    original = Leader._match

    def match(self: Leader, voter: str) -> int:
        log = self._replica.log
        return log.last_index if voter == self.leader else original(self, voter)

    return [(Leader, "_match", match)]


def _commits_an_old_terms_entry() -> Patches:
    """Counts copies of entries of earlier terms (figure 8)."""
    return [(Leader, "_may_commit", lambda self, index: True)]


def _deletes_matching_entries() -> Patches:
    """Deletes everything after prev_index before it appends, though it matches."""

    def merge(self: Follower, message: Append) -> None:
        replica = self._replica
        first = max(message.prev_index, replica.log.commit) + 1
        if first <= replica.log.last_index:
            replica.truncate(first)
        replica.append([entry for entry in message.entries if entry.index >= first])

    return [(Follower, "_merge", merge)]


def _counts_acknowledgements_of_other_terms() -> Patches:
    """An acknowledgement of an earlier term counts in this one."""
    original = Replica.step

    def step(self: Replica, message: Message) -> None:
        if isinstance(message, AppendReply) and message.term < self.term:
            message = replace(message, term=self.term)
        original(self, message)

    return [(Replica, "step", step)]


def _reads_without_a_quorum() -> Patches:
    """Confirms reads because it believes to lead."""
    return [(Leader, "_confirm_reads", lambda self: self._reads.confirm(self._reads.round))]


def _reads_before_its_first_commit() -> Patches:
    """Takes the commit index that it had as a follower for that of the cluster."""
    original = Leader.start

    def start(self: Leader) -> None:
        original(self)
        self._term_start = 0

    return [(Leader, "start", start)]


def _snapshot_chunk_commits() -> Patches:
    """Takes the first bytes of a snapshot for a proof that its own entries are committed."""
    original = Follower._on_chunk

    def on_chunk(self: Follower, message: SnapshotChunk) -> None:
        self._replica.commit_to(message.index)
        original(self, message)

    return [(Follower, "_on_chunk", on_chunk)]


def _clears_the_log_after_a_snapshot() -> Patches:
    """Finds at its start that the log does not begin where the snapshot ends, and throws the log away."""
    original = Raft.__init__

    def init(self: Raft, *arguments: Any, snapshot: Snapshot | None, **named: Any) -> None:
        if snapshot:
            named["entries"] = ()
            named["hard_state"] = replace(named["hard_state"], commit=snapshot.index)
        original(self, *arguments, snapshot=snapshot, **named)
        if snapshot:
            self._replica.log.truncated = snapshot.index + 1

    return [(Raft, "__init__", init)]


def _commits_what_does_not_match() -> Patches:
    """A heartbeat's commit index is the leader's, not what the follower has acknowledged."""
    original = Sender._heartbeat

    def heartbeat(self: Sender, peer: str, progress: Any, number: int) -> None:
        original(self, peer, progress, number)
        message = self._replica.early.pop()
        assert isinstance(message, Heartbeat)
        self._replica.early.append(replace(message, commit=self._log.commit))

    return [(Sender, "_heartbeat", heartbeat)]


def _changes_members_before_the_last_change_is_done() -> Patches:
    """Two changes at once: their quorums need not overlap."""

    def propose_members(self: Leader, change: Change) -> int:
        self._check_not_handing_over()
        index = self._append([(EntryKind.MEMBERS, changed(self._replica.members, change).encode())])
        self._follow_members()
        return index

    return [(Leader, "propose_members", propose_members)]


def _looks_without_waiting() -> Patches:
    """A follower takes its copy for new enough as soon as the leader has answered."""
    original = Copies._look_at

    def look_at(self: Copies, index: int, *rest: Any) -> None:
        original(self, 0, *rest)

    return [(Copies, "_look_at", look_at)]


def _waits_for_its_own_commit_index() -> Patches:
    """A follower takes the commit index that it knows of for the cluster's, and asks nobody."""

    def ask(self: Copies, question: Question, answered: Answered) -> None:
        self._look_at(self._driver.raft.status().commit, 0, question, answered)

    return [(Copies, "ask", ask)]


def _marks_without_a_quorum() -> Patches:
    """A leader gives a mark because it believes to lead."""

    def query(self: Host, commands: bytes, answered: Answered, witness: tuple[str, int] = ("", 0)) -> None:
        answered(Answer.DONE, encode_replies(self.machine.query("", decode_commands(commands), 0)))

    return [(Host, "query", query)]


def _takes_one_witness_for_a_quorum() -> Patches:
    """A leader confirms at once what a node of its term asks, although the two are no majority."""
    return [(Leader, "_is_quorum_with", lambda self, peer: True)]


def _shares_the_mark_of_an_earlier_read() -> Patches:
    """A read takes the mark that an earlier one has asked for and not yet got: it may be of before this read."""
    original = Copies._look_at, Copies.ask
    waiting: dict[Copies, list[tuple[Question, Answered]]] = {}

    def ask(self: Copies, question: Question, answered: Answered) -> None:
        def hear(answer: Answer, body: bytes) -> None:
            waiting.pop(self, None)
            answered(answer, body)

        if self in waiting:
            waiting[self].append((question, answered))
        else:
            waiting[self] = []
            original[1](self, question, hear)

    def look_at(self: Copies, index: int, now: int, question: Question, answered: Answered) -> None:
        shared = [(question, answered), *waiting.pop(self, [])]
        for each in shared:
            original[0](self, index, now, *each)

    return [(Copies, "ask", ask), (Copies, "_look_at", look_at)]


def _looks_at_the_machine_of_the_mark() -> Patches:
    """A look goes on with the state machine that a snapshot has replaced meanwhile."""
    original = _Look.__init__, Copies.find

    def init(self: _Look, copies: Copies, *rest: Any) -> None:
        original[0](self, copies, *rest)
        driver = SimpleNamespace(machine=copies._driver.machine)
        self._copies = cast(
            Copies, SimpleNamespace(find=partial(original[1], cast(Copies, SimpleNamespace(_driver=driver))))
        )
        self._copies.ask_whole = copies.ask_whole  # type: ignore[method-assign]

    return [(_Look, "__init__", init)]


@dataclass(frozen=True, slots=True)
class Mutation:
    patches: Callable[[], Patches]
    focus: Mapping[str, Any]
    """The scenario in which it shows soonest; the seed draws the rest."""


DYING_LEADERS = {"faults": ("lie in wait",), "fault_every": 20.0, "fast_syncs": 0.8, "think": 5.0}
COPIES = {"copies": 1.0, "think": 5.0, "units_per_second": 5000.0}
CUT_LEADERS = {"faults": ("pause", "partition", "one way"), "fault_every": 30.0, "drift": 3.0}
MUTATIONS = {
    "votes twice": Mutation(_votes_twice, {"nodes": 5}),
    "skips the fsync": Mutation(_skips_the_fsync, {"nodes": 3}),
    "counts its own copy before it is durable": Mutation(
        _counts_its_own_copy_before_it_is_durable,
        {"nodes": 3, "faults": ("crash", "slow disk"), "fault_every": 10.0, "fast_syncs": 0.1, "think": 5.0},
    ),
    "commits an old term's entry": Mutation(
        _commits_an_old_terms_entry, {"nodes": 3, "max_batch_bytes": 1, "max_inflight": 1, **DYING_LEADERS}
    ),
    "deletes matching entries on append": Mutation(_deletes_matching_entries, {"nodes": 3}),
    "counts acknowledgements of other terms": Mutation(
        _counts_acknowledgements_of_other_terms,
        {
            "nodes": 3,
            "faults": ("lie in wait", "crash"),
            "fault_every": 20.0,
            "fast_syncs": 0.1,
            "think": 5.0,
            "echoes": True,
            "max_inflight": 4,
            "loss": 0.0,
        },
    ),
    "reads without a quorum": Mutation(
        _reads_without_a_quorum,
        {"nodes": 3, "faults": ("pause", "partition"), "fault_every": 30.0, "drift": 3.0, "think": 5.0},
    ),
    "reads before its first commit": Mutation(_reads_before_its_first_commit, {"nodes": 3, **DYING_LEADERS}),
    "snapshot chunk commits": Mutation(
        _snapshot_chunk_commits,
        {"nodes": 5, "faults": ("partition", "compact", "compact"), "fault_every": 20.0, "think": 5.0},
    ),
    "clears the log after a snapshot": Mutation(_clears_the_log_after_a_snapshot, {"nodes": 3}),
    "changes members before the last change is done": Mutation(
        _changes_members_before_the_last_change_is_done,
        {"nodes": 4, "faults": ("change members", "change members", "partition"), "fault_every": 10.0},
    ),
    "commits what does not match": Mutation(_commits_what_does_not_match, {"nodes": 3}),
    "looks without waiting": Mutation(_looks_without_waiting, {"nodes": 3, **COPIES}),
    "waits for its own commit index": Mutation(_waits_for_its_own_commit_index, {"nodes": 3, **COPIES}),
    "marks without a quorum": Mutation(_marks_without_a_quorum, {"nodes": 5, **COPIES, **CUT_LEADERS}),
    "takes one witness for a quorum": Mutation(
        _takes_one_witness_for_a_quorum,
        {
            "nodes": 5,
            "faults": ("waylay",),
            "fault_every": 30.0,
            "drift": 3.0,
            "copies": 1.0,
            "think": 5.0,
            "units_per_second": 100.0,
        },
    ),
    "shares the mark of an earlier read": Mutation(_shares_the_mark_of_an_earlier_read, {"nodes": 3, **COPIES}),
    "looks at the machine of the mark": Mutation(
        _looks_at_the_machine_of_the_mark, {"nodes": 3, **COPIES, "faults": ("waylay", "compact"), "fault_every": 20.0}
    ),
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Within this block the core has this fault."""
    with ExitStack() as stack:
        for owner, attribute, wrong in MUTATIONS[name].patches():
            stack.enter_context(patch.object(owner, attribute, wrong))
        yield


def focused(name: str, seed: int) -> World:
    """A run in the scenario in which the mutation shows soonest."""
    return World(seed, replace(Scenario.draw(Random(seed)), **MUTATIONS[name].focus))


def first_caught(name: str, seeds: range) -> tuple[int, Violation]:
    """The first seed at which a checker objects. Raises AssertionError when none does."""
    for seed in seeds:
        try:
            with mutated(name):
                focused(name, seed).run()
        except Violation as violation:
            return seed, violation
    raise AssertionError(f"{name}: no checker objects in {len(seeds)} seeds")
