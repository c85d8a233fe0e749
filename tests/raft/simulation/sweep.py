"""Many seeds in a row, and what they met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .checkers import Violation
from .questions import INSTALLED, LEADER_CHANGED, READ, WAITED
from .world import World

FLOORS = {
    "leader changes": 0.8,
    "truncations": 0.3,
    "snapshots amid writes": 0.4,
    "snapshots installed": 0.15,
    "membership changes": 0.2,
    "torn writes": 0.5,
    READ: 0.5,
    WAITED: 0.2,
    LEADER_CHANGED: 0.004,
    INSTALLED: 0.004,
}
"""The share of the seeds that has to meet this, or the runs prove less than they seem to."""

COUNTED = (READ, WAITED, LEADER_CHANGED, INSTALLED)
"""Reads, which are worth a number of their own beside that of the seeds that met them."""


def sweep(seeds: Iterable[int]) -> Counter[str]:
    """How many of the seeds met what. Raises Violation with the command that replays the failing seed."""
    met: Counter[str] = Counter()
    for seed in seeds:
        try:
            happened = World(seed).run()
        except Exception as error:
            again = f"python -m tests.raft.simulation --seed {seed} --trace"
            raise Violation(f"seed {seed}: {error}\nagain: {again}") from error
        met["seeds"] += 1
        met.update(name for name, times in happened.items() if times)
        met.update({f"{name}, times": happened[name] for name in COUNTED})
    return met


def missed(met: Counter[str]) -> dict[str, str]:
    """What too few of the seeds met."""
    return {
        name: f"{met[name]} of {met['seeds']} seeds, at least {floor:.1%} should"
        for name, floor in FLOORS.items()
        if met[name] < floor * met["seeds"]
    }


def report(met: Counter[str]) -> str:
    seeds = ", ".join(f"{name}: {met[name]}" for name in FLOORS)
    times = ", ".join(f"{name}: {met[f'{name}, times']}" for name in COUNTED)
    return f"{met['seeds']} seeds; with {seeds}; in all {times}"
