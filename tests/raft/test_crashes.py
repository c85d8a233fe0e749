"""Nodes that are killed and frozen under load: what clients were told is linearizable, and locks have one holder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from dref_django.protocol import Read, Write
from tests.processes import wait_until
from tests.raft.clusters import Cluster
from tests.raft.crews import Crew, client_options

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

RESTARTS = 20
BURST = 30
PATIENCE = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, bare=True) as cluster:
        cluster.start_all()
        yield cluster


def everywhere(cluster: Cluster) -> list[list[str]]:
    """Places of two clients; each goes to any node."""
    return [cluster.addresses, cluster.addresses[::-1]]


def test_all_nodes_killed_at_once_again_and_again(cluster: Cluster) -> None:
    with Crew(cluster, everywhere(cluster)) as crew:
        for _ in range(RESTARTS):
            crew.begin_episode()
            crew.wait_for_more(BURST)
            cluster.kill_all()
            cluster.start_all()
        crew.wait_for_more(BURST)
        crew.stop_and_check()
    assert cluster.status()["snapshot"] > 0


def test_each_node_killed_in_turn(cluster: Cluster) -> None:
    processes = cluster.alive
    with Crew(cluster, everywhere(cluster)) as crew:
        for node in range(3):
            crew.begin_episode()
            crew.wait_for_more(BURST, 0, 1)
            processes[node].kill()
            crew.wait_for_more(BURST, 0, 1)
            cluster.start(node)
            wait_until(lambda: cluster.has_caught_up(3), "the node to be back", PATIENCE)
        crew.stop_and_check()


def test_frozen_leader(cluster: Cluster) -> None:
    places = [[address] for address in cluster.addresses]
    leader = cluster.leader()
    others = [node for node in range(3) if node != leader]
    params = Params("bystander", cluster.prefix, timeout=20, options=client_options(cluster, places[leader]))
    with Crew(cluster, places, timeout=1.0) as crew, closing(RaftBackend(params)) as bystander:
        bystander.execute([Write("value", b"old")])
        crew.wait_for_more(BURST, 0, 1, 2)
        cluster.alive[leader].freeze()
        wait_until(lambda: cluster.leader() != leader, "another leader", PATIENCE)
        cluster.client.execute([Write("value", b"new")])
        crew.begin_episode()
        crew.wait_for_more(BURST, *others)
        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(bystander.execute, [Read("value")]) for _ in range(8)]
            cluster.alive[leader].thaw()
            assert {read.result()[0].data for read in reads} == {b"new"}
        crew.wait_for_more(BURST, 0, 1, 2)
        crew.stop_and_check()
