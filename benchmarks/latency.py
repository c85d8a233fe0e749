"""How long after a write does another process's callback run?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks import harness

WRITES = 400
PAUSE = 0.004
UPSERT = (
    "WITH up AS (INSERT INTO bench_latency AS b (name, value) VALUES ('latency', %s)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value RETURNING value)"
    " SELECT pg_notify('latency', value::text) FROM up"
)


def main() -> None:
    servers = harness.set_up()
    import psycopg
    import redis

    from dref_django import Counter

    client = redis.Redis.from_url(servers.redis)
    connection = psycopg.connect(servers.postgres, autocommit=True)
    on_redis, on_postgres = Counter("latency", using="redis"), Counter("latency", using="postgres")

    connection.execute("CREATE TABLE bench_latency (name text PRIMARY KEY, value bigint NOT NULL)")

    def upsert(stamp: int) -> None:
        connection.execute(UPSERT, (stamp,), prepare=True)

    contenders = {
        "redis: dref_django, set to on_change": Contender("dref-redis", servers, on_redis.set),
        "redis: PUBLISH to a redis-py listener": Contender(
            "redis", servers, lambda stamp: client.publish("latency", stamp)
        ),
        "postgres: dref_django, set to on_change": Contender("dref-postgres", servers, on_postgres.set),
        "postgres: upsert with pg_notify to psycopg notifies()": Contender("postgres", servers, upsert),
    }
    for _ in range(WRITES):
        for contender in contenders.values():
            contender.write(time.monotonic_ns())
            time.sleep(PAUSE)
    samples = {name: contender.collect() for name, contender in contenders.items()}
    harness.percentiles("write in one process to callback in another", samples)


class Contender:
    """Writes time stamps and collects what a listener process makes of them: seconds from write to arrival."""

    def __init__(self, kind: str, servers: harness.Servers, write: Callable[[int], object]) -> None:
        command = [sys.executable, "-m", "benchmarks.listener", kind, servers.redis, servers.postgres]
        self.write = write
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def collect(self) -> list[float]:
        with self._process as process:
            assert process.stdout is not None
            process.terminate()
            return [int(line) / 1e9 for line in process.stdout]
