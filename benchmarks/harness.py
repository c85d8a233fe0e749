"""What the benchmarks share: real servers, a configured Django, fair pairs, and tables.

Contenders take turns (A B C, A B C ...), so that a machine that gets slower is slower for all of them; the table shows
the median of the rounds, and the median of each round's ratio to the first contender.
"""

from __future__ import annotations

import atexit
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlparse

ROUNDS = 7
SECONDS = 0.4


@dataclass(frozen=True)
class Servers:
    redis: str
    postgres: str


def set_up(*apps: str) -> Servers:
    """Starts Redis (without persistence) and PostgreSQL, configures Django with a back end alias for each, migrates."""
    from django.core.management import call_command

    from tests.servers import PostgresServer, RedisServer

    redis, postgres = RedisServer(appendonly=False), PostgresServer()
    for server in (redis, postgres):
        server.start()
        atexit.register(server.stop)
    servers = Servers(redis.url, postgres.url)
    configure(servers, *apps)
    call_command("migrate", verbosity=0)
    return servers


def configure(servers: Servers, *apps: str) -> None:
    import django
    from django.conf import settings

    url = urlparse(servers.postgres)
    settings.configure(
        SECRET_KEY="benchmarks",
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "dref_django", *apps],
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": servers.redis},
        },
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.path[1:],
                "HOST": url.hostname,
                "PORT": url.port,
                "USER": url.username or "postgres",
            }
        },
        DREF_BACKENDS={
            "default": "memory",
            "redis": {"BACKEND": "redis", "OPTIONS": {"URL": servers.redis}},
            "postgres": "postgres",
        },
    )
    django.setup()


def rate(work: Callable[[], object], seconds: float = SECONDS) -> float:
    """Calls a second."""
    for _ in range(20):
        work()
    count, batch = 0, 1
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(batch):
            work()
        count += batch
        batch = min(batch * 2, 256)
    return count / elapsed


def compare(
    title: str, contenders: dict[str, Callable[[], float]], *, unit: str = "a second", rounds: int = ROUNDS
) -> None:
    """Measures each contender once a round, in turn, and prints medians and ratios to the first one."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            figures[name].append(measure())
    first = next(iter(figures.values()))
    rows = []
    for name, values in figures.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        rows.append(
            (name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f} - {max(values):,.0f}", f"{ratio:.2f}")
        )
    table((title, f"{unit} (median)", "min - max", "ratio"), rows)


def rates(title: str, contenders: dict[str, Callable[[], object]]) -> None:
    compare(title, {name: lambda work=work: rate(work) for name, work in contenders.items()})  # type: ignore[misc]


def percentiles(title: str, samples: dict[str, Sequence[float]]) -> None:
    """Prints p50, p90 and p99 of latencies in milliseconds; samples are in seconds."""
    rows = []
    for name, values in samples.items():
        cuts = statistics.quantiles(values, n=100)
        rows.append((name, *(f"{cuts[index] * 1000:.2f}" for index in (49, 89, 98)), str(len(values))))
    table((title, "p50 ms", "p90 ms", "p99 ms", "samples"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    print(line(head))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))
    print(flush=True)
