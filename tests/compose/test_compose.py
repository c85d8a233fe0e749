"""The recipe on a real container engine. The tests follow each other on one cluster, whichever comes first."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.compose.engine import PATIENCE, Compose, Replica, run
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(600)  # the first of them builds the image


@pytest.fixture(scope="module")
def project() -> Iterator[Compose]:
    with Compose() as project:
        yield project


@pytest.fixture
def replicas(project: Compose) -> list[Replica]:
    """Those that run, which agree on one leader."""
    found = project.replicas()
    wait_until(lambda: agree(found), "the replicas to agree", PATIENCE)
    return found


@pytest.fixture
def name() -> str:
    return f"counter-{uuid4().hex[:8]}"


def agree(replicas: list[Replica]) -> bool:
    """Whether each sees all of them at their addresses, following the same leader."""
    views = [sorted((row["address"], row["role"]) for row in replica.members()) for replica in replicas]
    addresses = sorted(replica.address for replica in replicas)
    return all(view == views[0] for view in views) and [address for address, _ in views[0]] == addresses


def leader_of(replicas: list[Replica]) -> Replica:
    rows = replicas[0].members()
    (address,) = [row["address"] for row in rows if row["role"] == "leader"]
    (found,) = [replica for replica in replicas if replica.address == address]
    return found


def nodes(replica: Replica) -> set[str]:
    return {row["node"] for row in replica.members()}


def test_what_one_replica_writes_all_read(replicas: list[Replica], name: str) -> None:
    for count, replica in enumerate(replicas, start=1):
        assert replica.dref("add", name, "1") == str(count)
    assert {replica.dref("get", name) for replica in replicas} == {str(len(replicas))}


def test_what_is_said_on_one_page_is_on_all(replicas: list[Replica], name: str) -> None:
    visitors = [replica.visitor() for replica in replicas]
    visitors[0].post("say/", text=name)
    assert all(name in visitor.load() for visitor in visitors)


def test_killed_leader_is_followed_and_comes_back_as_itself(replicas: list[Replica], name: str) -> None:
    leader, members = leader_of(replicas), nodes(replicas[0])
    others = [replica for replica in replicas if replica is not leader]
    leader.kill()
    assert others[0].dref("add", name, "1") == "1"
    leader.start()
    assert leader.dref("add", name, "1") == "2"
    assert nodes(leader) == members


def test_leader_without_network_is_followed_and_rejoins(project: Compose, replicas: list[Replica], name: str) -> None:
    leader, members = leader_of(replicas), nodes(replicas[0])
    others = [replica for replica in replicas if replica is not leader]
    run("docker", "network", "disconnect", project.network, leader.container)
    assert others[0].dref("add", name, "1") == "1"
    run("docker", "network", "connect", project.network, leader.container)
    project.wait_for(len(replicas))
    assert leader.dref("add", name, "1") == "2"
    assert nodes(leader) == members


def test_one_more_replica_joins(project: Compose, replicas: list[Replica], name: str) -> None:
    replicas[0].dref("add", name, "1")
    members = nodes(replicas[0])
    project.scale(len(replicas) + 1)
    (fresh,) = [it for it in project.replicas() if it.container not in {replica.container for replica in replicas}]
    assert fresh.dref("add", name, "1") == "2"
    wait_until(lambda: len(nodes(fresh)) == len(members) + 1, "the new replica to be a member", PATIENCE)
    assert members < nodes(fresh)


def test_stopped_and_started_project_has_all_it_had(project: Compose, replicas: list[Replica], name: str) -> None:
    replicas[0].dref("add", name, "1")
    members = nodes(replicas[0])
    project.run("stop")
    project.run("start")
    project.wait_for(len(replicas))
    again = project.replicas()
    wait_until(lambda: agree(again), "the replicas to agree", PATIENCE)
    assert again[0].dref("add", name, "1") == "2"
    assert nodes(again[0]) == members
