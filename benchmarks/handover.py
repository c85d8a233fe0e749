"""How long after a release does a waiter in another process hold the lock?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks import harness

ROUNDS = 60
REDIS_LIBRARY_ROUNDS = 25  # redis-py's Lock polls every 100 ms


def main() -> None:
    servers = harness.set_up()
    harness.percentiles(
        "release in one process to lock held in another",
        {
            "redis: dref_django (one connection a process)": measure("redis", servers, ROUNDS),
            "redis: redis-py Lock (polls)": measure("redis-py", servers, REDIS_LIBRARY_ROUNDS),
            "redis: python-redis-lock (a connection a waiter)": measure("python-redis-lock", servers, ROUNDS),
            "postgres: dref_django (one connection a process)": measure("postgres", servers, ROUNDS),
            "postgres: django-pglock (a connection a waiter)": measure("pglock", servers, ROUNDS),
        },
    )


def measure(kind: str, servers: harness.Servers, rounds: int) -> list[float]:
    """The other process waits; this one releases and both say when."""
    make = maker(kind, servers.redis)
    command = [sys.executable, "-m", "benchmarks.waiter", kind, servers.redis, servers.postgres]
    samples = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(rounds):
            with make():
                print("wait", file=process.stdin, flush=True)
                assert process.stdout.readline() == "waiting\n"
                time.sleep(0.02)  # the waiter is in the queue by then; no claim hangs on it
                released = time.monotonic()
            samples.append(float(process.stdout.readline()) - released)
        process.stdin.close()
    return samples


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
