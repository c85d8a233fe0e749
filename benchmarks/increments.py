"""Does an increment with version, op id and notice cost more than the plain one a user would write?"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import harness

WRITERS = 16
UPSERT = (
    "WITH up AS (INSERT INTO bench_counter AS c (name, value) VALUES (%s, 1)"
    " ON CONFLICT (name) DO UPDATE SET value = c.value + 1 RETURNING value)"
    " SELECT value, pg_notify('bench', value::text) FROM up"
)


def main() -> None:
    servers = harness.set_up()
    import psycopg
    import redis
    from django.core.cache import caches

    from dref_django import Counter

    client, cache = redis.Redis.from_url(servers.redis), caches["redis"]
    cache.set("plain", 0, timeout=None)
    harness.rates(
        "Redis, one writer",
        {
            "redis-py INCR": lambda: client.incr("plain"),
            "dref_django Counter.increment": Counter("bench", using="redis").increment,
            "django-redis cache.incr": lambda: cache.incr("plain"),
        },
    )

    def upsert(name: str) -> Callable[[], object]:
        connection = psycopg.connect(servers.postgres, autocommit=True)
        return lambda: connection.execute(UPSERT, (name,), prepare=True).fetchone()

    with psycopg.connect(servers.postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE bench_counter (name text PRIMARY KEY, value bigint NOT NULL)")
    harness.rates(
        "PostgreSQL, one writer",
        {
            "hand-written upsert with pg_notify": upsert("plain"),
            "dref_django Counter.increment": Counter("bench", using="postgres").increment,
        },
    )
    upserts = [upsert(f"plain-{number}") for number in range(WRITERS)]
    counters = [Counter(f"bench-{number}", using="postgres").increment for number in range(WRITERS)]
    harness.compare(
        f"PostgreSQL, {WRITERS} writers on {WRITERS} names",
        {
            "hand-written upsert with pg_notify": lambda: harness.together(upserts),
            "dref_django Counter.increment": lambda: harness.together(counters),
        },
        rounds=15,
    )
