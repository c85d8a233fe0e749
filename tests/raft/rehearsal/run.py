"""One run."""

from __future__ import annotations

from collections import Counter
from random import Random

from .actors import Play
from .stage import SYNC, Stage
from .storage import VirtualDisk
from .timeline import virtual_time

FAULTY, REST = 30.0, 15.0
"""Virtual seconds."""


def rehearse(seed: int) -> Counter[str]:
    """Returns what happened. Raises AssertionError, or what a node has raised."""
    random = Random(seed)
    play = Play(seed)
    with virtual_time(random, lambda name: VirtualDisk(random, SYNC)) as (loop, clock):
        stage = Stage(seed, loop, clock, random.choice((1, 3, 3, 3, 5)), play.live)
        stage.start()
        loop.run_until_complete(stage.suffer(FAULTY))
        acknowledged = play.acknowledged
        loop.run_until_complete(stage.rest(REST))
        assert play.acknowledged > acknowledged, "nothing was done any more when all faults were over"
    play.check()
    return stage.seen + play.seen
