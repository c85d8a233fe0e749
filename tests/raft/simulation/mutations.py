"""Cores that are wrong on purpose, each in a way that was seen in the wild: the checkers have to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from dref_django.backends.raft.core import Append, AppendReply, Message, Raft, Ready, Snapshot, SnapshotChunk
from dref_django.backends.raft.core.follower import Follower
from dref_django.backends.raft.core.leader import Leader
from dref_django.backends.raft.core.replica import Replica
from dref_django.backends.raft.core.sending import Sender

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
        early = self._replica.early
        early[-1] = replace(early[-1], commit=self._log.commit)  # type: ignore[call-arg]

    return [(Sender, "_heartbeat", heartbeat)]


MUTATIONS: dict[str, Callable[[], Patches]] = {
    mutation.__name__.strip("_"): mutation
    for mutation in (
        _votes_twice,
        _skips_the_fsync,
        _commits_an_old_terms_entry,
        _deletes_matching_entries,
        _counts_acknowledgements_of_other_terms,
        _reads_without_a_quorum,
        _reads_before_its_first_commit,
        _snapshot_chunk_commits,
        _clears_the_log_after_a_snapshot,
        _commits_what_does_not_match,
    )
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Within this block the core has this fault."""
    with ExitStack() as stack:
        for owner, attribute, wrong in MUTATIONS[name]():
            stack.enter_context(patch.object(owner, attribute, wrong))
        yield
