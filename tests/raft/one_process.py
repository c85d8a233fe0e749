"""Clusters whose nodes all live in this process: quick to start, and the tests can reach into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.diagnosis import leader_status, node_statuses
from dref_django.exceptions import DRefError
from tests.processes import wait_until
from tests.servers import free_port

PATIENCE = 20.0
SPACE = "space"


class Nodes:
    """`options`: of each node, its own; more than NODES, PORT and DATA_DIR."""

    def __init__(self, directory: Path, *options: dict[str, Any]) -> None:
        self._places = [f"127.0.0.1:{free_port()}" for _ in options]
        self._directory = directory
        self._options = options
        self.backends: dict[int, RaftBackend] = {}

    def start(self, number: int) -> RaftBackend:
        place = self._places[number]
        options = {"NODES": self._places, "PORT": int(place.rpartition(":")[2]), **self._options[number]}
        options["DATA_DIR"] = str(self._directory / f"node-{number}")
        backend = RaftBackend(Params(key_prefix=SPACE, timeout=PATIENCE, options=options))
        backend.attach()
        self.backends[number] = backend
        return backend

    def start_all(self) -> Self:
        """Returns when all of them answer."""
        for number in range(len(self._options)):
            self.start(number)
        wait_until(lambda: len(self.statuses()) == len(self._options), "all nodes", PATIENCE)
        return self

    def status(self) -> dict[str, Any]:
        """What the leader says."""
        return leader_status(next(iter(self.backends.values())))

    def statuses(self) -> dict[str, dict[str, Any]]:
        """What each node says, by its id."""
        try:
            return node_statuses(next(iter(self.backends.values())), self.status()["addresses"])
        except DRefError:
            return {}

    def numbers(self) -> dict[str, int]:
        """Of the nodes that answer, by their ids."""
        return {node: self._places.index(said["addresses"][node]) for node, said in self.statuses().items()}

    def id(self, number: int) -> str:
        """A node's; raises when it does not answer."""
        return next(node for node, each in self.numbers().items() if each == number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for backend in self.backends.values():
            backend.close()
