"""Replicas of the example project without containers: what compose.yaml and Dockerfile say is run by processes, each
with an address of this machine's loopback for its node, found through one name that means all these addresses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.diagnosis import leader_status, node_statuses
from dref_django.exceptions import DRefError
from example_project.demo import Visitor
from tests.containers.recipe import ROOT, SERVICE, command, environment, service
from tests.processes import kill_family, wait_until
from tests.servers import free_port, janitor

PATIENCE = 30.0
NAMES = Path(__file__).parent / "names"


class Replica:
    """One "container". Its volume outlives its process, its address may be another each time."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.volume = stage.directory / f"node-{number}"
        self.web = free_port()
        self.address = ""
        self._stage = stage
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str) -> None:
        """Gives it an address, under which the service's name finds it, and a process."""
        assert self._process is None
        self.address = address
        self._stage.publish()
        with self._stage.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._here(command()), cwd=ROOT, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        janitor().watch_process(self._process.pid)

    def kill(self) -> None:
        """As a container that is killed: the name does not find it any more."""
        if self._process is not None:
            kill_family(self._process.pid)
            self._process.wait(PATIENCE)
            janitor().forget_process(self._process.pid)
            self._process = None
        self.address = ""
        self._stage.publish()

    def is_healthy(self) -> bool:
        """What the service's health check says."""
        assert self._process is not None
        assert self._process.poll() is None, self._stage.log.read_text()
        check = service()["healthcheck"]["test"]
        assert check[0] == "CMD"
        done = subprocess.run(self._here(check[1:]), env=self._environment(), capture_output=True, check=False)
        return done.returncode == 0

    def visitor(self) -> Visitor:
        visitor = Visitor(f"http://127.0.0.1:{self.web}/")
        visitor.load()
        return visitor

    def _environment(self) -> dict[str, str]:
        return self._stage.environment(
            DJANGO_SETTINGS_MODULE="tests.containers.settings",
            DREF_DATA_DIR=str(self.volume),
            DREF_TEST_BIND=self.address,
        )

    def _here(self, inside: list[str]) -> list[str]:
        """A container's command where its ports are not its own, and its programs are this Python's."""
        moved = [part.replace("0.0.0.0", "127.0.0.1").replace("8000", str(self.web)) for part in inside]
        return [sys.executable, *(["-m", *moved] if moved[0] != "python" else moved[1:])]


class Stage:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.port = free_port()
        self.replicas: list[Replica] = []
        self._names = directory / "names.json"
        self.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas:
            replica.kill()

    def publish(self) -> None:
        """Tells the name server where the replicas are."""
        fresh = self._names.with_suffix(".new")
        fresh.write_text(json.dumps({SERVICE: [replica.address for replica in self.replicas if replica.address]}))
        fresh.replace(self._names)

    def environment(self, name: str = SERVICE, **more: str) -> dict[str, str]:
        """Of a container, on this machine."""
        path = os.pathsep.join(filter(None, (str(NAMES), *sys.path)))
        here = {"DREF_DEMO_DIR": str(self.directory), "DREF_PORT": str(self.port), "PYTHONPATH": path}
        return {**os.environ, **environment(name), **here, "DREF_TEST_NAMES": str(self._names), **more}

    def migrate(self) -> None:
        (python, *arguments) = command("migrate")
        assert python == "python"
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=self.environment("migrate"), check=True)

    def start(self, *addresses: str) -> list[Replica]:
        """New replicas, once they are healthy."""
        fresh = [Replica(self, len(self.replicas) + number) for number in range(len(addresses))]
        self.replicas += fresh
        for replica, address in zip(fresh, addresses, strict=True):
            replica.start(address)
        for replica in fresh:
            wait_until(replica.is_healthy, f"{replica.address} to be healthy", PATIENCE)
        return fresh

    def status(self) -> Mapping[str, Any]:
        """What the leader says, and under "said" what each node says."""
        nodes = [f"{replica.address}:{self.port}" for replica in self.replicas if replica.address]
        secret = environment()["DREF_DEMO_SECRET"]
        options = {"NODES": nodes, "ROLE": "client", "SECRET": secret}
        backend = RaftBackend(Params(options=options))
        try:
            status = leader_status(backend)
            return {**status, "said": node_statuses(backend, status["addresses"])}
        except DRefError:
            return {"voters": [], "learners": [], "addresses": {}, "said": {}}
        finally:
            backend.close()
