"""Who votes: ROLE "voter" insists on it, and those with "auto" make room."""

from __future__ import annotations

from pathlib import Path

import pytest

from dref_django.backends.raft import node
from dref_django.backends.raft.calls import Ask, Question
from dref_django.backends.raft.diagnosis import ask
from dref_django.protocol import Add
from tests.processes import wait_until
from tests.raft.one_process import PATIENCE, Nodes


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "COLLECT", 0.05)


def roles(nodes: Nodes) -> tuple[set[int], set[int]]:
    """The numbers of the voters and of the learners, as the leader sees them."""
    status, known = nodes.status(), nodes.numbers()
    return {known.get(each, -1) for each in status["voters"]}, {known.get(each, -1) for each in status["learners"]}


AUTO = {"VOTERS": 3, "BOOTSTRAP_EXPECT": 3}
VOTER = {**AUTO, "ROLE": "voter"}


def found(nodes: Nodes) -> None:
    for number in range(3):
        nodes.start(number)
    assert nodes.backends[0].execute([Add("n", 1)])[0].data == 1
    wait_until(lambda: roles(nodes) == ({0, 1, 2}, set()), "three voters", PATIENCE)


def test_voter_takes_the_place_of_one_that_does_not_insist(tmp_path: Path) -> None:
    with Nodes(tmp_path, AUTO, AUTO, AUTO, VOTER) as nodes:
        found(nodes)
        leader = nodes.status()["node"]
        nodes.start(3)
        wait_until(lambda: 3 in roles(nodes)[0] and len(roles(nodes)[1]) == 1, "the exchange", PATIENCE)
        voters, (learner,) = roles(nodes)
        assert len(voters) == 3
        assert nodes.status()["node"] == leader, "another one made room"
        assert nodes.backends[learner].execute([Add("n", 1)])[0].data == 2, "a learner serves all the same"


def test_leader_makes_room_when_nobody_else_can(tmp_path: Path) -> None:
    with Nodes(tmp_path, AUTO, VOTER, VOTER, VOTER) as nodes:
        found(nodes)
        own = nodes.id(0)
        if nodes.status()["node"] != own:
            ask(nodes.backends[0], Question(Ask.CHANGE, ("transfer", own)))
        wait_until(lambda: nodes.status()["node"] == own, "the transfer", PATIENCE)
        nodes.start(3)
        wait_until(lambda: roles(nodes) == ({1, 2, 3}, {0}), "the exchange", PATIENCE)
        assert nodes.backends[0].execute([Add("n", 1)])[0].data == 2


def test_more_founders_than_may_vote(tmp_path: Path) -> None:
    few = {"VOTERS": 1, "BOOTSTRAP_EXPECT": 3}
    with Nodes(tmp_path, few, few, few) as nodes:
        nodes.start_all()
        wait_until(lambda: tuple(map(len, roles(nodes))) == (1, 2), "one voter and two learners", PATIENCE)
        for number in range(3):
            assert nodes.backends[number].execute([Add("n", 1)])[0].data == number + 1


def test_node_that_may_found_a_cluster_alone_joins_the_one_that_is_there(tmp_path: Path) -> None:
    alone = {"BOOTSTRAP_EXPECT": 1}
    with Nodes(tmp_path, alone, alone) as nodes:
        assert nodes.start(0).execute([Add("n", 1)])[0].data == 1
        assert nodes.start(1).execute([Add("n", 1)])[0].data == 2
