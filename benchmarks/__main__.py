"""Runs the benchmarks, each question in a process of its own, and prints their tables.

python -m benchmarks                 # all
python -m benchmarks increments      # one
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys

QUESTIONS = (
    "increments",
    "peek",
    "latency",
    "payload",
    "startup",
    "memory",
    "locks",
    "handover",
    "renewal",
    "fields",
    "hot_counters",
    "raft",
    "raft_costs",
    "fanout",
    "pixel",
    "admin",
)


def main() -> int:
    chosen = sys.argv[1:] or list(QUESTIONS)
    if unknown := [name for name in chosen if name not in QUESTIONS]:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(QUESTIONS)}", file=sys.stderr)
        return 2
    if len(chosen) == 1:
        print(f"Python {platform.python_version()} of {sys.base_prefix}, {os.cpu_count()} cores, {platform.machine()}")
        module = importlib.import_module(f"benchmarks.{chosen[0]}")
        print(f"\n## {chosen[0]}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        module.main()
        return 0
    runs = [subprocess.run([sys.executable, "-m", "benchmarks", name], check=False) for name in chosen]
    return 1 if any(run.returncode for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
