"""Nodes that are cut from each other, both ways or one, under load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.calls import Ask, Question
from dref_django.backends.raft.diagnosis import ask
from dref_django.protocol import Add
from tests.processes import wait_until
from tests.raft.clusters import GatedCluster
from tests.raft.crews import Crew, client_options

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]

BURST = 30
PATIENCE = 30.0
TIMEOUT = 1.0
ELECTION = 12.0
"""Seconds: twice what it takes, and fewer than after which a silent connection is closed, which helps out."""


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedCluster]:
    with GatedCluster(tmp_path_factory.mktemp("gated")) as cluster:
        cluster.start_all()
        yield cluster


@pytest.fixture
def cluster(gated: GatedCluster) -> GatedCluster:
    """Healed."""
    gated.heal()
    wait_until(lambda: gated.has_caught_up(3), "all nodes to follow", PATIENCE)
    return gated


def doors(cluster: GatedCluster) -> list[list[str]]:
    """For each node the place of a client that reaches this one, and whom nobody cuts."""
    return [[f"127.0.0.1:{port}"] for port in cluster.ports]


@pytest.mark.parametrize("ways", ["both", "out", "in"])
def test_leader_that_is_cut_off_is_replaced_and_comes_back(cluster: GatedCluster, ways: str) -> None:
    leader = cluster.leader()
    others = [node for node in range(3) if node != leader]
    with Crew(cluster, doors(cluster), timeout=TIMEOUT) as crew:
        crew.wait_for_more(BURST, 0, 1, 2)
        for other in others:
            if ways in ("both", "out"):
                cluster.cut(leader, other)
            if ways in ("both", "in"):
                cluster.cut(other, leader)
        crew.begin_episode()
        followed = own_status(cluster, others[0])["leader"]
        wait_until(lambda: own_status(cluster, others[0])["leader"] not in ("", followed), "another leader", ELECTION)
        crew.wait_for_more(BURST, *others)
        cluster.heal()
        crew.begin_episode()
        crew.wait_for_more(BURST, 0, 1, 2)
        crew.stop_and_check()


@pytest.mark.parametrize("ways", ["both", "in"])
def test_follower_that_does_not_hear_the_leader_disturbs_nobody(cluster: GatedCluster, ways: str) -> None:
    leader, term = cluster.leader(), cluster.status()["term"]
    deaf, other = [node for node in range(3) if node != leader]
    with Crew(cluster, doors(cluster), timeout=TIMEOUT) as crew:
        crew.wait_for_more(BURST, 0, 1, 2)
        cluster.cut(leader, deaf)
        if ways == "both":
            cluster.cut(deaf, leader)
        wait_until(lambda: own_status(cluster, deaf)["leader"] == "", "the follower to miss its leader", PATIENCE)
        crew.wait_for_more(BURST, leader, other)
        cluster.heal()
        crew.wait_for_more(BURST, 0, 1, 2)
        crew.stop_and_check()
    assert (cluster.leader(), cluster.status()["term"]) == (leader, term)


def test_client_leaves_a_node_that_is_cut_off(cluster: GatedCluster) -> None:
    places = [door for (door,) in doors(cluster)]
    with closing(client(cluster, places, timeout=PATIENCE)) as backend:
        node = ask(backend, Question(Ask.STATUS))["node"]
        cut_off = cluster.addresses.index(cluster.status()["addresses"][node])
        for other in {0, 1, 2} - {cut_off}:
            cluster.cut(cut_off, other)
            cluster.cut(other, cut_off)
        with closing(client(cluster, [place for place in places if place != places[cut_off]])) as another:
            wait_until(lambda: leads(another, node), "the others to have a leader", PATIENCE)
        (reply,) = backend.execute([Add("n", 1)])
        assert reply.data == 1, "applied once, and not refused"


def leads(backend: RaftBackend, node: str) -> bool:
    return ask(backend, Question(Ask.STATUS))["leader"] not in ("", node)


def client(cluster: GatedCluster, places: Sequence[str], timeout: float = TIMEOUT) -> RaftBackend:
    options = client_options(cluster, places)
    return RaftBackend(Params("client", cluster.prefix, timeout=timeout, options=options))


def own_status(cluster: GatedCluster, node: int) -> dict[str, Any]:
    """What this node says of itself."""
    with closing(client(cluster, doors(cluster)[node])) as witness:
        status: dict[str, Any] = ask(witness, Question(Ask.STATUS))
        return status
