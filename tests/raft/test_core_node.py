"""The contract between the core and its driver."""

from collections.abc import Iterable, Sequence
from random import Random

import pytest

from dref_django.backends.raft.core import (
    AddLearner,
    Append,
    AppendReply,
    Change,
    ChangeRefused,
    Config,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    Members,
    Message,
    NotLeader,
    PreVote,
    PreVoteReply,
    Promote,
    Raft,
    ReadReply,
    ReadRequest,
    ReadState,
    Ready,
    Remove,
    Role,
    Snapshot,
    SnapshotChunk,
    SnapshotReply,
    TransferRefused,
    Vote,
    VoteReply,
    bootstrap,
)

ALONE, THREE = Members(frozenset("a")), Members(frozenset("abc"))


def node(members: Members = THREE, **settings: int) -> Raft:
    hard_state, entries = bootstrap(members)
    return Raft(Config("a", **settings), hard_state=hard_state, snapshot=None, entries=entries, random=Random(1))


def work(raft: Raft) -> list[Ready]:
    """All of it, done at once."""
    done = []
    while raft.has_ready():
        done.append(raft.ready())
        raft.advance(done[-1])
    return done


def sent(readies: Iterable[Ready]) -> list[Message]:
    return [message for ready in readies for message in (*ready.early_messages, *ready.messages)]


def leader(members: Members = THREE, **settings: int) -> Raft:
    """Node a, elected by b in term 2, its first entry at index 2."""
    raft = node(members, **settings)
    while raft.status().role is Role.FOLLOWER:
        raft.tick()
    if members != ALONE:
        voters = sorted(members.voters - {"a"})[: len(members.voters) // 2]
        for pre in (True, False):
            work(raft)
            for voter in voters:
                raft.step(granted(raft, voter, pre=pre))
    work(raft)
    assert raft.status().role is Role.LEADER
    return raft


def granted(raft: Raft, voter: str = "b", *, pre: bool = False) -> Message:
    term = raft.status().term
    return PreVoteReply(voter, "a", term + 1, True) if pre else VoteReply(voter, "a", term, True)


def has(raft: Raft, index: int, sender: str = "b") -> None:
    raft.step(AppendReply(sender, "a", raft.status().term, True, index, 0, 0))


def commands(*texts: str, after: int = 1, term: int = 1) -> tuple[Entry, ...]:
    return tuple(Entry(index, term, EntryKind.COMMAND, text.encode()) for index, text in enumerate(texts, after + 1))


def append(raft: Raft, entries: Sequence[Entry], *, term: int, prev: tuple[int, int], commit: int = 0) -> None:
    raft.step(Append("b", "a", term, prev[0], prev[1], commit, tuple(entries)))


class TestReady:
    def test_only_one_is_under_way(self) -> None:
        raft = node()
        raft.ready()
        assert not raft.has_ready()
        with pytest.raises(RuntimeError, match="has not been advanced"):
            raft.ready()

    def test_only_the_one_under_way_can_be_advanced(self) -> None:
        raft = node()
        (done,) = work(raft)
        with pytest.raises(RuntimeError, match="not the Ready under way"):
            raft.advance(done)

    def test_the_commit_index_alone_is_no_reason_to_write(self) -> None:
        raft = node()
        append(raft, commands("x"), term=1, prev=(1, 1))
        work(raft)
        raft.step(Heartbeat("b", "a", 1, 2, 0))
        (ready,) = work(raft)
        assert [entry.data for entry in ready.committed] == [b"x"]
        assert ready.hard_state == HardState(1, "", 2)
        assert not ready.must_sync

    def test_a_vote_is_kept_before_it_is_sent(self) -> None:
        raft = node()
        work(raft)
        raft.step(Vote("b", "a", 2, 1, 1, False))
        ready = raft.ready()
        assert ready.hard_state == HardState(2, "b", 1)
        assert ready.must_sync
        assert not ready.early_messages
        assert ready.messages == (VoteReply("a", "b", 2, True),)

    def test_nothing_of_a_term_leaves_before_the_term_is_durable(self) -> None:
        raft = node(ALONE)
        raft.tick()
        raft.propose_many([b"x"])
        ready = raft.ready()
        assert ready.hard_state == HardState(2, "a", 1)
        assert raft.early_messages() == ()
        raft.advance(ready)
        raft.propose_members(AddLearner("b"))
        assert any(isinstance(message, Append) for message in raft.early_messages())

    def test_appends_and_heartbeats_do_not_wait_for_the_disk(self) -> None:
        raft = leader()
        has(raft, 2)
        work(raft)
        raft.propose(b"x")
        busy = raft.ready()
        raft.propose(b"y")
        raft.tick()
        kinds = {type(message) for message in raft.early_messages() if message.to == "b"}
        assert kinds == {Append, Heartbeat}
        raft.advance(busy)

    def test_a_leaders_own_copy_counts_when_it_is_durable(self) -> None:
        raft = leader()
        has(raft, 2)
        work(raft)
        raft.propose(b"x")
        busy = raft.ready()
        has(raft, 3)
        assert raft.status().commit == 2
        raft.advance(busy)
        assert raft.status().commit == 3

    def test_two_others_commit_without_the_leaders_disk(self) -> None:
        raft = leader()
        raft.propose(b"x")
        busy = raft.ready()
        has(raft, 3)
        has(raft, 3, "c")
        assert raft.status().commit == 3
        raft.advance(busy)
        assert [entry.data for entry in raft.ready().committed] == [b"", b"x"]

    def test_what_is_truncated_while_it_is_written_is_not_taken_for_durable(self) -> None:
        raft = node()
        work(raft)
        append(raft, commands("x", "y", "z"), term=1, prev=(1, 1))
        busy = raft.ready()
        append(raft, commands("other", after=2, term=2), term=2, prev=(2, 1))
        raft.advance(busy)
        (ready,) = work(raft)
        assert ready.truncate_from == 3
        assert [entry.data for entry in ready.entries] == [b"other"]
        assert ready.messages[-1] == AppendReply("a", "b", 2, True, 3, 0, 0)

    def test_committed_entries_are_handed_out_once(self) -> None:
        raft = leader(ALONE)
        applied = []
        for text in (b"x", b"y"):
            raft.propose(text)
            applied += [entry.data for ready in work(raft) for entry in ready.committed]
        assert applied == [b"x", b"y"]


class TestRequests:
    def test_a_follower_says_who_leads(self) -> None:
        raft = node()
        raft.step(Heartbeat("b", "a", 1, 0, 1))
        for request in (lambda: raft.propose(b"x"), lambda: raft.transfer("b")):
            with pytest.raises(NotLeader) as refused:
                request()
            assert refused.value.leader == "b"

    def test_a_proposal_tells_term_and_index(self) -> None:
        raft = leader(ALONE)
        assert raft.propose_many([b"x", b"y"]) == (2, 3)
        assert raft.propose(b"z") == (2, 5)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (AddLearner("b"), "is a member already"),
            (AddLearner(""), "must not be empty"),
            (Promote("b"), "is not a learner"),
            (Remove("d"), "is not a member"),
        ],
    )
    def test_a_change_that_makes_no_sense_is_refused(self, change: Change, why: str) -> None:
        raft = leader()
        has(raft, 2)
        with pytest.raises(ChangeRefused, match=why):
            raft.propose_members(change)

    def test_the_last_voter_stays(self) -> None:
        raft = leader(ALONE)
        with pytest.raises(ChangeRefused, match="last voter"):
            raft.propose_members(Remove("a"))

    def test_no_change_before_an_entry_of_the_term_is_committed(self) -> None:
        raft = leader()
        with pytest.raises(ChangeRefused, match="has not committed an entry of its term"):
            raft.propose_members(AddLearner("d"))

    def test_leadership_goes_only_to_living_voters(self) -> None:
        raft = leader(ALONE)
        for to, why in ((None, "no other voter"), ("a", "leads already"), ("b", "no voter")):
            with pytest.raises(TransferRefused, match=why):
                raft.transfer(to)

    def test_without_a_leader_a_read_fails_at_once(self) -> None:
        raft = node()
        work(raft)
        raft.read(b"r")
        assert [context for ready in work(raft) for context in ready.failed_reads] == [b"r"]

    def test_a_forwarded_read_without_an_answer_fails_within_an_election_timeout(self) -> None:
        raft = node()
        raft.step(Heartbeat("b", "a", 1, 0, 1))
        raft.read(b"r")
        work(raft)
        failed = []
        for _ in range(10):
            raft.tick()
            raft.step(Heartbeat("b", "a", 1, 0, 1))
            failed += [context for ready in work(raft) for context in ready.failed_reads]
        assert failed == [b"r"]

    @pytest.mark.parametrize(
        ("voters", "witness", "is_enough"),
        [
            ("abc", ("b", 2), True),
            ("abc", ("", 0), False),
            ("abc", ("b", 1), False),
            ("abc", ("b", 3), False),
            ("abc", ("d", 2), False),
            ("abc", ("a", 2), False),
            ("abcde", ("b", 2), False),
        ],
        ids=["of three", "nobody", "before this term", "after this term", "learner", "itself", "of five"],
    )
    def test_who_asks_for_a_read_confirms_it_when_the_two_are_a_quorum(
        self, voters: str, witness: tuple[str, int], is_enough: bool
    ) -> None:
        raft = leader(Members(frozenset(voters), frozenset("d") - frozenset(voters)))
        has(raft, 2)
        has(raft, 2, "c")
        work(raft)
        raft.read(b"r", witness)
        done = work(raft)
        assert any(isinstance(message, Heartbeat) for message in sent(done)) is not is_enough
        assert [read.context for ready in done for read in ready.reads] == [b"r"] * is_enough
        raft.step(ReadRequest("b", "a", 2, 1))
        is_answered = any(isinstance(message, ReadReply) for message in sent(work(raft)))
        assert is_answered is (len(voters) == 3)

    def test_read_with_a_witness_waits_for_the_first_commit_of_the_term(self) -> None:
        raft = leader()
        raft.read(b"r", ("b", 2))
        assert not [read for ready in work(raft) for read in ready.reads]
        has(raft, 2)
        assert [read for ready in work(raft) for read in ready.reads] == [ReadState(b"r", 2)]

    def test_messages_to_someone_else_are_dropped(self) -> None:
        raft = node()
        work(raft)
        raft.step(PreVote("b", "c", 2, 1, 1))
        assert not raft.has_ready()


class TestSnapshots:
    def test_log_up_to_it_goes_but_for_what_is_kept(self) -> None:
        raft = leader(ALONE)
        raft.propose_many([b"x", b"y", b"z"])
        work(raft)
        snapshot = raft.compact(5, b"xyz", keep=2)
        assert snapshot == Snapshot(5, 2, ALONE, b"xyz")
        assert (raft.status().first_index, raft.status().last_index) == (4, 5)
        assert raft.compact(4, b"xy") is None

    def test_only_what_is_applied_can_be_in_it(self) -> None:
        raft = leader(ALONE)
        raft.propose(b"x")
        with pytest.raises(ValueError, match="not applied yet"):
            raft.compact(3, b"x")

    def test_a_lost_chunk_is_sent_again(self) -> None:
        raft = leader(chunk_bytes=2, chunk_window=2, max_inflight=1)
        has(raft, 2)
        work(raft)
        raft.compact(2, b"12345")
        raft.step(AppendReply("c", "a", 2, False, 1, 0, 0))
        chunks = [message for message in sent(work(raft)) if isinstance(message, SnapshotChunk)]
        assert [chunk.offset for chunk in chunks] == [0, 2]
        raft.step(SnapshotReply("c", "a", 2, 2, 2))
        chunks = [message for message in sent(work(raft)) if isinstance(message, SnapshotChunk)]
        assert [(chunk.offset, chunk.data) for chunk in chunks] == [(4, b"5")]
        again: list[Message] = []
        for _ in range(10):
            raft.tick()
            has(raft, 2)
            raft.step(SnapshotReply("c", "a", 2, 2, 2))
            again += [message for message in sent(work(raft)) if isinstance(message, SnapshotChunk)]
        assert [(chunk.offset, chunk.data) for chunk in again if isinstance(chunk, SnapshotChunk)] == [
            (2, b"34"),
            (4, b"5"),
        ]

    def test_an_empty_one_is_installed_too(self) -> None:
        raft = Raft(Config("a"), hard_state=HardState(), snapshot=None, entries=(), random=Random(1))
        raft.step(SnapshotChunk("b", "a", 3, 7, 2, THREE, 0, 0, b""))
        (ready,) = work(raft)
        assert ready.snapshot == Snapshot(7, 2, THREE, b"")
        assert ready.messages[-1] == AppendReply("a", "b", 3, True, 7, 0, 0)
        assert raft.status().members == THREE

    def test_a_log_that_has_what_it_covers_stays(self) -> None:
        raft = node()
        append(raft, commands("x", "y", "z"), term=1, prev=(1, 1))
        work(raft)
        raft.step(SnapshotChunk("b", "a", 1, 3, 1, THREE, 100, 0, b"begin"))
        (ready,) = work(raft)
        assert ready.snapshot is None
        assert [entry.data for entry in ready.committed] == [b"x", b"y"]
        assert raft.status().last_index == 4


class TestStart:
    def test_entries_after_the_snapshot_stay(self) -> None:
        snapshot = Snapshot(2, 1, ALONE, b"x")
        entries = commands("y", after=2)
        raft = Raft(Config("a"), hard_state=HardState(1, "a", 3), snapshot=snapshot, entries=entries, random=Random(1))
        (ready,) = work(raft)
        assert ready.committed == entries

    def test_entries_kept_from_before_the_snapshot_are_no_news(self) -> None:
        snapshot = Snapshot(4, 1, ALONE, b"xyz")
        entries = commands("y", "z", "new", after=2)
        raft = Raft(Config("a"), hard_state=HardState(1, "a", 5), snapshot=snapshot, entries=entries, random=Random(1))
        (ready,) = work(raft)
        assert [entry.data for entry in ready.committed] == [b"new"]

    @pytest.mark.parametrize(
        ("snapshot", "entries", "commit", "why"),
        [
            (None, commands("x", after=2), 0, "has a hole"),
            (None, commands("x", after=0), 2, "before .* the commit index 2"),
            (Snapshot(2, 1, ALONE, b""), commands("x", after=3), 2, "has a hole"),
            (Snapshot(2, 2, ALONE, b""), commands("x", "y", after=0), 2, "has term 1, the snapshot of it 2"),
        ],
    )
    def test_a_disk_that_contradicts_itself_is_refused(
        self, snapshot: Snapshot | None, entries: tuple[Entry, ...], commit: int, why: str
    ) -> None:
        with pytest.raises(ValueError, match=why):
            Raft(Config("a"), hard_state=HardState(2, "", commit), snapshot=snapshot, entries=entries, random=Random(1))

    @pytest.mark.parametrize(
        "settings",
        [
            {"election_ticks": 1},
            {"heartbeat_ticks": 0},
            {"max_inflight": 0},
            {"chunk_bytes": 0},
            {"max_batch_bytes": 0},
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be"):
            Config("a", **settings)

    def test_a_cluster_needs_voters(self) -> None:
        with pytest.raises(ValueError, match="at least one voter"):
            bootstrap(Members())


class TestMembers:
    def test_same_members_are_the_same_bytes(self) -> None:
        assert Members(frozenset("abc")).encode() == Members(frozenset("cba")).encode()

    def test_encoding_goes_back(self) -> None:
        members = Members(frozenset("ab"), frozenset("c"))
        assert Members.decode(members.encode()) == members

    @pytest.mark.parametrize("data", [b"", b"\x01", b"\x92\x01\x02", b"\x92\x91\xa1a\x91\xa1a", b"\x92\x91\xa0\x90"])
    def test_other_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="no encoding of members"):
            Members.decode(data)
