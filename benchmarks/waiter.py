"""The other process of `handover`: for each line on its input waits for the lock and prints when it held it."""

from __future__ import annotations

import sys
import time

from benchmarks import harness
from benchmarks.handover import maker


def main() -> None:
    kind, redis_url, postgres_url = sys.argv[1:]
    harness.configure(harness.Servers(redis_url, postgres_url))
    make = maker(kind, redis_url)
    with make():
        print("ready", flush=True)
    for _ in sys.stdin:
        print("waiting", flush=True)
        with make():
            held = time.monotonic()
        print(held, flush=True)


if __name__ == "__main__":
    main()
