"""Every back end against the store: with `now` given, replies and notices are the store's, number for number.

Hypothesis draws commands, batches and steps of time, and shrinks what fails to the shortest story. The stories are the
same at every run; `DREF_MODEL_EXAMPLES=2000` tells as many, other ones each time.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from dref_django.backends import Backend
from dref_django.deltas import apply_splice
from dref_django.protocol import Command, Data, Notice, Patch, Reply, Scan, ScanLeases, Status, Wake, Write
from dref_django.store import Event, Store
from dref_django.testing.conformance import NOW, Client, Listener
from tests.kinds import make

from .commands import (
    GROUP,
    batches,
    data,
    resolved,
    rolled_batch,
    rolled_lease,
    rolled_step,
    rolled_step_of_a_bad_clock,
    steps,
)

EXAMPLES = 40
LENGTH = 12
CHAPTER = 16
STORM = 60
MORE = int(os.environ.get("DREF_MODEL_EXAMPLES", "0"))


class Lab:
    """A back end, all that it tells, and marks that keep the names of one story apart from those of the next."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.client = Client(backend, None)
        self.listener = Listener(backend)
        self.listener.wait_until_up()
        self.listener.subscribe(prefixes=[""])
        self.marks = itertools.count(1)

    def close(self) -> None:
        self.listener.close()
        self.backend.close()


class Story(RuleBasedStateMachine):
    lab: ClassVar[Lab]

    @initialize()
    def begin(self) -> None:
        self.mark = f"{next(self.lab.marks)}."
        self.node = f"{self.lab.backend.node_id()}/"
        self.store = Store()
        self.now = NOW
        self.versions: list[int] = []
        self.tokens: list[int] = []
        self.leases = 0
        self.told: list[Event] = []

    @rule(chapter=st.lists(st.tuples(steps, batches), min_size=CHAPTER // 2, max_size=CHAPTER))
    def apply(self, chapter: list[tuple[int, list[Command]]]) -> None:
        for step, batch in chapter:
            self.now += step
            self._apply(batch)

    @rule(seed=st.integers(0, 2**32))
    def storm(self, seed: int) -> None:
        """Many commands in a row."""
        dice = Random(seed)
        for _ in range(STORM):
            self.now += rolled_step(dice)
            self._apply(rolled_batch(dice))

    @rule(seed=st.integers(0, 2**32))
    def set_back_the_clock(self, seed: int) -> None:
        """Now and then, in the life of a lease that is not long enough to be forgotten in it."""
        dice, now = Random(seed), self.now
        self.leases += 1
        for _ in range(STORM // 2):
            now += rolled_step_of_a_bad_clock(dice)
            self._apply([replace(rolled_lease(dice), name=f"clock.{self.leases}")], now)

    def _apply(self, batch: list[Command], now: int | None = None) -> None:
        now = self.now if now is None else now
        commands = [self.own(command) for command in batch]
        expected, events = self.store.apply(commands, now)
        self.told += events
        assert promised(self.lab.backend.execute(commands, now=now)) == promised(expected), commands
        self.versions += [reply.version for reply in expected if reply.version]
        self.tokens += [reply.token for reply in expected if reply.token]

    @rule(prefix=st.sampled_from(("", GROUP, GROUP + "b", GROUP + "ü", "z")), limit=st.sampled_from((1, 2, 100)))
    def scan(self, prefix: str, limit: int) -> None:
        client, own = self.lab.client, self.mark + prefix
        assert client.scan(own, limit=limit, values=True, now=self.now) == self._scanned(Scan(own, values=True))
        assert client.scan_leases(own, limit=limit, now=self.now) == self._scanned(ScanLeases(own))

    def _scanned(self, command: Command) -> list[Any]:
        (reply,), _ = self.store.apply([command], self.now)
        return list(reply.page)

    def own(self, command: Command) -> Command:
        """The command on the names of this story; wakes of its owners `node/...` come to this process."""
        assert not isinstance(command, Scan | ScanLeases)
        changes: dict[str, Any] = {"name": self.mark + command.name, **resolved(command, self.versions, self.tokens)}
        if (owner := getattr(command, "owner", "")).startswith("node/"):
            changes["owner"] = self.node + owner.removeprefix("node/")
        return replace(command, **changes)

    def teardown(self) -> None:
        if not hasattr(self, "told"):
            return
        listener = self.lab.listener
        notices = [event for event in self.told if isinstance(event, Notice)]
        for name in {notice.name for notice in notices}:
            expected = [notice for notice in notices if notice.name == name]
            heard = listener.wait_for_versions(name, {notice.version for notice in expected})
            assert list(meanings(heard)) == list(meanings(expected))
        wakes = [event for event in self.told if isinstance(event, Wake) and event.owner.startswith(self.node)]
        for wake in wakes:
            listener.wait_for_wake(wake, wakes.count(wake))
        assert sorted(wake for wake in listener.wakes if wake.name.startswith(self.mark)) == sorted(wakes)
        listener.forget()


def promised(replies: list[Reply]) -> list[Reply]:
    """What is lost has no token to rely on: a back end may or may not remember that of a lease long buried."""
    return [reply._replace(token=0) if reply.status is Status.LOST else reply for reply in replies]


def meanings(notices: Sequence[Notice]) -> Iterator[tuple[int, int, int | None, Data | None]]:
    """What each notice says: how the value travels is the back end's choice."""
    value: Data | None = None
    for notice in notices:
        match notice.patch:
            case Patch.FULL:
                value = notice.data
            case Patch.GONE:
                value = None
            case Patch.SPLICE:
                assert isinstance(value, bytes)
                assert notice.splice is not None
                value = apply_splice(value, notice.splice)
            case Patch.HINT:
                pytest.fail(f"values this small travel along: {notice}")
        yield notice.base, notice.version, notice.left, value


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    # An advisory lock is its session's and promises no order; lease rows are held to the store.
    options = {"LOCKS": "lease"} if request.param == "postgres" else {}
    lab = Lab(make(request.param, request, options=options))
    yield lab
    lab.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("lab", ["redis", "postgres"], indirect=True)
def test_back_end_does_what_the_store_does(lab: Lab) -> None:
    machine = type("BackendStory", (Story,), {"lab": lab})
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=MORE or EXAMPLES,
            stateful_step_count=LENGTH,
            derandomize=not MORE,
            database=None,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@hypothesis.given(old=data, new=data)
def test_two_writes_at_one_moment_have_two_versions(old: Data, new: Data) -> None:
    store = Store()
    replies: list[Reply] = []
    for value in (old, new):
        replies += store.apply([Write("n", value)], 7)[0]
    assert [reply.version for reply in replies] == [7, 8]
