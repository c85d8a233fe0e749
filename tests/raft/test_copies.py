"""What travels between nodes when a value is large: the change, and not the value; and reads are none the older."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from dref_django.backends.raft import copies
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.calls import Answer, Answered, Ask, Question
from dref_django.backends.raft.copies import WORTH, Copies
from dref_django.backends.raft.diagnosis import leader_status, node_statuses
from dref_django.backends.raft.machine import Kind, Machine, Request, batch_entry, plain_entry
from dref_django.backends.raft.wire import decode_replies, encode_commands
from dref_django.protocol import Read, Reply, Splice, Write
from tests.raft.one_process import SPACE, Nodes

SIZE = 100_000
CHANGES = 20


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[RaftBackend]]:
    """Three nodes, the leader first."""
    with Nodes(tmp_path, {}, {}, {}).start_all() as nodes:
        leader = nodes.numbers()[nodes.status()["node"]]
        yield [nodes.backends[number % 3] for number in range(leader, leader + 3)]


def sent_bytes(backend: RaftBackend) -> int:
    statuses = node_statuses(backend, leader_status(backend)["addresses"])
    assert len(statuses) == 3
    return sum(status["sent_bytes"] for status in statuses.values())


@pytest.mark.parametrize("where", [0, 1], ids=["leader", "follower"])
def test_changing_a_part_of_a_large_value_sends_the_part(nodes: list[RaftBackend], where: int) -> None:
    backend = nodes[where]
    value = bytes(SIZE)
    (written,) = backend.execute([Write("big", value)])
    before = sent_bytes(backend)
    for number in range(CHANGES):
        (read,) = backend.execute([Read("big")])
        assert read == Reply(read.status, value, written.version, None, True)
        change = Splice(number, number + 1, b"x")
        value = value[:number] + b"x" + value[number + 1 :]
        (written,) = backend.execute([Write("big", change, read.version)])
    assert sent_bytes(backend) - before < CHANGES * SIZE / 20, "far less than the value, and much was said meanwhile"


def test_follower_reads_what_the_leader_has_just_written(nodes: list[RaftBackend]) -> None:
    for number in range(CHANGES):
        value = bytes([number]) * 2 * WORTH
        nodes[0].execute([Write("big", value)])
        for follower in nodes[1:]:
            assert follower.execute([Read("big")])[0].data == value


class Follower:
    """Stands for a driver and for its relay to a leader, which has applied 7 entries by the time 1,000."""

    leader = "the leader"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.raft = SimpleNamespace(term=3)
        self.asked: list[Ask] = []
        self.mark: object = (7, 1000, b"")
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.catch_up: Callable[[], None] = lambda: None

    def ask(self, leader: str, question: Question, answered: Answered) -> None:
        self.asked.append(question.ask)
        if question.ask is Ask.MARK:
            assert question.body[-1] == self.raft.term, "who asks confirms the leader of that term"
        answered(Answer.DONE, msgpack.packb(self.mark) if question.ask is Ask.MARK else b"whole")

    def after(self, index: int, callback: Callable[[], None]) -> None:
        assert index == 7
        self.catch_up = callback

    def read(self, name: str) -> None:
        question = Question(Ask.QUERY, (SPACE, None, encode_commands([Read(name)])))
        asking: Any = Copies(self, self)  # type: ignore[arg-type]
        asking.ask(question, lambda answer, body: self.answer.set_result(body))


def machine(ttl: int | None) -> Machine:
    made = Machine()
    made.apply(1, plain_entry(Kind.OPEN, 100))
    request = Request(1, 1, 1, SPACE, encode_commands([Write("n", b"value", None, ttl)]))
    made.apply(2, batch_entry(100, [request]))
    return made


class TestFollower:
    async def test_looks_once_it_has_caught_up(self) -> None:
        follower = Follower(machine(None))
        follower.read("n")
        assert not follower.answer.done()
        follower.catch_up()
        (reply,) = decode_replies(await follower.answer)
        assert reply.data == b"value"
        assert follower.asked == [Ask.MARK]

    async def test_asks_for_all_of_it_when_it_stays_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copies, "PATIENCE", 0)
        follower = Follower(machine(None))
        follower.read("n")
        assert await follower.answer == b"whole"
        follower.catch_up()
        assert follower.asked == [Ask.MARK, Ask.QUERY]

    async def test_sees_nothing_run_out_that_the_log_does_not_know_of(self) -> None:
        follower = Follower(machine(500))
        follower.read("n")
        follower.catch_up()
        assert await follower.answer == b"whole", "by the leader's time it is over, in this node's log it is not"

    @pytest.mark.parametrize("mark", [7, (7, 1000), ("7", 1000, b""), (7, None, b""), (7, 1000, "text")])
    async def test_answers_once_when_a_mark_is_none(self, mark: object) -> None:
        follower = Follower(machine(None))
        follower.mark = mark
        with pytest.raises(ValueError, match="no answer to a query"):
            follower.read("n")
        assert await follower.answer == b""

    async def test_collects_no_more_looks_than_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copies, "MAX_LOOKS", 0)
        follower = Follower(machine(None))
        follower.read("n")
        assert await follower.answer == b"whole"
