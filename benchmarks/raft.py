"""How fast are three nodes of the embedded cluster, beside PySyncObj (whose journal is never synced to the disk)?"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from importlib.util import find_spec
from typing import Any, Self

from benchmarks import harness
from tests.servers import free_port

SEQUENCE = 1000
FLIGHT, WIDTH = 10_000, 64
FAILOVERS = 5


class Cluster:
    def __init__(self, system: str) -> None:
        self._system = system
        self._directory = tempfile.TemporaryDirectory(prefix="dref-bench-")
        self._ports = json.dumps([free_port() for _ in range(3)])
        self.nodes = [self._start(number) for number in range(3)]

    def _start(self, number: int) -> subprocess.Popen[str]:
        return harness.start("benchmarks.raft_node", self._system, str(number), self._ports, self._directory.name)

    def ask(self, number: int, line: str) -> Any:
        node = self.nodes[number]
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdin.write(line + "\n")
        return json.loads(node.stdout.readline())

    def leader(self) -> int:
        while True:
            for number in range(3):
                if self.ask(number, "leads") is True:
                    return number
            time.sleep(0.05)

    def fail_over(self) -> float:
        """Seconds from kill -9 of the leader to the next acknowledged write."""
        leader = self.leader()
        other = (leader + 1) % 3
        self.ask(other, "sequence 10")
        self.nodes[leader].kill()
        began = time.perf_counter()
        while not isinstance(self.ask(other, "sequence 1"), list):
            continue
        took = time.perf_counter() - began
        self.nodes[leader].communicate()
        self.nodes[leader] = self._start(leader)
        self.ask(leader, "sequence 10")
        return took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
            with contextlib.suppress(ValueError):
                node.communicate()
        self._directory.cleanup()


def main() -> None:
    systems = ["ours"] + (["pysyncobj", "pysyncobj in batches"] if find_spec("pysyncobj") else [])
    latencies: dict[str, list[float]] = {}
    rates: list[tuple[str, ...]] = []
    failovers: list[tuple[str, ...]] = []
    for system in systems:
        with Cluster(system) as cluster:
            leader = cluster.leader()
            for where, number in (("leader", leader), ("follower", (leader + 1) % 3)):
                cluster.ask(number, "sequence 100")
                latencies[f"{system}, on the {where}"] = cluster.ask(number, f"sequence {SEQUENCE}")
            turns = [cluster.ask(leader, f"flight {FLIGHT} {WIDTH}") for _ in range(3)]
            rates.append((system, f"{sorted(turns)[1]:,.0f}", f"{max(turns):,.0f}"))
            if system == "ours":
                took = sorted(cluster.fail_over() for _ in range(FAILOVERS))
                failovers.append((system, f"{took[len(took) // 2]:.2f}", f"{took[-1]:.2f}"))
    harness.percentiles("increments in sequence", latencies)
    harness.table((f"{WIDTH} increments in flight on the leader", "a second (median)", "best"), rates)
    harness.table(("leader killed to next acknowledged write", "median s", "worst s"), failovers)


if __name__ == "__main__":
    main()
