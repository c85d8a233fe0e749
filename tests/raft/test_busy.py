"""A leader whose process is busy goes on leading, at default timeouts: threads that burn CPU, a call with the GIL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.driver import program
from tests.raft.clusters import Cluster

pytestmark = pytest.mark.alone

BUSY = """
import ctypes, sys, threading, time
from dref_django import Counter, Unavailable
counter = Counter("busy")
for _ in range(4):                           # the other two may take their time to start
    try:
        counter.set(1)
        break
    except Unavailable:
        continue
print("serves", flush=True)
sys.stdin.readline()
holder = ctypes.PyDLL(None)                  # its calls keep the GIL
until = time.monotonic() + 10
def burn():
    while time.monotonic() < until:
        sum(range(1000))
threads = [threading.Thread(target=burn) for _ in range(8)]
for thread in threads:
    thread.start()
time.sleep(1)
holder.usleep(500_000)
for thread in threads:
    thread.join()
holder.usleep(500_000)
print(counter.increment(), flush=True)
sys.stdin.readline()
"""


def test_busy_process_keeps_leading_at_default_timeouts(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, program(BUSY, cluster.environment(0), limit=40) as busy:
        others = [cluster.start(node) for node in (1, 2)]
        for process in others:
            process.tell("call", name="other", kind="counter", method="increment", args=[], kwargs={})
        assert busy.stdin is not None
        assert busy.stdout is not None
        assert busy.stdout.readline() == "serves\n"
        if cluster.leader() != 0:
            cluster.lead(0)
        before = cluster.status()
        busy.stdin.write("go\n")
        busy.stdin.flush()
        assert busy.stdout.readline() == "2\n"
        after = cluster.status()
        assert (after["node"], after["term"]) == (before["node"], before["term"])
        busy.stdin.write("end\n")
        busy.stdin.flush()
        assert busy.wait(20) == 0
