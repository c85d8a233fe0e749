"""How long after a write does another process's callback run?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks import harness

WRITES = 400
PAUSE = 0.004


def main() -> None:
    servers = harness.set_up()
    import psycopg
    import redis

    from dref_django import Counter

    client = redis.Redis.from_url(servers.redis)
    connection = psycopg.connect(servers.postgres, autocommit=True)
    on_redis, on_postgres = Counter("latency", using="redis"), Counter("latency", using="postgres")

    def notify(stamp: int) -> None:
        connection.execute("SELECT pg_notify('latency', %s)", (str(stamp),))

    harness.percentiles(
        "write in one process to callback in another",
        {
            "redis: dref_django, set to on_change": listen("dref", servers, on_redis.set),
            "redis: PUBLISH to a redis-py listener": listen(
                "redis", servers, lambda stamp: client.publish("latency", stamp)
            ),
            "postgres: dref_django, set to on_change": listen("dref", servers, on_postgres.set),
            "postgres: NOTIFY to psycopg notifies()": listen("postgres", servers, notify),
        },
    )


def listen(kind: str, servers: harness.Servers, write: Callable[[int], object]) -> list[float]:
    """Writes time stamps and collects what a listener process makes of them: seconds from write to arrival."""
    command = [sys.executable, "-m", "benchmarks.listener", kind, servers.redis, servers.postgres]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(WRITES):
            write(time.monotonic_ns())
            time.sleep(PAUSE)
        process.terminate()
        return [int(line) / 1e9 for line in process.stdout]
