"""compose.yaml on a container engine: a project of its own, its replicas, and what is done to them."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Self
from uuid import uuid4

from example_project.demo import Visitor
from tests.containers.recipe import ROOT, SERVICE
from tests.processes import wait_until

PATIENCE = 60.0


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """What it prints. Raises `AssertionError` with both outputs when it fails."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Replica:
    """A container of the service, by its id."""

    def __init__(self, container: str) -> None:
        self.container = container

    def dref(self, *arguments: str) -> str:
        """`manage.py dref` inside."""
        return run("docker", "exec", self.container, "python", "-m", "django", "dref", *arguments).strip()

    def members(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.dref("cluster", "--json").splitlines()]

    @property
    def address(self) -> str:
        (network,) = self._inspect("NetworkSettings.Networks").values()
        return f"{network['IPAddress']}:8082"

    @property
    def is_healthy(self) -> bool:
        return bool(self._inspect("State.Health.Status") == "healthy")

    def visitor(self) -> Visitor:
        at = run("docker", "port", self.container, "8000/tcp").split()[0]
        visitor = Visitor(f"http://{at}/")
        visitor.load()
        return visitor

    def kill(self) -> None:
        run("docker", "kill", self.container)

    def start(self) -> None:
        run("docker", "start", self.container)
        wait_until(lambda: self.is_healthy, f"{self.container} to be healthy again", PATIENCE)

    def _inspect(self, path: str) -> Any:
        return json.loads(run("docker", "inspect", "--format", f"{{{{json .{path}}}}}", self.container))


class Compose:
    """The project, up with three replicas between `with` and its end, which removes all that it made."""

    def __init__(self) -> None:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        self._program = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        self._name = f"dref-test-{uuid4().hex[:8]}"
        # Any free port for each replica, so that a demo of this machine does not stand in the way.
        self._env = {**os.environ, "COMPOSE_PROJECT_NAME": self._name, "DREF_DEMO_PORTS": "0"}

    def __enter__(self) -> Self:
        try:
            self.run("build")
            self.scale(3)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run("down", "--volumes", "--timeout", "5")

    @property
    def network(self) -> str:
        return f"{self._name}_default"

    def run(self, *command: str) -> str:
        return run(*self._program, *command, env=self._env)

    def scale(self, replicas: int) -> None:
        """Until so many are healthy."""
        self.run("up", "--detach", "--scale", f"{SERVICE}={replicas}")
        self.wait_for(replicas)

    def wait_for(self, replicas: int) -> None:
        def healthy() -> bool:
            found = self.replicas()
            return len(found) == replicas and all(replica.is_healthy for replica in found)

        try:
            wait_until(healthy, f"{replicas} healthy replicas", PATIENCE)
        except TimeoutError as error:
            raise AssertionError(self.run("logs")) from error

    def replicas(self) -> list[Replica]:
        """Those that run."""
        labels = {"project": self._name, "service": SERVICE}
        filters = [f"--filter=label=com.docker.compose.{label}={value}" for label, value in labels.items()]
        return [Replica(container) for container in run("docker", "ps", "--quiet", *filters).split()]
