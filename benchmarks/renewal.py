"""What does keeping 1,000 locks cost: commands at the server, and CPU of the process?"""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

from benchmarks import harness

LOCKS = 1000
TTL = 3.0
PERIOD = 6.0


def main() -> None:
    servers = harness.set_up()
    import psycopg
    import redis

    from dref_django import lock

    client = redis.Redis.from_url(servers.redis)
    connection = psycopg.connect(servers.postgres, autocommit=True)
    rows = []
    for alias in ("redis", "postgres"):
        guards = [lock(f"renewal-{number}", ttl=TTL, using=alias) for number in range(LOCKS)]
        helds = [guard.acquire() for guard in guards]
        threading.Event().wait(TTL)  # PostgreSQL counts with a delay; what taking them cost is not asked here
        before = commands(client) if alias == "redis" else transactions(connection)
        cpu, started = used(), time.monotonic()
        threading.Event().wait(PERIOD)
        elapsed, spent = time.monotonic() - started, used() - cpu
        after = commands(client) if alias == "redis" else transactions(connection)
        assert all(held.remaining() > 0 for held in helds)
        per_lease = (after - before) / (elapsed / TTL)
        rows.append((alias, f"{per_lease:,.0f}", f"{100 * spent / elapsed:.1f} %"))
        for guard, held in zip(guards, helds, strict=True):
            guard.release(held)
    harness.table((f"{LOCKS} held locks, ttl {TTL:g} s", "commands or statements a lease", "CPU of the process"), rows)


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def commands(client: Any) -> int:
    """Calls of scripts; the statistics count the commands inside of a script as well."""
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def transactions(connection: Any) -> int:
    connection.execute("SELECT pg_stat_force_next_flush()")
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    return int(connection.execute(query).fetchone()[0])
