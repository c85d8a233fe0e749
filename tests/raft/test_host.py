"""One node a machine, many processes: who hosts, who is a client, and what happens when the host ends."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.diagnosis import leader_status
from dref_django.backends.raft.lock import LONGEST_PATH, HostLock, socket_path
from dref_django.backends.raft.longevity import is_short_lived
from dref_django.exceptions import Unavailable
from dref_django.protocol import Add, Read, Write
from dref_django.testing.conformance import Listener
from tests.faults.driver import ROOT, run_python
from tests.processes import wait_until
from tests.raft.clusters import Cluster, Process
from tests.servers import janitor

PATIENCE = 20.0
BURST = 10


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one node, which nothing but this machine's processes can reach."""
    with Cluster(tmp_path, size=0) as cluster:
        yield cluster


def backend_at(directory: Path, **options: object) -> RaftBackend:
    return RaftBackend(Params("raft", secrets.token_hex(6), options={"DATA_DIR": str(directory), **options}))


class TestOneProcess:
    def test_what_was_written_is_there_after_a_restart(self, tmp_path: Path) -> None:
        backend = backend_at(tmp_path)
        backend.execute([Write("n", b"value")])
        version = backend.execute([Read("n")])[0].version
        backend.close()
        (reply,) = backend.execute([Read("n")])
        assert (reply.data, reply.version) == (b"value", version)
        backend.close()

    def test_two_back_ends_share_a_node_until_the_last_is_closed(self, tmp_path: Path) -> None:
        held = set(HostLock.held)  # by what other tests share
        one, other = backend_at(tmp_path), backend_at(tmp_path)
        one.execute([Add("n", 1)])
        assert other.attach() is one.attach()
        assert other.execute([Read("n")])[0].data is None, "each has a key prefix of its own"
        one.close()
        one.close()
        assert other.execute([Add("n", 1)])[0].data == 1
        other.close()
        assert HostLock.held == held

    def test_epoch_stays_the_same_over_restarts(self, tmp_path: Path) -> None:
        backend, epochs = backend_at(tmp_path), []
        for _ in range(2):
            listener = Listener(backend)
            listener.wait_until_up()
            epochs += listener.epochs
            listener.close()
            backend.close()
        assert epochs[0] == epochs[1] != ""

    def test_data_of_another_cluster_is_refused_with_a_reason(self, tmp_path: Path) -> None:
        backend = backend_at(tmp_path, CLUSTER="one")
        backend.execute([Add("n", 1)])
        backend.close()
        other = backend_at(tmp_path, CLUSTER="other")
        with pytest.raises(Unavailable, match="one"):
            other.execute([Add("n", 1)], timeout=1)
        other.close()

    def test_threads_of_one_process_lose_no_increment(self, tmp_path: Path) -> None:
        backend = backend_at(tmp_path)

        def count() -> None:
            for _ in range(50):
                backend.execute([Add("n", 1)])

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert backend.execute([Read("n")])[0].data == 400
        backend.close()

    def test_long_path_gets_a_socket_all_the_same(self, tmp_path: Path) -> None:
        directory = tmp_path / ("d" * LONGEST_PATH)
        assert len(os.fsencode(socket_path(directory))) <= LONGEST_PATH
        assert socket_path(directory) != socket_path(tmp_path / ("e" * LONGEST_PATH))
        backend = backend_at(directory)
        backend.execute([Add("n", 1)])
        assert socket_path(directory).exists()
        backend.close()
        assert not socket_path(directory).exists()


class TestSeveralProcesses:
    def test_host_that_is_killed_is_replaced_by_a_client_with_the_same_data(self, lone: Cluster) -> None:
        host = lone.start(0)
        host.call("first", "increment")
        clients = [lone.start(0), lone.start(0)]
        for number, client in enumerate(clients):
            client.ask("watch", name=f"load-{1 - number}", every=False)
            client.ask("load", name=f"load-{number}", way="increment")
            client.wait_for_progress(f"load-{number}", BURST)
        host.kill()
        for number, client in enumerate(clients):
            client.wait_for_progress(f"load-{number}", 5 * BURST)
        outcomes = [client.ask("stop", name=f"load-{number}") for number, client in enumerate(clients)]
        for number, outcome in enumerate(outcomes):
            assert set(outcome) == {"acked"}, "a retry over the change of hosts is applied once"
            assert clients[0].call(f"load-{number}", "get") == outcome["acked"]
            other = clients[1 - number]
            other.wait_for_event("change", "the last", name=f"load-{number}", value=outcome["acked"])
        assert clients[1].call("first", "get") == 1

    def test_host_that_ends_well_is_replaced_without_a_failure(self, lone: Cluster) -> None:
        host = lone.start(0)
        host.call("first", "increment")
        client = lone.start(0)
        client.ask("load", name="load", way="update")
        client.wait_for_progress("load", BURST)
        host.close()
        client.wait_for_progress("load", 5 * BURST)
        outcome = client.ask("stop", name="load")
        assert set(outcome) == {"acked"}
        assert client.call("load", "get") == outcome["acked"]

    def test_forked_child_is_a_client_of_its_parent_and_hosts_after_it(self, lone: Cluster) -> None:
        source = """
import os, sys, time
from dref_django import Counter
counter = Counter("n")
counter.increment()
read, write = os.pipe()
if os.fork() == 0:
    os.close(write)
    counter.increment()
    os.read(read, 1)                         # until the parent is gone
    print(counter.increment(), flush=True)
    os._exit(0)
os.close(read)
while counter.get() < 2:
    time.sleep(0.01)
"""
        assert run_python(source, lone.environment(0)).strip() == "3"

    def test_process_that_exits_with_a_node_ends_in_silence(self, lone: Cluster) -> None:
        source = "from dref_django import Counter, lock\nlock('l').__enter__()\nprint(Counter('n').increment())"
        assert run_python(source, lone.environment(0)).strip() == "1"
        assert run_python(source.replace("lock('l').__enter__()", ""), lone.environment(0)).strip() == "2"


class TestWhoHosts:
    @pytest.mark.parametrize(
        ("arguments", "short"),
        [
            (["manage.py", "migrate"], True),
            (["manage.py", "shell"], True),
            (["/srv/shop/manage.py", "dref", "list"], True),
            (["manage.py", "dref", "node"], False),
            (["manage.py", "runserver", "8000"], False),
            (["django-admin", "check"], True),
            (["/srv/venv/bin/gunicorn", "shop.wsgi"], False),
            (["/srv/venv/bin/celery", "worker"], False),
        ],
    )
    def test_commands_and_shells_are_short_lived(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str], short: bool
    ) -> None:
        monkeypatch.setattr(sys, "argv", arguments)
        assert is_short_lived() is short

    def test_only_one_has_the_lock_and_it_can_be_had_again(self, tmp_path: Path) -> None:
        lock = HostLock.take(tmp_path)
        assert lock is not None
        with lock:
            assert HostLock.take(tmp_path) is None
        again = HostLock.take(tmp_path)
        assert again is not None
        again.release()
        again.release()


class TestCommands:
    def run(self, cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "django", "dref", *arguments],
            cwd=ROOT, env=cluster.environment(0), capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def test_node_serves_other_processes_until_sigterm(self, lone: Cluster) -> None:
        command = [sys.executable, "-u", "-m", "django", "dref", "node"]
        with subprocess.Popen(
            command, cwd=ROOT, env=lone.environment(0), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as node:
            janitor().watch_process(node.pid)
            try:
                assert node.stdout is not None
                lines = iter(node.stdout.readline, "")
                assert any("this process hosts node" in line and "a leader" in line for line in lines)
                client = lone.start(0)
                assert client.call("n", "increment") == 1
                row = json.loads(self.run(lone, "cluster", "--json").stdout)
                assert (row["role"], row["lag"]) == ("leader", 0)
                node.send_signal(signal.SIGTERM)
                assert node.wait(PATIENCE) == 0
                assert client.call("n", "increment") == 2
            finally:
                if node.poll() is None:
                    node.kill()
                janitor().forget_process(node.pid)

    def members(self, cluster: Cluster) -> dict[str, Any]:
        done = self.run(cluster, "cluster", "--json")
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {row["node"]: row for row in rows}

    def test_members_of_a_running_cluster_are_shown_added_and_removed(self, tmp_path: Path) -> None:
        with Cluster(tmp_path) as cluster:
            processes = cluster.start_all()
            with socket.create_connection(("127.0.0.1", cluster.ports[1]), PATIENCE) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with suppress(ConnectionResetError):
                    assert stranger.recv(1) == b"", "a stranger is turned away without a word"
            rows = self.members(cluster)
            assert sorted(row["role"] for row in rows.values()) == ["leader", "voter", "voter"]
            assert len({row["term"] for row in rows.values()}) == 1
            refused = {int(row["address"].rpartition(":")[2]): row["refused"] for row in rows.values()}
            assert refused == {cluster.ports[0]: {}, cluster.ports[1]: {"garbage": 1}, cluster.ports[2]: {}}

            nobody = "0" * 16
            assert self.run(cluster, "cluster", "add", nobody).returncode == 0
            row = self.members(cluster)[nobody]
            assert (row["role"], row["refused"]) == ("learner", None)
            assert row["lag"] is None, "nobody knows what a node has that was never heard of"
            kill_all(processes[2:])
            (gone,) = [node for node, row in rows.items() if row["address"].endswith(f":{cluster.ports[2]}")]
            for node in (nobody, gone):
                done = self.run(cluster, "cluster", "remove", node)
                assert done.returncode == 0, done.stderr
            shown = self.run(cluster, "cluster").stdout
            assert "garbage 1" in shown
            assert set(rows) - {gone} == {line.split()[0] for line in shown.splitlines()[1:]}
            kill_all(processes[:2])

    def test_transfer_moves_leadership_and_what_makes_no_sense_is_refused(self, tmp_path: Path) -> None:
        with Cluster(tmp_path) as cluster:
            processes = cluster.start_all()
            status = cluster.status()
            other = min(set(status["voters"]) - {status["node"]})
            done = self.run(cluster, "cluster", "transfer", other)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: leader_status(cluster.client)["node"] == other, "the transfer", PATIENCE)
            for verb, node, reason in [
                ("add", other, "is a member already"),
                ("remove", "nobody", "nobody is not a member"),
                ("recover", "--yes", "stop all of them first"),
            ]:
                refused = self.run(cluster, "cluster", verb, node)
                assert refused.returncode == 1
                assert reason in refused.stderr
            kill_all(processes)

    def test_recover_makes_a_cluster_of_one_out_of_a_lost_majority(self, tmp_path: Path) -> None:
        with Cluster(tmp_path) as cluster:
            processes = cluster.start_all()
            for _ in range(3):
                processes[0].call("n", "increment")
            kill_all(processes)
            warned = self.run(cluster, "cluster", "recover")
            assert warned.returncode == 2
            assert "--yes" in warned.stderr
            done = self.run(cluster, "cluster", "recover", "--yes")
            assert done.returncode == 0, done.stderr
            survivor = cluster.start(0)
            assert survivor.call("n", "get") == 3
            assert len(cluster.status()["voters"]) == 1

    def test_another_back_end_is_refused(self, lone: Cluster) -> None:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        command = [sys.executable, "-m", "django", "dref", "cluster"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 1
        assert "this is for raft" in done.stderr


def kill_all(processes: list[Process]) -> None:
    for process in processes:
        process.kill()
