"""Thousands of clusters under faults: what Raft promises holds after every step, and the faults really happened."""

import pytest

from .simulation.mutations import MUTATIONS, first_caught, focused
from .simulation.sweep import missed, report, sweep
from .simulation.world import World

SEEDS = 2000
BATCH = 250
CAUGHT_WITHIN = 200
"""Seeds."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_promises_of_raft_hold_under_every_fault(first: int, capsys: pytest.CaptureFixture[str]) -> None:
    met = sweep(range(first, first + BATCH))
    with capsys.disabled():
        print("\nRaft simulation:", report(met))
    assert not missed(met)


def test_a_seed_replays_its_run() -> None:
    runs = []
    for _ in range(2):
        lines: list[str] = []
        World(7, tracer=lines.append).run()
        runs.append(lines)
    assert runs[0] == runs[1]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_checkers_catch_a_core_that(name: str) -> None:
    seed, violation = first_caught(name, range(CAUGHT_WITHIN))
    print(f"{name}: caught at seed {seed}: {violation}")
    focused(name, seed).run()  # without the mutation nothing is wrong
