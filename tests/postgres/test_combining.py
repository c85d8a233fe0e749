"""Increments of one name that meet in a process go to the server as one batch, and nobody can tell."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.postgres.combining import MOST, Combiner, Steps, Wait
from dref_django.backends.postgres.session import Limit
from dref_django.op_ids import new_op_id
from dref_django.protocol import INT_MAX, INT_MIN, Add, Command, Delete, Expire, Find, Read, Reply, Status, Write
from dref_django.store import Event, Store
from tests.postgres.conftest import OP, MakeBackend
from tests.proxy import TcpProxy

START = 1_795_382_557_000_000


class Line:
    """Callers of one name, driven by hand."""

    def __init__(self) -> None:
        self.combiner = Combiner()
        self.made: list[Add] = []

    def call(self) -> tuple[Steps, Any]:
        """One more caller, and what it wants first."""
        self.made.append(Add("n", len(self.made) + 1))
        steps = self.combiner.add("n", self.made[-1], Limit.of(5), concurrent.futures.Future)
        return steps, next(steps)


def applied(commands: Sequence[Command]) -> list[Reply]:
    return [Reply(Status.APPLIED, version=place) for place, _ in enumerate(commands, 1)]


def goes_on(steps: Steps, wait: Any) -> Any:
    """What a caller wants when what it waited for is there."""
    assert isinstance(wait, Wait)
    return steps.send(wait.future.result(0))


def result(steps: Steps, found: Any) -> list[Reply]:
    with pytest.raises(StopIteration) as stop:
        steps.send(found)
    replies: list[Reply] = stop.value.value
    return replies


@pytest.fixture
def line() -> Line:
    return Line()


class TestLine:
    def test_lone_one_is_sent_at_once(self, line: Line) -> None:
        for _ in range(2):
            steps, wanted = line.call()
            assert wanted == line.made[-1:]
            assert result(steps, applied(wanted)) == applied(wanted)

    def test_those_that_meet_another_are_sent_together_when_it_has_its_reply(self, line: Line) -> None:
        first, alone = line.call()
        waiting = [line.call() for _ in range(3)]
        result(first, applied(alone))
        (leader, turn), *others = waiting
        batch = goes_on(leader, turn)
        assert batch == line.made[1:]
        assert result(leader, applied(batch))[0].version == 1
        assert [result(*_told(other))[0].version for other in others] == [2, 3]
        _, wanted = line.call()
        assert wanted == line.made[-1:]

    def test_as_many_as_an_entry_remembers_go_together(self, line: Line) -> None:
        first, alone = line.call()
        waiting = [line.call() for _ in range(MOST + 2)]
        result(first, applied(alone))
        batch = goes_on(*waiting[0])
        assert batch == line.made[1 : MOST + 1]
        result(waiting[0][0], applied(batch))
        assert goes_on(*waiting[MOST]) == line.made[MOST + 1 :]

    def test_when_one_is_refused_each_goes_alone(self, line: Line) -> None:
        first, alone = line.call()
        (leader, turn), (other, wait) = line.call(), line.call()
        result(first, applied(alone))
        batch = goes_on(leader, turn)
        assert leader.send([Reply(Status.ABORTED), Reply(Status.OVERFLOW)]) == batch[:1]
        assert goes_on(other, wait) == batch[1:]
        assert result(other, [Reply(Status.OVERFLOW)])[0].status is Status.OVERFLOW

    def test_lost_reply_is_lost_for_all_of_the_batch_and_the_next_goes_on(self, line: Line) -> None:
        first, alone = line.call()
        (leader, turn), (other, wait) = line.call(), line.call()
        result(first, applied(alone))
        goes_on(leader, turn)
        late, later = line.call()
        with pytest.raises(ReplyLost):
            leader.throw(ReplyLost("cut"))
        with pytest.raises(ReplyLost):
            _failed(other, wait)
        assert goes_on(late, later) == line.made[-1:]

    def test_who_waits_in_vain_was_not_sent(self, line: Line) -> None:
        first, alone = line.call()
        second, _ = line.call()
        with pytest.raises(NotSent, match="did not end in time"):
            second.throw(TimeoutError())
        result(first, applied(alone))
        assert line.call()[1] == line.made[-1:]

    def test_who_waits_in_vain_for_a_batch_under_way_waits_longer_and_does_not_know(self, line: Line) -> None:
        first, alone = line.call()
        (leader, turn), (other, wait) = line.call(), line.call()
        result(first, applied(alone))
        batch = goes_on(leader, turn)
        longer = other.throw(TimeoutError())
        assert isinstance(longer, Wait)
        assert longer.until > wait.until
        with pytest.raises(ReplyLost):
            other.throw(TimeoutError())
        assert len(result(leader, applied(batch))) == 1

    def test_who_is_interrupted_when_its_turn_came_hands_it_on(self, line: Line) -> None:
        first, alone = line.call()
        (second, _), (third, turn) = line.call(), line.call()
        result(first, applied(alone))
        with pytest.raises(asyncio.CancelledError):
            second.throw(asyncio.CancelledError())
        assert goes_on(third, turn) == line.made[-1:]


def _told(caller: tuple[Steps, Any]) -> tuple[Steps, Any]:
    steps, wait = caller
    return steps, wait.future.result(0)


def _failed(steps: Steps, wait: Any) -> None:
    try:
        wait.future.result(0)
    except ReplyLost as error:
        steps.throw(error)


def test_batch_answers_and_tells_as_its_adds_do_one_by_one(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)
    backend, store = make_backend(), Store()
    told: list[Event] = []
    monkeypatch.setattr(backend.dispatcher, "post", told.extend)
    others: list[Command] = [Delete("n"), Write("n", 5), Write("n", b"text"), Expire("n", 1500), Write("n", 1, op=OP)]
    now, refused = START, 0
    for _ in range(150):
        now += chance.choice((0, 0, 3, 1000, 10**6))
        if chance.random() < 0.3:
            batch = [chance.choice(others)]
            assert backend.execute(batch, now=now) == store.apply(batch, now)[0]
            continue
        amounts = (1, -5, 0, 700, INT_MAX, INT_MIN, 2**62) if chance.random() < 0.3 else (1, -5, 0, 700)
        adds = [Add("n", chance.choice(amounts), 7, chance.randbytes(8)) for _ in range(chance.randint(2, MOST + 1))]
        told.clear()
        replies = backend.send(adds, now, 5.0)
        before = store.dump()
        expected = [store.apply([add], now) for add in adds]
        if any(reply.status is not Status.APPLIED for (reply,), _ in expected):
            store, refused = Store.load(before), refused + 1
            assert any(reply.status is not Status.APPLIED for reply in replies)
            assert told == []
        else:
            assert replies == [reply for (reply,), _ in expected]
            assert told == [event for _, events in expected for event in events]
        for add in adds:
            search = [Find("n", add.op)]
            assert backend.execute(search, now=now) == store.apply(search, now)[0]
    assert 20 < refused < 80


async def test_tasks_that_meet_each_have_their_own_reply(backend: PostgresBackend) -> None:
    await backend.aexecute([Write("n", 0)])
    replies = await asyncio.gather(*(backend.aexecute([Add("n", 1, op=new_op_id())]) for _ in range(100)))
    versions = [reply.version for (reply,) in replies]
    assert [reply.data for (reply,) in replies] == list(range(1, 101))
    assert versions == sorted(set(versions))


async def test_absent_one_begins_with_the_initial_value_of_the_first(backend: PostgresBackend) -> None:
    replies = await asyncio.gather(*(backend.aexecute([Add("n", 1, 10, new_op_id())]) for _ in range(5)))
    assert [reply.data for (reply,) in replies] == [11, 12, 13, 14, 15]


async def test_one_that_does_not_fit_is_refused_and_the_others_are_added(backend: PostgresBackend) -> None:
    await backend.aexecute([Write("n", INT_MAX - 2)])
    replies = await asyncio.gather(*(backend.aexecute([Add("n", each, op=new_op_id())]) for each in (0, 1, 5, 1)))
    assert [reply.status for (reply,) in replies] == [Status.APPLIED, Status.APPLIED, Status.OVERFLOW, Status.APPLIED]
    assert (await backend.aexecute([Read("n")]))[0].data == INT_MAX


async def test_lost_reply_to_a_batch_is_proven_by_each_op_id(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend()
    await backend.aexecute([Add("n", 1, op=b"warm up.")])
    await backend.asend([Add("n", 1, op=b"1st warm"), Add("n", 1, op=b"2nd warm")], None, 5.0)
    lost = through.drop_replies(matching=OP)
    ops = (b"first...", b"2nd.....", OP, b"4th.....")
    replies = await asyncio.gather(*(backend.aexecute([Add("n", 10, op=op)]) for op in ops))
    assert lost.is_set()
    assert [(reply.status, reply.data) for (reply,) in replies] == [(Status.APPLIED, 3 + 10 * n) for n in (1, 2, 3, 4)]
    assert (await backend.aexecute([Read("n")]))[0].data == 43


def test_threads_lose_none_and_see_their_own_sums(backend: PostgresBackend) -> None:
    def count(_: int) -> list[Reply]:
        return [backend.execute([Add("n", 1, op=new_op_id())])[0] for _ in range(50)]

    with ThreadPoolExecutor(16) as pool:
        lists = list(pool.map(count, range(16)))
    replies = sorted((reply for each in lists for reply in each), key=lambda reply: reply.version)
    assert [reply.data for reply in replies] == list(range(1, 801))
    assert all(each == sorted(each, key=lambda reply: reply.version) for each in lists)
