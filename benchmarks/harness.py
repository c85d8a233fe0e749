"""What the benchmarks share: real servers, a configured Django, fair pairs, and tables.

Contenders take short turns (A B C, A B C ...), so that a machine that gets slower is slower for all of them. The table
shows the median of the turns, the best one, the median of each round's ratio to the first contender, and the ratio of
the best turns, which is what an idle machine would say.
"""

from __future__ import annotations

import atexit
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

ROUNDS = 41
SECONDS = 0.1


@dataclass(frozen=True)
class Servers:
    redis: str
    postgres: str


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs this module of the benchmarks, is told lines and answers lines."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


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
    for _ in range(5):
        work()
    count, batch = 0, 1
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(batch):
            work()
        count += batch
        batch = 1 + count // 16  # the clock is seldom asked, and the last batch is a small part of all
    return count / elapsed


def together(works: Sequence[Callable[[], object]], each: int = 100) -> float:
    """Calls a second of all works, each in a thread of its own."""
    from django.db import connections

    start = threading.Barrier(len(works) + 1)

    def run(work: Callable[[], object]) -> None:
        work()
        start.wait()
        for _ in range(each):
            work()
        connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    start.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return len(works) * each / (time.perf_counter() - started)


def compare(
    title: str,
    contenders: dict[str, Callable[[], float]],
    *,
    unit: str = "a second",
    rounds: int = ROUNDS,
    best: Callable[[Sequence[float]], float] = max,
) -> None:
    """Measures each contender once a round, in turn, and prints figures and ratios to the first one."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            figures[name].append(measure())
    first = next(iter(figures.values()))
    rows = []
    for name, values in figures.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        cells = (statistics.median(values), best(values))
        rows.append((name, *(f"{cell:,.0f}" for cell in cells), f"{ratio:.2f}", f"{best(values) / best(first):.2f}"))
    table((title, f"{unit} (median)", "best", "ratio", "ratio of the best"), rows)


def rates(title: str, contenders: dict[str, Callable[[], object]]) -> None:
    compare(title, {name: lambda work=work: rate(work) for name, work in contenders.items()})  # type: ignore[misc]


def percentiles(title: str, samples: Mapping[str, Sequence[float]]) -> None:
    """Prints the best of the latencies, p10, p50, p90 and p99 in milliseconds; samples are in seconds.

    Where other processes want the processors, too, most of a latency is waiting for one; p10 shows what is left.
    """
    rows = []
    for name, values in samples.items():
        cuts = statistics.quantiles(values, n=100)
        shown = (min(values), *(cuts[index] for index in (9, 49, 89, 98)))
        rows.append((name, *(f"{value * 1000:.2f}" for value in shown), str(len(values))))
    table((title, "best ms", "p10 ms", "p50 ms", "p90 ms", "p99 ms", "samples"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    print(line(head))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))
    print(flush=True)
