"""The recipe's replicas, as processes behind one name: they are one cluster, and stay one when they come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.replicas import PATIENCE, Replica, Stage
from tests.processes import wait_until

pytestmark = pytest.mark.alone


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        stage.migrate()
        yield stage


def say(replica: Replica, text: str) -> None:
    replica.visitor().post("say/", text=text)


def reads(replica: Replica, text: str) -> bool:
    return text in replica.visitor().load()


def test_replicas_behind_one_name_are_one_cluster(stage: Stage) -> None:
    replicas = stage.start("127.0.0.2", "127.0.0.3", "127.0.0.4")
    founded = stage.status()
    assert len(founded["voters"]) == 3
    assert {said["leader"] for said in founded["said"].values()} == {founded["node"]}
    assert set(founded["said"]) == set(founded["voters"])
    say(replicas[0], "hello, all of you")
    assert all(reads(replica, "hello, all of you") for replica in replicas)

    killed = replicas[2]
    killed.kill()
    say(replicas[1], "one of us is gone")
    killed.start("127.0.0.5")
    wait_until(killed.is_healthy, "the killed replica to be healthy again", PATIENCE)
    assert reads(killed, "one of us is gone")
    returned = stage.status()
    assert returned["voters"] == founded["voters"], "with its volume it is the same node, at whichever address"
    assert f"127.0.0.5:{stage.port}" in returned["addresses"].values()

    (fourth,) = stage.start("127.0.0.6")
    assert reads(fourth, "one of us is gone"), "it joined, and founded nothing"
    wait_until(lambda: len(stage.status()["learners"]) == 1, "the fourth to be a learner", PATIENCE)
    assert stage.status()["voters"] == founded["voters"]
