"""Runs seeds that no one has run yet, or replays one.

python -m tests.raft.rehearsal --seconds 3600      for an hour, from a random seed on
python -m tests.raft.rehearsal --seed 17           one again
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import time

from .run import rehearse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--first", type=int, help="the first of the seeds to run (default: random)")
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default: %(default)g)")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    if options.seed is not None:
        print(dict(rehearse(options.seed)))
        return
    end = time.monotonic() + options.seconds
    for seed in itertools.count(secrets.randbelow(2**31) if options.first is None else options.first):
        if time.monotonic() > end:
            return
        try:
            met = rehearse(seed)
        except Exception:
            print(f"failed: python -m tests.raft.rehearsal --seed {seed}")
            raise
        print(seed, dict(met), flush=True)


if __name__ == "__main__":
    main()
