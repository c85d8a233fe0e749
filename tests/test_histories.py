"""What concurrent clients were told has to fit one order of events: checked by the project's own checker."""

from __future__ import annotations

from pathlib import Path

import pytest

from dref_django.backends import Backend
from dref_django.backends.base import Params
from dref_django.backends.memory import MemoryBackend
from tests.crowd import Crowd, play_here
from tests.kinds import installed
from tests.linearizability import Operation, Ref, check, load
from tests.test_contention import crowd  # noqa: F401 -- a fixture

NAMES = ["a", "b"]
SEEDS = ["one", "two", "three"]


def assert_linearizable(history: list[Operation], operations: int) -> None:
    assert len(history) == operations
    result = check(Ref(), history)
    assert result.ok, result.explanation


@pytest.mark.parametrize("seed", SEEDS)
def test_history_of_threads_on_memory_is_linearizable(seed: str, tmp_path: Path) -> None:
    with installed(MemoryBackend(Params())):
        play_here(tmp_path / "history", "process", NAMES, 6, 60, seed)
    assert_linearizable(load(tmp_path / "history"), 360)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_history_of_threads_in_processes_is_linearizable(
    crowd: Crowd,  # noqa: F811
    served_backend: Backend,
    seed: str,
    tmp_path: Path,
) -> None:
    paths = [tmp_path / f"history{number}" for number in range(3)]
    shared = {"do": "play", "names": NAMES, "threads": 3, "steps": 60, "seed": seed}
    crowd.run([{**shared, "path": str(path), "client": path.name} for path in paths])
    assert_linearizable(load(*paths), 540)
