"""What do 16 processes, and 16 threads of one, on one hot counter reach, beside F() on one row?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from benchmarks import harness

PROCESSES = 16
SECONDS = 0.5
ROUNDS = 7


def main() -> None:
    servers = harness.set_up()
    import psycopg

    with psycopg.connect(servers.postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE bench_page (id bigint PRIMARY KEY, views bigint NOT NULL)")
        connection.execute("INSERT INTO bench_page VALUES (1, 0)")
    workers = [harness.start("benchmarks.hot_counters", servers.redis, servers.postgres) for _ in range(PROCESSES)]

    def all_processes(contender: str) -> float:
        """Increments a second of all processes."""
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{contender}\n")
        return sum(float(worker.stdout.readline()) for worker in workers if worker.stdout is not None)

    harness.compare(
        f"{PROCESSES} processes, one counter",
        {contender: lambda contender=contender: all_processes(contender) for contender in CONTENDERS},  # type: ignore[misc]
        rounds=ROUNDS,
    )
    for worker in workers:
        worker.communicate(timeout=60)
    increments = {contender: CONTENDERS[contender]() for contender in ("F() on one row", "postgres: Counter")}
    harness.compare(
        f"{PROCESSES} threads, one counter",
        {name: lambda work=work: harness.together([work] * PROCESSES) for name, work in increments.items()},  # type: ignore[misc]
        rounds=ROUNDS,
    )


def f_expression() -> Callable[[], object]:
    from django.db import models
    from django.db.models import F

    class Page(models.Model):
        views = models.BigIntegerField(default=0)

        class Meta:
            app_label = "benchmarks"
            managed = False
            db_table = "bench_page"

        def __str__(self) -> str:
            return str(self.views)

    return lambda: Page._default_manager.filter(pk=1).update(views=F("views") + 1)


def counter(using: str, **options: float) -> Callable[[], object]:
    from dref_django import Counter

    made: Callable[[], object] = Counter(f"hot-{len(options)}", using=using, **options).increment  # type: ignore[call-overload]
    return made


CONTENDERS: dict[str, Callable[[], Callable[[], object]]] = {
    "F() on one row": f_expression,
    "postgres: Counter": lambda: counter("postgres"),
    "postgres: Counter(stripes=16)": lambda: counter("postgres", stripes=16),
    "postgres: Counter(stripes=16, flush_interval=0.5)": lambda: counter("postgres", stripes=16, flush_interval=0.5),
    "redis: Counter": lambda: counter("redis"),
}


def work() -> None:
    """One of the processes: runs what it is told for a while, and says how many a second it made."""
    harness.configure(harness.Servers(*sys.argv[1:3]))
    increments = {name: make() for name, make in CONTENDERS.items()}
    for line in sys.stdin:
        increment = increments[line.strip()]
        increment()
        count, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            increment()
            count += 1
        print(count / elapsed, flush=True)


if __name__ == "__main__":
    work()
