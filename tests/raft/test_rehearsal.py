"""Whole nodes in virtual time, under faults: nothing is lost or done twice, and no lock has two holders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest

from dref_django.backends.raft.caller import Call, Caller
from dref_django.backends.raft.calls import Answer, Answered, Question
from dref_django.backends.raft.copies import Copies
from dref_django.backends.raft.core.leader import Leader
from dref_django.backends.raft.sessions import Session
from dref_django.store import Store

from .rehearsal.run import rehearse

SEEDS = 8
CAUGHT_WITHIN = 12
"""Seeds."""
FLOORS = {
    "elections": 4,
    "crashes": 6,
    "clients killed": 2,
    "cuts": 2,
    "members removed": 0.5,
    "pauses": 1,
    "sessions closed": 8,
    "snapshots restored": 4,
    "terms": 30,
    "renewals": 50,
    "reads": 500,
}
"""How often a run meets this, on the average, or they prove less than they seem to."""


@pytest.mark.timeout(300)
def test_what_clients_are_promised_holds_under_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    met: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            met += rehearse(seed)
        except Exception as error:
            raise AssertionError(f"python -m tests.raft.rehearsal --seed {seed}") from error
    with capsys.disabled():
        print("\nRaft rehearsal:", ", ".join(f"{name}: {count}" for name, count in sorted(met.items())))
    assert not {name: met[name] for name, floor in FLOORS.items() if met[name] < floor * SEEDS}


def test_a_seed_replays_its_run() -> None:
    assert rehearse(1) == rehearse(1)


# --- what the checks are worth ------------------------------------------------------------------------------------


def leases_are_not_extended_by_a_new_leader() -> AbstractContextManager[Any]:
    return patch.object(Store, "extend_leases", lambda *_: None)


def a_request_is_applied_as_often_as_it_comes() -> AbstractContextManager[Any]:
    return patch.object(Session, "result", lambda *_: None)


def a_retry_has_another_number() -> AbstractContextManager[Any]:
    again = Caller._again

    def renumbered(self: Caller, call: Call) -> None:
        call.number = 0
        again(self, call)

    return patch.object(Caller, "_again", renumbered)


def a_dead_process_frees_what_others_hold() -> AbstractContextManager[Any]:
    free = Store.free
    return patch.object(Store, "free", lambda self, owners, now: free(self, "", now))


def a_follower_looks_at_its_copy_too_early() -> AbstractContextManager[Any]:
    def look(self: Copies, index: int, now: int, question: Question, answered: Answered) -> None:
        if (found := self.find(question, now)) is None:
            self.ask_whole(question, answered)
        else:
            answered(Answer.DONE, found)

    return patch.object(Copies, "_look_at", look)


def a_leader_answers_reads_without_asking_the_others() -> AbstractContextManager[Any]:
    """One that has stood still does not know that it is none any more."""

    def confirm(self: Leader) -> None:
        if self._reads.are_open():
            self._reads.confirm(self._reads.round)

    return patch.object(Leader, "_confirm_reads", confirm)


MISTAKES = (
    leases_are_not_extended_by_a_new_leader,
    a_request_is_applied_as_often_as_it_comes,
    a_retry_has_another_number,
    a_dead_process_frees_what_others_hold,
    a_follower_looks_at_its_copy_too_early,
    a_leader_answers_reads_without_asking_the_others,
)
"""Each a function so that its name says it."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checks_catch_that(mistake: Callable[[], AbstractContextManager[Any]]) -> None:
    with mistake():
        assert any(is_caught(seed) for seed in range(CAUGHT_WITHIN))


def is_caught(seed: int) -> bool:
    try:
        rehearse(seed)
    except AssertionError as error:
        print(f"caught at seed {seed}: {error}")
        return True
    return False
