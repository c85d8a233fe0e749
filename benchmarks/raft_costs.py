"""What does the embedded cluster cost beside time: bytes on the network, memory, a restart, elections while idle?

python -m benchmarks raft_costs            # all but the idle minutes
python -m benchmarks.raft_costs idle 10    # that nobody is elected in 10 idle minutes
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks import harness
from tests.servers import free_port

if TYPE_CHECKING:
    from dref_django.backends.raft.backend import RaftBackend

INCREMENTS: Final = 100_000
WIDTH: Final = 64
RESTARTS: Final = 5
CHANGES: Final = 200
IDLE_MINUTES: Final = 10.0
QUIET: Final = 5.0
PATIENCE: Final = 60.0
"""Seconds."""


# --- a process with a node ----------------------------------------------------------------------------------------


def node(options: str) -> None:
    """Says how long it took until it served, and what memory that cost; then does what it is told on stdin."""
    from dref_django.protocol import Read

    backend = configured(json.loads(options))
    gc.collect()
    before, began, idle = resident(), time.perf_counter(), time.process_time()
    backend.execute([Read("n")], timeout=PATIENCE)
    took, work = time.perf_counter() - began, time.process_time() - idle
    say({"seconds": took, "work": work, "bytes": resident() - before})
    for line in sys.stdin:
        kind, count = line.split()
        asyncio.run(fill(backend, kind, int(count)))
        say({"done": count})


async def fill(backend: RaftBackend, kind: str, count: int) -> None:
    """So many increments: all of one counter, or each of a counter of its own."""
    from dref_django.protocol import Add

    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await backend.aexecute([Add("n" if kind == "one" else f"name-{number}", 1)], timeout=PATIENCE)

    await asyncio.gather(*(some() for _ in range(WIDTH)))


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def configured(options: dict[str, Any]) -> RaftBackend:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(SECRET_KEY="benchmarks-benchmarks", INSTALLED_APPS=["dref_django"])
        django.setup()
    from dref_django.backends import Params
    from dref_django.backends.raft.backend import RaftBackend

    return RaftBackend(Params(options=options))


class Node:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self.start()

    def start(self) -> None:
        self._process = harness.start("benchmarks.raft_costs", "node", json.dumps(self._options))

    def told(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def fill(self, kind: str, count: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {count}\n")
        self.told()

    def kill(self) -> None:
        """kill -9: the next start finds what a crash leaves."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Cluster:
    """Nodes in processes of their own, which serve; of size 1: one that listens nowhere."""

    def __init__(self, size: int = 3) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dref-bench-")
        self._places = [f"127.0.0.1:{free_port()}" for _ in range(size)]
        self._options: list[dict[str, Any]] = [{"DATA_DIR": f"{self._directory.name}/{n}"} for n in range(size)]
        if size > 1:
            for each, place in zip(self._options, self._places, strict=True):
                each.update(NODES=self._places, PORT=int(place.rpartition(":")[2]))
        self.nodes = [Node(each) for each in self._options]

    def client(self, *places: str) -> RaftBackend:
        """A back end of this process that is no node, and asks one of these places, or any."""
        return configured({**self._options[0], "ROLE": "client", "NODES": places or self._places})

    def restart(self) -> list[dict[str, Any]]:
        """All nodes at once; what they say when they serve."""
        for each in self.nodes:
            each.kill()
        for each in self.nodes:
            each.start()
        return [each.told() for each in self.nodes]

    def __enter__(self) -> Self:
        for each in self.nodes:
            each.told()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.nodes:
            each.kill()
        self._directory.cleanup()


# --- restart and memory -------------------------------------------------------------------------------------------


def restarts() -> None:
    rows = []
    for kind, size, what in (
        ("one", 1, "one node, {} of one counter"),
        ("many", 1, "one node, {} of as many counters"),
        ("many", 3, "three nodes at once, {} of as many counters"),
    ):
        with Cluster(size) as cluster:
            empty = cluster.restart()[0]["bytes"]
            cluster.nodes[0].fill(kind, INCREMENTS)
            told = [each for _ in range(RESTARTS) for each in cluster.restart()]
        took = sorted(each["seconds"] for each in told)
        work = statistics.median(each["work"] for each in told)
        memory = statistics.median(each["bytes"] for each in told) - empty
        cells = (f"{statistics.median(took):.2f}", f"{took[0]:.2f}", f"{work:.2f}", f"{memory / INCREMENTS:,.0f}")
        rows.append((what.format(f"{INCREMENTS:,} increments"), *cells))
    head = ("killed and started again", "serves after s", "best s", "of them processor s", "bytes an increment")
    harness.table(head, rows)


# --- bytes --------------------------------------------------------------------------------------------------------


def traffic() -> None:
    """Of all links between three nodes, less what they say while nobody does anything."""
    from dref_django.backends.raft.diagnosis import leader_status

    with Cluster() as cluster:
        addresses = leader_status(cluster.client())["addresses"]
        leader = leader_status(cluster.client())["node"]
        follower = min(addresses.keys() - {leader})
        rows = [
            changes(cluster, where, addresses[node]) for where, node in (("leader", leader), ("follower", follower))
        ]
    harness.table(("bytes over all links", "an increment", "one field of a 100 KB dict"), rows)


def changes(cluster: Cluster, where: str, place: str) -> tuple[str, ...]:
    from dref_django import Counter, DRef, backends

    backend = cluster.client(place)
    backends.install("default", backend)
    counter, big = Counter(f"n-{where}"), DRef[dict[str, str]](f"big-{where}", default=dict)
    big.set({f"field-{number:04}": f"{number:084}" for number in range(1000)})
    numbers = iter(range(2 * CHANGES))

    def change() -> None:
        big.update(lambda old: {**old, "field-0500": f"changed {next(numbers)}"})

    return f"on the {where}", f"{sent(backend, counter.increment):,.0f}", f"{sent(backend, change):,.0f}"


def sent(backend: RaftBackend, work: Callable[[], object]) -> float:
    """Bytes a call."""
    from dref_django.backends.raft.diagnosis import leader_status, node_statuses

    def all_sent() -> tuple[float, int]:
        statuses = node_statuses(backend, leader_status(backend)["addresses"])
        return time.monotonic(), sum(status["sent_bytes"] for status in statuses.values())

    work()
    marks = [all_sent()]
    time.sleep(QUIET)
    marks.append(all_sent())
    for _ in range(CHANGES):
        work()
    marks.append(all_sent())
    (began, first), (quiet, second), (ended, third) = marks
    return (third - second - (second - first) / (quiet - began) * (ended - quiet)) / CHANGES


# --- nothing to do ------------------------------------------------------------------------------------------------


def idle(minutes: float) -> None:
    from dref_django.backends.raft.diagnosis import leader_status

    with Cluster() as cluster:
        client = cluster.client()
        before = leader_status(client)
        time.sleep(60 * minutes)
        after = leader_status(client)
    elections = after["term"] - before["term"]
    harness.table((f"{minutes:g} idle minutes", "elections"), [("three nodes, defaults", f"{elections}")])
    assert before["node"] == after["node"]
    assert not elections


def main() -> None:
    traffic()
    restarts()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["node", given]:
            node(given)
        case ["idle", *rest]:
            idle(float(rest[0]) if rest else IDLE_MINUTES)
        case _:
            main()
