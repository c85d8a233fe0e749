"""Clusters of real processes on 127.0.0.1, each a worker of the fault tests with a node of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.calls import Ask, Question
from dref_django.backends.raft.diagnosis import ask, leader_status
from dref_django.exceptions import DRefError
from dref_django.protocol import Data, Read
from tests.faults.driver import PATIENCE, Worker
from tests.processes import freeze, kill_family, send, thaw, wait_until
from tests.proxy import TcpProxy
from tests.servers import free_port, janitor

TIMEOUT = 5.0


class Process(Worker):
    """A worker that may also be killed."""

    is_dead = False

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        kill_family(self.pid)
        self._reap()

    def _reap(self) -> None:
        self.is_dead = True
        self._process.wait(PATIENCE)
        janitor().forget_process(self.pid)
        for reader in self._readers:
            reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def freeze(self) -> None:
        freeze(self.pid)

    def thaw(self) -> None:
        thaw(self.pid)

    def progress(self, name: str) -> int:
        """The acknowledged changes of a load, as far as it has reported them."""
        return max((line["acked"] for line in self.lines("progress") if line["name"] == name), default=0)

    def wait_for_progress(self, name: str, more: int = 1) -> int:
        """Until at least that much more was acknowledged; returns how much in all."""
        goal = self.progress(name) + more
        wait_until(lambda: self.progress(name) >= goal, f"{goal} acknowledged changes of {name}", PATIENCE)
        return self.progress(name)

    def close(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            super().close()


class BareNode(Process):
    """A process that is a node and takes no orders: it starts in half the time."""

    module = "tests.raft.bare_node"


class Cluster:
    """`size` nodes, each with a port and a DATA_DIR; `start` gives one a process, which it may share. Of size 0: one
    node that listens nowhere."""

    def __init__(self, directory: Path, size: int = 3, *, bare: bool = False) -> None:
        self._kind = BareNode if bare else Process
        self.ports = [free_port() for _ in range(size)]
        self.prefix = secrets.token_hex(6)
        self.directory = directory
        self.processes: list[Process] = []
        self.timeout = TIMEOUT
        """Seconds that an operation of a process that is started from now on takes at most."""
        self._client: RaftBackend | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for process in self.processes:
            if kind is not None and not process.is_dead:
                process.kill()
            process.close()
        if self._client is not None:
            self._client.close()

    def options(self, node: int, **more: Any) -> dict[str, Any]:
        place = {"DATA_DIR": str(self.directory / f"node-{node}")}
        if not self.ports:
            return {**place, **more}
        return {"NODES": self.addresses, "PORT": self.ports[node], **place, **more}

    def environment(self, node: int, **more: Any) -> dict[str, str]:
        setting: Mapping[str, Any] = {
            "BACKEND": "raft",
            "KEY_PREFIX": self.prefix,
            "TIMEOUT": self.timeout,
            "OPTIONS": self.options(node, **more),
        }
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "DREF_FAULT_BACKEND": json.dumps(setting),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONUNBUFFERED": "1",
        }

    def wrapper(self, node: int) -> Sequence[str]:
        """What its process is started by."""
        return ()

    def start(self, node: int, **more: Any) -> Process:
        self.processes.append(self._kind(self.environment(node, **more), self.wrapper(node)))
        return self.processes[-1]

    def start_all(self) -> list[Process]:
        """A process for each node, once the cluster serves."""
        processes = [self.start(node) for node in range(len(self.ports))]
        if self._kind is Process:
            for process in processes:
                process.tell("call", name="warm-up", kind="counter", method="increment", args=[], kwargs={})
        self.status()
        return processes

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if not process.is_dead]

    def kill_all(self) -> None:
        """kill -9 for all at once."""
        send(signal.SIGKILL, *(process.pid for process in self.alive))
        for process in self.alive:
            process.kill()

    # --- from outside -------------------------------------------------------------------------------------------

    @property
    def client(self) -> RaftBackend:
        """A back end of this process that is no node."""
        if self._client is None:
            options = self.options(0, ROLE="client")
            self._client = RaftBackend(Params("client", self.prefix, timeout=TIMEOUT, options=options))
        return self._client

    def status(self) -> dict[str, Any]:
        """What the leader says, once there is one."""
        found: list[dict[str, Any]] = []

        def asked() -> bool:
            try:
                found.append(leader_status(self.client))
            except DRefError:
                return False
            return True

        wait_until(asked, "a leader", PATIENCE)
        return found[-1]

    @property
    def addresses(self) -> list[str]:
        """Where the nodes know each other to be."""
        return [f"127.0.0.1:{port}" for port in self.ports]

    def leader(self) -> int:
        """The number of the node that leads."""
        status = self.status()
        return self.addresses.index(status["addresses"][status["node"]])

    def has_caught_up(self, size: int) -> bool:
        """Whether so many nodes are members and have the leader's log, but for what is on its way."""
        status = self.status()
        return len(status["voters"]) == size and all(
            peer["ready"] and peer["silent"] < 1 for peer in status["peers"].values()
        )

    def lead(self, number: int) -> None:
        """Hands leadership to a node."""
        status = self.status()
        (node,) = [id_ for id_, address in status["addresses"].items() if address == self.addresses[number]]
        ask(self.client, Question(Ask.CHANGE, ("transfer", node)))
        wait_until(lambda: self.leader() == number, f"node {number} to lead", PATIENCE)

    def value(self, name: str) -> Data | None:
        (reply,) = self.client.execute([Read(name)])
        return reply.data


class GatedCluster(Cluster):
    """Bare nodes that reach each other through proxies only, so that what one says to another can be cut, one way."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, bare=True)
        self._gates = [TcpProxy("127.0.0.1", port) for port in self.ports]

    def __enter__(self) -> Self:
        for gate in self._gates:
            gate.start()
        return super().__enter__()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        for gate in self._gates:
            gate.close()

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{gate.port}" for gate in self._gates]

    def options(self, node: int, **more: Any) -> dict[str, Any]:
        return super().options(node, ADVERTISE=self.addresses[node], **more)

    def cut(self, speaker: int, listener: int) -> None:
        """From now on nothing that `speaker` says reaches `listener`, whichever of the two has dialled."""
        said = [address.encode() for address in self.addresses]
        self._gates[listener].swallow(said[speaker], replies=False)
        self._gates[speaker].swallow(said[listener], requests=False)

    def heal(self) -> None:
        for gate in self._gates:
            gate.heal()


class ClusterServer:
    """Three nodes as one server: its port leads to one of them, and it is killed, frozen and started as a whole."""

    def __init__(self, directory: Path) -> None:
        self.cluster = Cluster(directory)
        self._door = TcpProxy("127.0.0.1", self.cluster.ports[0])

    def __enter__(self) -> Self:
        self._door.start()
        self.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._door.close()
        self.cluster.__exit__(kind, error, traceback)

    @property
    def port(self) -> int:
        return self._door.port

    @property
    def url(self) -> str:
        return f"raft://127.0.0.1:{self.port}/"

    @property
    def connections(self) -> int:
        """Those of clients."""
        return self._door.connections

    def options(self, port: int | None = None) -> dict[str, Any]:
        """OPTIONS of a client that finds the cluster at this port."""
        return {**self.cluster.options(0, ROLE="client"), "NODES": [f"127.0.0.1:{port or self.port}"]}

    def running(self) -> bool:
        return bool(self.cluster.alive)

    def start(self) -> None:
        self.cluster.start_all()

    def kill(self) -> None:
        self.cluster.kill_all()

    def pause(self) -> None:
        for process in self.cluster.alive:
            process.freeze()

    def resume(self) -> None:
        for process in self.cluster.alive:
            process.thaw()
