"""How much memory does a ref take in the process, and how much a watched one?"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

from benchmarks import harness

COUNT = 2000


def main() -> None:
    harness.set_up()
    from dref_django import Counter

    counters: list[Counter] = []
    rows = [
        row("declared", lambda: counters.extend(Counter(f"memory-{number}", using="redis") for number in range(COUNT))),
        row("used once", lambda: [counter.increment() for counter in counters]),
        row("watched (peek)", lambda: [counter.peek() for counter in counters]),
    ]
    subscriptions: list[object] = []
    rows.append(row("with a callback", lambda: subscriptions.extend(each.on_change(print) for each in counters)))
    harness.table(("a counter", "bytes more"), rows)


def row(name: str, work: Callable[[], object]) -> tuple[str, str]:
    gc.collect()
    tracemalloc.start()
    work()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return name, f"{size / COUNT:,.0f}"
