"""The replicated state machine: the same entries make the same state, a retry changes nothing, a snapshot is it."""

from __future__ import annotations

from random import Random

import msgpack
import pytest

from dref_django.backends.raft.machine import (
    Kind,
    Machine,
    Outcome,
    Request,
    SnapshotError,
    Verdict,
    batch_entry,
    plain_entry,
)
from dref_django.backends.raft.sessions import MAX_SESSIONS, RESULT_LIMIT, SESSION_TTL, WINDOW
from dref_django.backends.raft.wire import decode_replies, encode_commands
from dref_django.protocol import GRAVE, Acquire, Add, Command, Inspect, Read, Renew, Reply, Status, Wake, Write
from tests.model.commands import rolled_batch, rolled_step

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


class Log:
    """Entries for one machine, and what came of them."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.now = START
        self.entries: list[bytes] = []
        self.session = self.open()
        self.number = 0

    def add(self, data: bytes) -> Outcome:
        (outcome,) = self.add_all(data)
        return outcome

    def add_all(self, data: bytes) -> list[Outcome]:
        self.entries.append(data)
        return self.machine.apply(len(self.entries), data)

    def open(self) -> int:
        session: int = msgpack.unpackb(self.add(plain_entry(Kind.OPEN, self.now)).result)
        return session

    def send(self, *commands: Command, number: int = 0, floor: int = 0, session: int = 0) -> Outcome:
        return self.add(batch_entry(self.now, [self.request(*commands, number=number, floor=floor, session=session)]))

    def request(self, *commands: Command, number: int = 0, floor: int = 0, session: int = 0) -> Request:
        if not number:
            self.number = number = self.number + 1
        return Request(session or self.session, number, floor, "space", encode_commands(commands))

    def replies(self, *commands: Command) -> list[Reply]:
        return decode_replies(self.send(*commands).result)

    def look(self, *commands: Command) -> list[Reply]:
        return self.machine.query("space", commands, self.now)

    def plain(self, kind: Kind, argument: int | str = 0) -> None:
        self.add(plain_entry(kind, self.now, argument))


@pytest.fixture
def log() -> Log:
    return Log()


class TestExactlyOnce:
    def test_repeated_number_is_answered_as_before_and_changes_nothing(self, log: Log) -> None:
        first = log.send(Add("n", 1), number=7)
        again = log.send(Add("n", 1), number=7)
        assert (again.verdict, again.result, list(again.events)) == (Verdict.APPLIED, first.result, [])
        assert log.look(Read("n"))[0].data == 1

    def test_large_result_is_not_kept_but_the_number_is(self, log: Log) -> None:
        log.send(Write("n", b"x" * RESULT_LIMIT), number=1)
        refused = log.send(Write("n", b"y", 7), number=2)
        assert decode_replies(refused.result)[0].status is Status.CONFLICT
        assert log.send(Write("n", b"y", 7), number=2).verdict is Verdict.FORGOTTEN

    def test_number_the_client_is_done_with_is_never_applied_again(self, log: Log) -> None:
        log.send(Add("n", 1), number=1)
        log.send(Add("n", 1), number=2, floor=2)
        assert log.send(Add("n", 1), number=1).verdict is Verdict.FORGOTTEN
        assert log.look(Read("n"))[0].data == 2

    def test_window_is_bounded_and_what_falls_out_of_it_is_not_applied_again(self, log: Log) -> None:
        for number in range(1, WINDOW + 2):
            log.send(Add("n", 1), number=number)
        assert log.send(Add("n", 1), number=1).verdict is Verdict.FORGOTTEN
        assert log.send(Add("n", 1), number=2).verdict is Verdict.APPLIED
        assert log.look(Read("n"))[0].data == WINDOW + 1

    def test_session_ends_by_an_entry_when_nobody_uses_it(self, log: Log) -> None:
        log.send(Add("n", 1))
        log.now += SESSION_TTL
        assert log.send(Add("n", 1)).verdict is Verdict.APPLIED  # time alone ends none
        log.now += SESSION_TTL
        log.plain(Kind.TIME)
        assert log.send(Add("n", 1)).verdict is Verdict.EXPIRED
        assert log.look(Read("n"))[0].data == 2

    def test_closed_and_unknown_sessions_change_nothing(self, log: Log) -> None:
        log.add(plain_entry(Kind.CLOSE, log.now, log.session))
        assert log.send(Add("n", 1)).verdict is Verdict.EXPIRED
        assert log.send(Add("n", 1), session=999).verdict is Verdict.EXPIRED

    @pytest.mark.parametrize("restored", [False, True])
    def test_closed_session_frees_what_its_process_held_and_nothing_else(self, log: Log, restored: bool) -> None:
        dead, alive = log.session, log.open()
        log.send(Acquire("lock", "dead/1", 10 * SECOND))
        log.send(Acquire("lock", "dead/2", 10 * SECOND, 10 * SECOND))
        log.send(Acquire("lock", "alive/1", 10 * SECOND, 10 * SECOND), session=alive)
        log.send(Acquire("kept", "alive/2", 10 * SECOND), session=alive)
        log.send(Acquire("kept", "dead/3", 10 * SECOND, 10 * SECOND))
        if restored:
            log.machine = Machine.restore(log.machine.capture().encode())
        ((space, events),) = log.add(plain_entry(Kind.CLOSE, log.now, dead)).events
        assert (space, events[-1]) == ("space", Wake("lock", "alive/1"))
        lock, kept = (log.look(Inspect(name))[0].lease for name in ("lock", "kept"))
        assert lock is not None
        assert (lock.owner, lock.waiters) == ("", ("alive/1",))
        assert kept is not None
        assert (kept.owner, kept.waiters) == ("alive/2", ())
        late = log.send(Acquire("late", "dead/4", 10 * SECOND))
        assert late.verdict is Verdict.EXPIRED, "what the dead had under way changes nothing"

    def test_oldest_session_makes_room_for_a_new_one(self, log: Log) -> None:
        second = log.open()
        log.send(Add("n", 1))
        for _ in range(MAX_SESSIONS - 1):
            log.open()
        assert log.send(Add("n", 1)).verdict is Verdict.APPLIED
        assert log.send(Add("n", 1), session=second, number=1).verdict is Verdict.EXPIRED


class TestRequestsThatShareAnEntry:
    def test_each_is_answered_in_order(self, log: Log) -> None:
        requests = [log.request(Add("n", 1)), log.request(Write("m", b"x")), log.request(Add("n", 5))]
        outcomes = log.add_all(batch_entry(log.now, requests))
        assert [decode_replies(outcome.result)[0].data for outcome in outcomes] == [1, None, 6]
        told = [[event.name for _, events in outcome.events for event in events] for outcome in outcomes]
        assert told == [["n"], ["m"], ["n"]]

    def test_number_that_comes_twice_is_applied_once(self, log: Log) -> None:
        twice = log.request(Add("n", 1))
        first, again = log.add_all(batch_entry(log.now, [twice, twice]))
        assert (again.verdict, again.result, list(again.events)) == (Verdict.APPLIED, first.result, [])
        assert log.look(Read("n"))[0].data == 1

    @pytest.mark.parametrize("bad", [7, b"x", [], [1, 2, 3], [1, 2, 0, "space", b"\xc1"]])
    def test_one_that_means_nothing_is_refused_and_the_others_are_carried_out(self, log: Log, bad: object) -> None:
        shorts = [log.request(Add("n", 1)).short(), bad, log.request(Add("n", 1)).short()]
        outcomes = log.add_all(msgpack.packb((Kind.BATCH, log.now, *shorts)))
        assert [outcome.verdict for outcome in outcomes] == [Verdict.APPLIED, Verdict.REFUSED, Verdict.APPLIED]
        assert log.look(Read("n"))[0].data == 2


class TestTime:
    def test_stamp_that_goes_back_does_not_move_time_back(self, log: Log) -> None:
        (first,) = log.replies(Write("n", 1, ttl=SECOND))
        log.now -= 60 * SECOND
        (second,) = log.replies(Write("n", 2))
        assert second.version == first.version + 1
        assert log.machine.now == START

    def test_new_leader_gives_every_lease_its_whole_time_again(self, log: Log) -> None:
        token = log.replies(Acquire("lock", "a/1", 10 * SECOND))[0].token
        log.replies(Acquire("lock", "b/1", 10 * SECOND, 10 * SECOND))
        log.now += 25 * SECOND  # nobody could renew: there was no leader
        log.plain(Kind.LEAD)
        (info,) = log.look(Inspect("lock"))
        assert info.lease is not None
        assert (info.lease.owner, info.lease.left, info.lease.waiters) == ("a/1", 10 * SECOND, ("b/1",))
        assert log.replies(Renew("lock", "a/1", token, SECOND))[0].status is Status.APPLIED

    def test_new_leader_whose_clock_is_hours_ahead_ends_no_session(self, log: Log) -> None:
        log.send(Add("n", 1))
        log.now += SESSION_TTL // 2
        log.plain(Kind.TIME)
        log.now += 5 * SESSION_TTL
        log.plain(Kind.LEAD)
        assert log.send(Add("n", 1), number=1).verdict is Verdict.APPLIED, "a retry is still known"
        assert log.look(Read("n"))[0].data == 1
        idle = log.open()
        log.now += SESSION_TTL
        log.plain(Kind.TIME)
        assert log.send(Add("n", 1), session=idle).verdict is Verdict.EXPIRED

    def test_new_leader_does_not_revive_what_was_seen_to_have_run_out(self, log: Log) -> None:
        log.replies(Acquire("lock", "a/1", 10 * SECOND))
        log.now += 11 * SECOND
        assert log.machine.turns("space", [Inspect("lock")], log.now)
        log.plain(Kind.TIME)
        assert not log.machine.turns("space", [Inspect("lock")], log.now)
        log.plain(Kind.LEAD)
        assert log.look(Inspect("lock"))[0].status is Status.NOT_FOUND

    def test_garbage_is_collected_by_an_entry_and_an_empty_space_goes(self, log: Log) -> None:
        log.replies(Write("n", 1, ttl=SECOND))
        log.replies(Acquire("lock", "a/1", SECOND))
        assert not log.machine.is_due(log.now + GRAVE - SECOND)
        log.now += GRAVE + SECOND
        assert log.machine.is_due(log.now)
        log.plain(Kind.TIME)
        assert not log.machine.is_due(log.now)
        assert log.machine.capture()._spaces == {}

    def test_first_leader_names_the_cluster_for_good(self, log: Log) -> None:
        log.plain(Kind.LEAD, "first")
        log.plain(Kind.LEAD, "second")
        assert log.machine.cluster_id == "first"


class TestGarbage:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            msgpack.packb(7),
            msgpack.packb((0,)),
            msgpack.packb((0, "soon", (1, 1, 0, "space", b""))),
            msgpack.packb((Kind.CLOSE, START)),
            msgpack.packb((99, START, 0)),
        ],
    )
    def test_entry_that_means_nothing_changes_nothing(self, log: Log, data: bytes) -> None:
        assert log.add(data).verdict is Verdict.REFUSED
        assert log.send(Add("n", 1)).verdict is Verdict.APPLIED

    @pytest.mark.parametrize("cut", [0, 1, 10, -1])
    def test_damaged_snapshot_is_refused(self, log: Log, cut: int) -> None:
        log.send(Write("n", b"value"))
        with pytest.raises(SnapshotError):
            Machine.restore(log.machine.capture().encode()[:cut])

    def test_snapshot_of_another_format_is_refused(self) -> None:
        with pytest.raises(SnapshotError, match="format 9"):
            Machine.restore(msgpack.packb((9, 0, 0, 0)))


def told(log: Log, dice: Random, steps: int) -> None:
    """A random story: commands, retries, leaders and times."""
    for _ in range(steps):
        log.now += rolled_step(dice)
        match dice.randrange(12):
            case 0:
                log.plain(Kind.LEAD)
            case 1:
                log.plain(Kind.TIME)
            case 2 if log.number:
                log.send(*rolled_batch(dice), number=dice.randint(1, log.number))
            case 3:
                log.session = log.open()
            case _:
                log.send(*rolled_batch(dice), floor=max(0, log.number - 5))


@pytest.mark.parametrize("seed", range(40))
def test_restored_machine_goes_on_as_the_one_that_was_captured(seed: int) -> None:
    dice = Random(seed)
    log = Log()
    told(log, dice, 120)
    captured = log.machine.capture()
    place = len(log.entries)
    told(log, dice, 120)
    restored = Machine.restore(captured.encode())
    assert restored.capture().encode() == captured.encode()
    outcomes = [restored.apply(place + number, data) for number, data in enumerate(log.entries[place:], start=1)]
    again = Machine()
    expected = [again.apply(number, data) for number, data in enumerate(log.entries, start=1)][place:]
    assert outcomes == expected
    assert restored.capture().encode() == log.machine.capture().encode() == again.capture().encode()
