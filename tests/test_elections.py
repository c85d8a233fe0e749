"""Elections: one leader, told by its lease; candidates follow, observers see it, the frozen and dead are replaced."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from dref_django import Election, LockLost, LockTimeout
from dref_django.backends import Backend, Params
from dref_django.backends.memory import MemoryBackend
from dref_django.elections import Leader
from dref_django.held import Held
from dref_django.inspection import break_lock
from dref_django.protocol import Command, Inspect, Renew, Reply
from tests.children import PATIENCE, Child
from tests.kinds import installed
from tests.processes import wait_until

InThread: TypeAlias = Callable[..., concurrent.futures.Future[Any]]


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool.submit


def until_waiting(backend: Backend, count: int = 1) -> None:
    def waiting() -> bool:
        (reply,) = backend.execute([Inspect("election:scheduler")])
        return reply.lease is not None and len(reply.lease.waiters) == count

    wait_until(waiting, f"{count} candidates waiting", PATIENCE)


class TestLeading:
    def test_the_leader_is_who_holds_the_lease(self, any_backend: Backend, peer: str) -> None:
        election = Election("scheduler", identity="web-1", metadata={"zone": "b"})
        elsewhere = Election("scheduler", using=peer)
        assert elsewhere.leader() is None
        with election.lead() as term:
            assert election.is_leader
            assert not elsewhere.is_leader
            leader = elsewhere.leader()
            assert leader is not None
            assert (leader.identity, leader.metadata, leader.token) == ("web-1", {"zone": "b"}, term.token)
            assert leader.pid == os.getpid()
            assert 0 < leader.left <= 30
        assert elsewhere.leader() is None
        assert not election.is_leader

    def test_who_waits_is_elected_at_once_when_the_leader_resigns(
        self, any_backend: Backend, peer: str, in_thread: InThread
    ) -> None:
        first, second = Election("scheduler"), Election("scheduler", using=peer)
        old = first.campaign()
        waiting = in_thread(second.campaign, PATIENCE)
        until_waiting(any_backend)
        assert first.resign()
        new = waiting.result(2)
        assert new.token > old.token
        assert (first.is_leader, second.is_leader) == (False, True)
        assert second.resign()

    def test_waiting_ends_with_the_timeout(self, any_backend: Backend, peer: str) -> None:
        with Election("scheduler").lead():
            with pytest.raises(LockTimeout, match="election 'scheduler'"):
                Election("scheduler", using=peer).campaign(timeout=0)
            with pytest.raises(LockTimeout), Election("scheduler", using=peer).lead(timeout=0.05):
                pytest.fail("two leaders")

    def test_campaigning_again_returns_the_term(self, any_backend: Backend) -> None:
        election = Election("scheduler")
        term = election.campaign()
        assert election.campaign(timeout=0) is term
        assert election.resign()
        assert not election.resign()
        with pytest.raises(LockLost, match="released"):
            term.check()

    def test_resigning_within_the_block_ends_the_term(self, any_backend: Backend, peer: str) -> None:
        election = Election("scheduler")
        with election.lead() as term:
            election.resign()
            assert not election.is_leader
            with Election("scheduler", using=peer).lead(timeout=1) as next_term:
                assert next_term.token > term.token

    async def test_async(self, any_backend: Backend, peer: str) -> None:
        election, other = Election("scheduler", identity="a"), Election("scheduler", using=peer)
        async with election.lead() as term:
            term.check()
            leader = await other.aleader()
            assert leader is not None
            assert leader.identity == "a"
            with pytest.raises(LockTimeout):
                await other.acampaign(timeout=0)
        assert (await other.acampaign()).token > term.token
        assert await other.aresign()

    async def test_the_async_body_is_cancelled_when_the_term_is_lost(self, any_backend: Backend) -> None:
        election = Election("scheduler", ttl=1)
        with pytest.raises(LockLost, match="election 'scheduler'"):  # noqa: PT012
            async with election.lead():
                await asyncio.to_thread(break_lock, "scheduler", kind="election")
                await asyncio.sleep(PATIENCE)
                pytest.fail("not cancelled")
        assert not election.is_leader

    def test_callbacks_tell_of_election_and_loss(self, any_backend: Backend) -> None:
        elected: list[Held] = []
        told, lost = threading.Event(), threading.Event()

        def on_elected(term: Held) -> None:
            elected.append(term)
            told.set()

        election = Election("scheduler", ttl=1, on_elected=on_elected, on_lost=lost.set)
        term = election.campaign()
        assert told.wait(PATIENCE)
        assert elected == [term]
        assert not lost.is_set()
        assert break_lock("scheduler", kind="election")
        assert lost.wait(PATIENCE)
        assert not election.is_leader
        assert not election.resign()

    def test_identities_differ_unless_they_are_given(self, any_backend: Backend) -> None:
        one, other = Election("scheduler"), Election("scheduler")
        assert one.identity == one.identity != other.identity
        assert f":{os.getpid()}:" in one.identity

    def test_metadata_that_cannot_be_stored_is_refused(self) -> None:
        with pytest.raises(TypeError):
            Election("scheduler", metadata={"when": object()})


class Hanging(MemoryBackend):
    """Renewals hang until `go`."""

    def __init__(self) -> None:
        super().__init__(Params())
        self.asked, self.go = threading.Event(), threading.Event()

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        if isinstance(commands[0], Renew):
            self.asked.set()
            self.go.wait(PATIENCE)
        return super().send(commands, now, timeout)


def test_not_the_leader_from_the_local_deadline_on_though_the_renewal_still_hangs() -> None:
    backend = Hanging()
    with installed(backend):
        election = Election("scheduler", ttl=1)
        term = election.campaign()
        assert backend.asked.wait(PATIENCE)
        assert election.is_leader
        wait_until(lambda: not election.is_leader, "the local deadline", 2)
        assert not backend.go.is_set()
        with pytest.raises(LockLost, match="could not be renewed"):
            term.check()
        backend.go.set()


class TestLog:
    """Who took over from whom."""

    def messages(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage().partition(" (token")[0] for record in caplog.records if record.levelname == "INFO"]

    def test_of_the_first_election_a_resignation_and_the_next(
        self, any_backend: Backend, peer: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "dref_django")
        for identity, using in (("a", "default"), ("b", peer)):
            with Election("scheduler", identity=identity, using=using).lead():
                pass
        start = "dref: election 'scheduler': "
        assert [message.removeprefix(start) for message in self.messages(caplog) if start in message] == [
            "a was elected; nobody is known to have led before",
            "a resigned",
            "b was elected after a resigned",
            "b resigned",
        ]

    def test_of_a_leader_that_did_not_resign(
        self, any_backend: Backend, peer: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "dref_django")
        Election("scheduler", identity="a").campaign()
        assert break_lock("scheduler", kind="election")
        with Election("scheduler", identity="b", using=peer).lead():
            pass
        assert "dref: election 'scheduler': b took over from a, which did not resign" in self.messages(caplog)


def _name(leader: Leader | None) -> str | None:
    return None if leader is None else leader.identity


class TestObserving:
    def test_the_leader_now_then_each_change(self, any_backend: Backend, peer: str) -> None:
        first, second = Election("scheduler", identity="a"), Election("scheduler", identity="b", using=peer)
        with Election("scheduler", using=peer).observe(timeout=PATIENCE) as seen:
            assert next(seen) is None
            first.campaign()
            assert _name(next(seen)) == "a"
            first.resign()
            assert next(seen) is None
            second.campaign()
            assert _name(next(seen)) == "b"
            second.resign()
            assert next(seen) is None

    def test_one_that_starts_while_somebody_leads_starts_with_it(self, any_backend: Backend) -> None:
        election = Election("scheduler", identity="a")
        with election.lead():
            assert [_name(leader) for leader in election.observe(timeout=0.05)] == ["a"]

    def test_the_next_term_of_the_same_leader_is_a_change(self, any_backend: Backend) -> None:
        election = Election("scheduler")
        tokens = [election.campaign().token]
        with election.observe(timeout=PATIENCE) as seen:
            leaders = [next(seen)]
            election.resign()
            tokens.append(election.campaign().token)
            while len(leaders) < 2:
                leaders += [leader for leader in (next(seen),) if leader is not None]  # or nobody, for a moment
        assert [leader and leader.token for leader in leaders] == tokens
        election.resign()

    async def test_async(self, any_backend: Backend, peer: str) -> None:
        election = Election("scheduler", identity="a")
        seen: list[str | None] = []
        async with Election("scheduler", using=peer).observe(timeout=PATIENCE) as observation:
            async for leader in observation:
                seen.append(_name(leader))
                if len(seen) == 1:
                    await election.acampaign()
                elif len(seen) == 2:
                    await election.aresign()
                else:
                    break
        assert seen == [None, "a", None]

    def test_closing_ends_it_from_another_thread(self, any_backend: Backend, in_thread: InThread) -> None:
        observation = Election("scheduler").observe()
        assert next(observation) is None
        rest = in_thread(list, observation)
        observation.close()
        assert rest.result(PATIENCE) == []

    def test_an_end_that_nobody_tells_of_shows_when_the_lease_runs_out(self, any_backend: Backend, peer: str) -> None:
        """As when a leader dies, whose lease only lapses."""
        with Election("scheduler", using=peer).observe(timeout=PATIENCE) as seen:
            assert next(seen) is None
            term = Election("scheduler", identity="a", ttl=1).campaign()
            assert _name(next(seen)) == "a"
            assert term.let_go() is not None  # neither renewed nor released from now on
            any_backend.close()  # where a session holds it, that ends
            began = time.monotonic()
            assert next(seen) is None
            assert time.monotonic() - began < PATIENCE / 2


LEADER = """
election = Election("scheduler", ttl=1, identity=IDENTITY, on_lost=lambda: say("lost"))
term = election.campaign(timeout=None)
say("leads", term.token)
for order in orders():
    if order == "resign":
        say("resigned", election.resign())
    elif order == "state":
        try:
            term.check()
            say("state", election.is_leader, "checked")
        except LockLost as error:
            say("state", election.is_leader, "LockLost")
    elif order == "create":
        from django.db import connection
        from tests.app.models import Order
        with connection.schema_editor() as editor:
            editor.create_model(Order)
        with fence(term):
            Order.objects.create(name="bill", state="new")
        say("created")
    elif order.startswith("write"):
        from tests.app.models import Order
        held = term.token if order.endswith("late") else term
        try:
            with fence(held):
                say("wrote", Order.objects.update(state=IDENTITY))
        except LockLost:
            say("refused", list(Order.objects.values_list("state", flat=True)))
"""


def candidate(identity: str, backend: Backend, database: Path | None = None) -> Child:
    environment = {} if database is None else {"DREF_TEST_SQLITE": str(database)}
    return Child(LEADER.replace("IDENTITY", repr(identity)), backend, environment)


class TestFailOver:
    """Leaders in processes of their own that die and freeze."""

    def test_a_killed_leader_is_replaced_and_observers_see_it(self, served_backend: Backend) -> None:
        with candidate("first", served_backend) as first, candidate("second", served_backend) as second:
            (token,) = first.hears("leads") if _leads(served_backend) == "first" else second.hears("leads")
            old, new = (first, second) if _leads(served_backend) == "first" else (second, first)
            until_waiting(served_backend)
            with Election("scheduler").observe(timeout=PATIENCE) as seen:
                before = _name(next(seen))
                old.kill()
                after = next(leader for leader in seen if leader is not None)
            (next_token,) = new.hears("leads")
            assert {before, after.identity} == {"first", "second"}
            assert after.token == next_token > token

    def test_a_frozen_leader_knows_when_it_resumes_that_it_leads_no_more(
        self, served_backend: Backend, tmp_path: Path
    ) -> None:
        database = tmp_path / "orders.sqlite3"
        with candidate("first", served_backend, database) as first:
            first.hears("leads")
            first.tell("create")
            first.hears("created")
            with candidate("second", served_backend, database) as second:
                until_waiting(served_backend)
                first.freeze()
                second.hears("leads")
                second.tell("write")
                assert second.hears("wrote") == [1]
                first.thaw()
                first.tell("state")
                assert first.hears("state") == [False, "LockLost"]
                for order in ("write", "write late"):  # its own check, and without it the rows
                    first.tell(order)
                    assert first.hears("refused") == [["second"]]
                assert _leads(served_backend) == "second"


def _leads(backend: Backend) -> str:
    with Election("scheduler").observe(timeout=PATIENCE) as seen:
        return next(leader.identity for leader in seen if leader is not None)
