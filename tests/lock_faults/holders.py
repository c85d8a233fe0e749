"""Processes that hold locks, seen from the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]

PATIENCE = 30.0


class Holder:
    """One process; see `worker.py`. `environment` overrides this process's."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.lock_faults.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._mutex = threading.Condition()
        self._events: list[Event] = []
        self._tests = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._mutex:
                self._events.append(json.loads(line))
                self._mutex.notify_all()

    def settle(self, setting: dict[str, Any]) -> None:
        """The next test begins: in a namespace of its own, and events of the last one are not its."""
        self._tests += 1
        self.tell("settle", "", setting=setting)
        self.expect("settled")

    def tell(self, do: str, key: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, "key": self._own(key), **arguments}) + "\n")
        self.process.stdin.flush()

    def expect(self, event: str, key: str = "", *, timeout: float = PATIENCE) -> Event:
        """Waits for the event, and takes it out."""
        with self._mutex:
            if not self._mutex.wait_for(lambda: bool(self._matching(event, key)), timeout):
                raise TimeoutError(f"{event} of {key!r} did not come within {timeout} s; there was {self._events}")
            found = self._matching(event, key)[0]
            self._events.remove(found)
            return found

    def has_said(self, event: str, key: str) -> bool:
        return bool(self.all(event, key))

    def all(self, event: str, key: str) -> list[Event]:
        with self._mutex:
            return self._matching(event, key)

    def _matching(self, event: str, key: str) -> list[Event]:
        return [each for each in self._events if each["event"] == event and each["key"] == self._own(key)]

    def _own(self, key: str) -> str:
        return f"{self._tests}:{key}"

    def acquire(self, key: str, name: str, *, ttl: float = 1.0, timeout: float = 20.0) -> Event:
        self.tell("acquire", key, name=name, ttl=ttl, timeout=timeout)
        return self.expect("acquired", key)

    def wait_for(self, key: str, name: str, *, ttl: float = 1.0, timeout: float = 20.0) -> None:
        """Begins to wait; the grant is for `expect("acquired", key)`."""
        self.tell("acquire", key, name=name, ttl=ttl, timeout=timeout)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        if self.is_alive():
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
