"""Requests that wait together share an entry of the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgpack
import pytest

from dref_django.backends.raft.driver import ignore
from dref_django.backends.raft.machine import Kind, Request, plain_entry
from dref_django.backends.raft.proposals import JOINT_BYTES, JOINT_REQUESTS, Proposal, entry_of, grouped
from dref_django.protocol import Add
from tests.raft.one_process import Nodes


def request(number: int, size: int = 10) -> Proposal:
    return Proposal(ignore, Request(1, number, 1, "space", b"x" * size))


def entry() -> Proposal:
    return Proposal(ignore, entry=plain_entry(Kind.OPEN, 7))


def shape(*proposals: Proposal) -> list[int]:
    groups = list(grouped(proposals))
    assert [proposal for group in groups for proposal in group] == list(proposals)
    return [len(group) for group in groups]


class TestGroups:
    def test_requests_go_together_and_entries_of_their_own_keep_their_place(self) -> None:
        assert shape() == []
        assert shape(request(1)) == [1]
        assert shape(request(1), request(2), request(3)) == [3]
        assert shape(entry(), request(1), request(2), entry(), entry(), request(3)) == [1, 2, 1, 1, 1]

    def test_are_bounded_in_number(self) -> None:
        assert shape(*(request(number) for number in range(2 * JOINT_REQUESTS + 1))) == [100, 100, 1]

    @pytest.mark.parametrize(
        ("sizes", "groups"),
        [
            ([JOINT_BYTES, 1, 1], [1, 2]),
            ([1, JOINT_BYTES, 1], [1, 1, 1]),
            ([1, JOINT_BYTES + 1, 1], [1, 1, 1]),
            ([JOINT_BYTES - 1, 1, 1], [2, 1]),
        ],
    )
    def test_are_bounded_in_bytes(self, sizes: list[int], groups: list[int]) -> None:
        assert shape(*(request(number, size) for number, size in enumerate(sizes))) == groups

    def test_become_entries(self) -> None:
        kind, now, *shorts = msgpack.unpackb(entry_of([request(1), request(2)], 7), use_list=False)
        assert (kind, now) == (Kind.BATCH, 7)
        assert [Request.of(short).number for short in shorts] == [1, 2]
        assert entry_of([entry()], 9) == plain_entry(Kind.OPEN, 7)


async def test_calls_of_many_tasks_need_few_entries_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    with Nodes(tmp_path, {}) as nodes:
        backend = (await asyncio.to_thread(nodes.start_all)).backends[0]
        await backend.aexecute([Add("n", 1)])
        before = (await asyncio.to_thread(nodes.status))["last"]
        answers = await asyncio.gather(*(backend.aexecute([Add(f"n{task}", task)]) for task in range(300)))
        after = (await asyncio.to_thread(nodes.status))["last"]
    assert [reply.data for (reply,) in answers] == list(range(300))
    assert after - before < 100
