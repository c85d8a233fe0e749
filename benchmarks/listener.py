"""The other process of `latency`: prints, for each time stamp that arrives, the nanoseconds that it took."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

from benchmarks import harness

arrived: list[int] = []


def arrive(stamp: int) -> None:
    arrived.append(time.monotonic_ns() - stamp)


def main() -> None:
    kind, redis_url, postgres_url = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: finish())
    if kind.startswith("dref-"):
        dref(kind.removeprefix("dref-"), harness.Servers(redis_url, postgres_url))
    else:
        {"redis": raw_redis, "postgres": raw_postgres}[kind](redis_url, postgres_url)


def finish() -> None:
    print(*arrived, sep="\n")
    sys.exit(0)


def ready() -> None:
    print("ready", flush=True)


def dref(alias: str, servers: harness.Servers) -> None:
    harness.configure(servers)
    from dref_django import Counter, start

    counter = Counter("latency", using=alias)
    counter.on_change(lambda change: arrive(change.value))
    start()
    counter.peek()
    ready()
    threading.Event().wait()


def raw_redis(redis_url: str, postgres_url: str) -> None:
    import redis

    subscription: Any = redis.Redis.from_url(redis_url).pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe("latency")
    subscription.get_message(timeout=5)
    ready()
    for message in subscription.listen():
        arrive(int(message["data"]))


def raw_postgres(redis_url: str, postgres_url: str) -> None:
    import psycopg

    connection = psycopg.connect(postgres_url, autocommit=True)
    connection.execute("LISTEN latency")
    ready()
    for notice in connection.notifies():
        arrive(int(notice.payload))


if __name__ == "__main__":
    main()
