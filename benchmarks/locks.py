"""What does an uncontended lock cost, taken and released?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from benchmarks import harness

HOLDERS = 8


def main() -> None:
    servers = harness.set_up()
    import pglock
    import redis
    import redis_lock

    from dref_django import lock

    client = redis.Redis.from_url(servers.redis)
    ours = lock("bench", using="redis")
    harness.rates(
        "Redis, one holder",
        {
            "redis-py Lock": lambda: passed(client.lock("plain", timeout=30)),
            "dref_django lock (token, renewal)": lambda: passed(ours),
            "python-redis-lock": lambda: passed(redis_lock.Lock(client, "python", expire=30)),
        },
    )
    on_postgres = lock("bench", using="postgres")
    harness.rates(
        "PostgreSQL, one holder",
        {
            "django-pglock advisory (no token)": lambda: passed(pglock.advisory("plain")),
            "dref_django lock (token, renewal)": lambda: passed(on_postgres),
        },
    )
    harness.compare(
        f"PostgreSQL, {HOLDERS} threads with a lock each",
        {
            "django-pglock advisory (a connection each, no token)": lambda: harness.together(
                [partial(passed_anew, pglock.advisory, f"plain-{number}") for number in range(HOLDERS)]
            ),
            "dref_django lock (one connection, token, renewal)": lambda: harness.together(
                [partial(passed, lock(f"bench-{number}", using="postgres")) for number in range(HOLDERS)]
            ),
        },
        rounds=21,
    )


def passed(entered: AbstractContextManager[Any]) -> None:
    with entered:
        pass


def passed_anew(make: Callable[[str], AbstractContextManager[Any]], name: str) -> None:
    passed(make(name))
