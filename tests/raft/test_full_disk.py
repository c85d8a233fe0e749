"""The leader cannot write any more: it stops and says why, the others go on, and it catches up when there is room."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.raft.clusters import Cluster, Process
from tests.raft.crews import Crew

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]

BURST = 30
PATIENCE = 30.0
ROOM = 16 << 20
"""Bytes of a node's file system."""
SMALL = 1 << 16
UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--user", "--map-root-user")


class SmallFiles:
    """No file of the process may grow: as when a quota is used up, the system refuses with another error than ENOSPC.
    Anybody may do this to a process of theirs."""

    def wrapper(self, directory: Path) -> Sequence[str]:
        return ()

    def fill(self, process: Process, directory: Path) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (SMALL, resource.RLIM_INFINITY))

    def free(self, process: Process, directory: Path) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class SmallFileSystem:
    """Each node has a file system of its own in memory, which nobody else sees, and which is really full."""

    def wrapper(self, directory: Path) -> Sequence[str]:
        directory.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size={ROOM} tmpfs {directory} && exec "$@"'
        return (*UNSHARE, "sh", "-c", mount, "sh")

    def fill(self, process: Process, directory: Path) -> None:
        with self._ballast(process, directory).open("wb", buffering=0) as file:
            assert file.write(bytes(ROOM)) < ROOM, "it took all"

    def free(self, process: Process, directory: Path) -> None:
        self._ballast(process, directory).unlink()

    def _ballast(self, process: Process, directory: Path) -> Path:
        return Path(f"/proc/{process.pid}/root{directory}/ballast")


def may_mount() -> bool:
    mount = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


DISKS: dict[str, SmallFiles | SmallFileSystem] = {"file size": SmallFiles()}
if may_mount():
    DISKS["file system"] = SmallFileSystem()


class SmallCluster(Cluster):
    disk: SmallFiles | SmallFileSystem

    def wrapper(self, node: int) -> Sequence[str]:
        return self.disk.wrapper(self.directory / f"node-{node}")


@pytest.fixture(params=DISKS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallCluster]:
    with SmallCluster(tmp_path) as cluster:
        cluster.timeout = 1.0
        cluster.disk = DISKS[request.param]
        cluster.start_all()
        yield cluster


def test_leader_whose_disk_is_full_is_replaced_and_comes_back_when_there_is_room(cluster: SmallCluster) -> None:
    wait_until(lambda: cluster.has_caught_up(3), "all to follow", PATIENCE)
    leader = cluster.leader()
    process, directory = cluster.alive[leader], cluster.directory / f"node-{leader}"
    with Crew(cluster, [cluster.addresses, cluster.addresses[::-1]]) as crew:
        crew.wait_for_more(BURST)
        mark = process.mark()
        cluster.disk.fill(process, directory)
        wait_until(lambda: cluster.leader() != leader, "another leader", PATIENCE)
        process.wait_for(
            lambda line: line.get("level") == "ERROR" and "DATA_DIR" in line["message"], "a word about it", after=mark
        )
        with pytest.raises(AssertionError, match=r"Unavailable.*DATA_DIR"):
            process.call("any", "get")
        crew.begin_episode()
        crew.wait_for_more(BURST, 0, 1)
        cluster.disk.free(process, directory)
        wait_until(lambda: cluster.has_caught_up(3), "the node to be back", PATIENCE)
        cluster.lead(leader)
        crew.begin_episode()
        crew.wait_for_more(BURST, 0, 1)
        crew.stop_and_check()
