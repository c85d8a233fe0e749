"""`python -m tests.raft.simulation` runs seeds until told to stop, or replays one."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.raft.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--trace", action="store_true", help="print everything that happens (with --seed)")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds to run")
    parser.add_argument("--count", type=int, default=1000, help="how many to run")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(dict(World(arguments.seed, tracer=print if arguments.trace else None).run()))
        return 0
    seen: Counter[str] = Counter()
    began = time.monotonic()
    for seed in range(arguments.first, arguments.first + arguments.count):
        try:
            happened = World(seed).run()
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            print(f"again: python -m tests.raft.simulation --seed {seed} --trace")
            return 1
        seen.update(name for name, number in happened.items() if number)
    print(f"{arguments.count} seeds in {time.monotonic() - began:.1f} s; with", dict(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
