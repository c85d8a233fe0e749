"""How long after a release does a waiter in another process hold the lock?

Told from two moments: the call of the release, which has a round trip of its own, and its return.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks import harness

ROUNDS = 100


def main() -> None:
    servers = harness.set_up()
    waiters = {
        "redis: dref_django (one connection a process)": Waiter("redis", servers),
        "redis: redis-py Lock (polls)": Waiter("redis-py", servers),
        "redis: python-redis-lock (a connection a waiter)": Waiter("python-redis-lock", servers),
        "postgres: dref_django (one connection a process)": Waiter("postgres", servers),
        "postgres: django-pglock (a connection a waiter)": Waiter("pglock", servers),
    }
    since_call: dict[str, list[float]] = {name: [] for name in waiters}
    since_return: dict[str, list[float]] = {name: [] for name in waiters}
    for _ in range(ROUNDS):
        for name, waiter in waiters.items():
            called, returned, held = waiter.measure()
            since_call[name].append(held - called)
            since_return[name].append(held - returned)
    for waiter in waiters.values():
        waiter.end()
    harness.percentiles("call of the release in one process to lock held in another", since_call)
    harness.percentiles("its return to lock held in another", since_return)


class Waiter:
    """The other process waits; this one releases, and both say when."""

    def __init__(self, kind: str, servers: harness.Servers) -> None:
        self._make = maker(kind, servers.redis)
        self._process = harness.start("benchmarks.waiter", kind, servers.redis, servers.postgres)
        assert self._hear() == "ready"

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def measure(self) -> tuple[float, float, float]:
        """The moments at which the release was called, had returned, and the other process held the lock."""
        with self._make():
            print("wait", file=self._process.stdin, flush=True)
            assert self._hear() == "waiting"
            time.sleep(0.02)  # the waiter is in the queue by then; no claim hangs on it
            called = time.monotonic()
        returned = time.monotonic()
        return called, returned, float(self._hear())

    def end(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()


def maker(kind: str, redis_url: str) -> Callable[[], AbstractContextManager[Any]]:
    import pglock
    import redis
    import redis_lock

    from dref_django import lock

    client = redis.Redis.from_url(redis_url)
    makers: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "redis": lambda: lock("handover", using="redis"),
        "postgres": lambda: lock("handover", using="postgres"),
        "redis-py": lambda: client.lock("handover-plain", timeout=30),
        "python-redis-lock": lambda: redis_lock.Lock(client, "handover-python", expire=30),
        "pglock": lambda: pglock.advisory("handover"),
    }
    return makers[kind]
