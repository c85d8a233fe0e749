"""Runs seeds that no one has run yet, or replays one.

python -m tests.raft.simulation --seconds 3600      for an hour, from a random seed on
python -m tests.raft.simulation --seed 17 --trace   one again, with everything that happens
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter

from .checkers import Violation
from .sweep import missed, report, sweep
from .world import World

BATCH = 100


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.raft.simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    parser.add_argument("--first", type=int, help="the first of the seeds to run (default: random)")
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default: 600)")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        happened = World(arguments.seed, tracer=print if arguments.trace else None).run()
        print(", ".join(f"{name}: {times}" for name, times in happened.items()))
        return 0
    return _soak(secrets.randbelow(1 << 31) if arguments.first is None else arguments.first, arguments.seconds)


def _soak(first: int, seconds: float) -> int:
    until = time.monotonic() + seconds
    met: Counter[str] = Counter()
    while time.monotonic() < until or not met:
        try:
            met += sweep(range(first + met["seeds"], first + met["seeds"] + BATCH))
        except Violation as violation:
            print(violation)
            return 1
    print(f"from seed {first}: {report(met)}")
    for name, shortfall in missed(met).items():
        print(f"too few {name}: {shortfall}")
    return 1 if missed(met) else 0


if __name__ == "__main__":
    sys.exit(main())
