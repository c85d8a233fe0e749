"""Three processes, three nodes, seen by these processes themselves: what was acknowledged stays, nothing is applied
twice, whoever dies or freezes. `test_crashes.py` has the same seen from outside, over and over again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.raft.clusters import Cluster, Process

pytestmark = pytest.mark.alone

ROUNDS = 2
PATIENCE = 20.0
BURST = 10  # a worker reports every so many


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def begin_loads(processes: list[Process]) -> None:
    for place, process in enumerate(processes):
        process.ask("load", name=f"load-{place}", way="increment")
    for place, process in enumerate(processes):
        process.wait_for_progress(f"load-{place}", BURST)


def check_stopped(cluster: Cluster, process: Process, name: str) -> None:
    """Ends a load; every acknowledged increment is there once, and beyond them at most what nobody knows of."""
    outcome = process.ask("stop", name=name)
    stored = cluster.value(name)
    assert isinstance(stored, int)
    assert outcome["acked"] <= stored <= outcome["acked"] + outcome.get("OutcomeUnknown", 0), outcome
    assert set(outcome) <= {"acked", "OutcomeUnknown", "Unavailable"}


def test_leader_killed_under_load_loses_nothing_and_nothing_is_applied_twice(cluster: Cluster) -> None:
    processes = cluster.start_all()
    begin_loads(processes)
    for _ in range(ROUNDS):
        leader = cluster.leader()
        name = f"load-{leader}"
        processes[leader].kill()
        for place, process in enumerate(processes):
            if place != leader:
                process.wait_for_progress(f"load-{place}", BURST)
        acked, stored = processes[leader].progress(name), cluster.value(name)
        assert isinstance(stored, int)
        assert acked <= stored <= acked + BURST
        processes[leader] = cluster.start(leader)
        processes[leader].call(f"load-{leader}", "set", 0)
        processes[leader].ask("load", name=name, way="increment")
        processes[leader].wait_for_progress(name, BURST)
    for place, process in enumerate(processes):
        check_stopped(cluster, process, f"load-{place}")


def test_frozen_leader_is_replaced_and_reads_the_truth_when_it_thaws(cluster: Cluster) -> None:
    processes = cluster.start_all()
    first = cluster.leader()
    processes[first].call("value", "set", 1)
    processes[first].freeze()
    others = [process for place, process in enumerate(processes) if place != first]
    try:
        wait_until(lambda: cluster.leader() != first, "another leader", PATIENCE)
        assert others[0].call("value", "increment") == 2
    finally:
        processes[first].thaw()
    assert processes[first].call("value", "get") == 2
    assert processes[first].call("value", "increment") == 3


def test_minority_neither_writes_nor_reads(cluster: Cluster) -> None:
    processes = cluster.start_all()
    processes[1].call("value", "set", 1)
    cluster.timeout = 1.0
    processes[0].kill()
    processes[0] = cluster.start(0)
    processes[0].call("value", "get")
    for process in processes[1:]:
        process.kill()
    for method in ("increment", "get"):
        with pytest.raises(AssertionError, match=r"Unavailable|OutcomeUnknown"):
            processes[0].call("value", method)
    processes[1] = cluster.start(1)
    assert processes[1].call("value", "get") in (1, 2)


def test_process_that_ends_hands_leadership_over_first(cluster: Cluster) -> None:
    processes = cluster.start_all()
    before = cluster.status()
    leader = cluster.leader()
    others = [place for place in range(3) if place != leader]
    begin_loads([processes[place] for place in others])
    processes[leader].close()
    after = cluster.status()
    assert after["node"] != before["node"]
    assert after["term"] == before["term"] + 1, "an election that was asked for takes one term"
    for number, place in enumerate(others):
        outcome = processes[place].ask("stop", name=f"load-{number}")
        assert set(outcome) == {"acked"}


def test_changes_on_one_node_reach_watchers_on_all(cluster: Cluster) -> None:
    processes = cluster.start_all()
    for process in processes:
        process.ask("watch", name="watched", every=True)
    for number in range(1, 10):
        processes[number % 3].call("watched", "increment")
    for process in processes:
        process.wait_for_event("change", "the last change", name="watched", value=9)
        values = [line["value"] for line in process.lines("change")]
        assert values == sorted(values)


def test_node_without_its_disk_comes_back_as_a_new_member(cluster: Cluster) -> None:
    processes = cluster.start_all()
    processes[0].call("value", "set", 7)
    before = set(cluster.status()["voters"])
    processes[2].kill()
    node = cluster.directory / "node-2"
    node.rename(cluster.directory / "lost")
    processes[2] = cluster.start(2)
    assert processes[2].call("value", "get") == 7
    wait_until(lambda: len(cluster.status()["voters"]) == 4, "a fourth voter", PATIENCE)
    assert before < set(cluster.status()["voters"])
