"""Waiting for a lease that a session backs: who is woken and how, whose turn it is, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from dref_django import LockLost, backends, leasing, lock
from dref_django.backends.postgres import PostgresBackend, advisory, lookout
from dref_django.flows import drive
from dref_django.leasing import Grant, take
from dref_django.protocol import Acquire, Inspect, Release, Status, Wake
from dref_django.store import Event
from dref_django.streams import get_hub
from tests.children import Child
from tests.listening import Listening, until
from tests.postgres.conftest import MakeBackend
from tests.processes import wait_until

TTL = 30_000_000
WAIT = 20_000_000


def owner(backend: PostgresBackend, number: int) -> str:
    return f"{backend.node_id()}/{number}"


def grab(backend: PostgresBackend, number: int, wait: int = 0) -> Status:
    return backend.execute([Acquire("a", owner(backend, number), TTL, wait)])[0].status


def waiters(backend: PostgresBackend) -> tuple[str, ...]:
    lease = backend.execute([Inspect("a")])[0].lease
    return () if lease is None else lease.waiters


class TestTurns:
    def test_within_a_process_a_lease_is_handed_over_eight_times_then_another_has_its_turn(
        self, make_backend: MakeBackend
    ) -> None:
        here, there = make_backend(), make_backend()
        grab(here, 0)
        assert grab(there, 0, WAIT) is Status.HELD
        for number in range(1, 13):
            assert grab(here, number, WAIT) is Status.HELD
        grab(there, 1, WAIT)
        served = [owner(here, 0)]
        while queue := waiters(here):
            last = here if served[-1].startswith(here.node_id()) else there
            last.execute([Release("a", served[-1])])
            (head, *_) = waiters(here)
            backend = here if head.startswith(here.node_id()) else there
            assert backend.execute([Acquire("a", head, TTL, WAIT)])[0].status is Status.APPLIED
            served.append(head)
            assert len(waiters(here)) == len(queue) - 1
        ours = [each.startswith(here.node_id()) for each in served[1:]]
        assert ours == [True] * advisory.IN_A_ROW + [False] * 2 + [True] * 4
        assert [each for each, our in zip(served[1:], ours, strict=True) if our] == [
            owner(here, number) for number in range(1, 13)
        ]

    def test_order_is_not_promised(self, make_backend: MakeBackend) -> None:
        assert not make_backend().fifo_waiters
        assert make_backend(LOCKS="lease").fifo_waiters


class TestWakeUps:
    @pytest.fixture
    def posted(self, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
        """What goes out by NOTIFY."""
        events: list[Event] = []
        post = backend.dispatcher.post

        def recording(given: Sequence[Event]) -> None:
            events.extend(given)
            post(given)

        monkeypatch.setattr(backend.dispatcher, "post", recording)
        return events

    def test_nothing_is_notified_when_nobody_waits(self, backend: PostgresBackend, posted: list[Event]) -> None:
        for number in range(3):
            grab(backend, number)
            backend.execute([Release("a", owner(backend, number))])
        assert posted == []

    async def test_waiter_of_this_process_is_rung_without_a_notification(
        self, backend: PostgresBackend, posted: list[Event]
    ) -> None:
        async with Listening(backend) as listening:
            await backend.aexecute([Acquire("a", owner(backend, 1), TTL)])
            await backend.aexecute([Acquire("a", owner(backend, 2), TTL, WAIT)])
            await backend.aexecute([Release("a", owner(backend, 1))])
            assert listening.heard.wakes == [Wake("a", owner(backend, 2))]
            assert posted == []

    async def test_waiter_of_another_process_is_notified(
        self, backend: PostgresBackend, make_backend: MakeBackend, posted: list[Event]
    ) -> None:
        other = make_backend()
        async with Listening(other) as listening:
            await backend.aexecute([Acquire("a", owner(backend, 1), TTL)])
            await other.aexecute([Acquire("a", owner(other, 1), TTL, WAIT)])
            await backend.aexecute([Release("a", owner(backend, 1))])
            await until(lambda: bool(listening.heard.wakes))
            assert listening.heard.wakes == [Wake("a", owner(other, 1))]
            assert posted == [], "the release itself notifies"

    @pytest.mark.parametrize("name", ["a b", "ü/x %s", "n" * 200])
    async def test_waiter_is_notified_of_a_name_to_the_letter(
        self, backend: PostgresBackend, make_backend: MakeBackend, name: str
    ) -> None:
        other = make_backend()
        async with Listening(other) as listening:
            await backend.aexecute([Acquire(name, owner(backend, 1), TTL)])
            await other.aexecute([Acquire(name, owner(other, 1), TTL, WAIT)])
            await backend.aexecute([Release(name, owner(backend, 1))])
            await until(lambda: bool(listening.heard.wakes))
            assert listening.heard.wakes == [Wake(name, owner(other, 1))]

    async def test_waiters_here_and_there_are_told_of_their_turn(
        self, backend: PostgresBackend, make_backend: MakeBackend, posted: list[Event]
    ) -> None:
        """Nobody hears of a turn that is not his."""
        other = make_backend()
        async with Listening(backend) as here, Listening(other) as there:
            await backend.aexecute([Acquire("a", owner(backend, 1), TTL)])
            await other.aexecute([Acquire("a", owner(other, 1), TTL, WAIT)])
            await backend.aexecute([Acquire("a", owner(backend, 2), TTL, WAIT)])
            await backend.aexecute([Release("a", owner(backend, 1))])
            assert here.heard.wakes == [Wake("a", owner(backend, 2))]
            await backend.aexecute([Acquire("a", owner(backend, 2), TTL, WAIT)])
            await backend.aexecute([Release("a", owner(backend, 2))])
            await until(lambda: bool(there.heard.wakes))
            assert there.heard.wakes == [Wake("a", owner(other, 1))]
            assert here.heard.wakes == [Wake("a", owner(backend, 2))]

    def test_lost_wake_up_delays_by_one_look(
        self, backend: PostgresBackend, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = make_backend()
        grab(backend, 1)
        grants: list[Grant] = []
        waiting = threading.Thread(target=lambda: grants.append(drive(other, take(other, "a", ttl=30, timeout=20))))
        waiting.start()
        wait_until(lambda: bool(waiters(backend)), "the waiter", 10)
        monkeypatch.setattr(get_hub(other), "wake", lambda wake: None)
        backend.execute([Release("a", owner(backend, 1))])
        released = time.monotonic()
        waiting.join(20)
        assert grants
        assert time.monotonic() - released < 7

    def test_waiter_is_served_when_the_holder_dies_without_a_word(
        self, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leasing, "RECHECK", 3600.0)  # it is told, and does not look by itself
        program = "held = lock('a', ttl=3600).acquire()\nsay('holds')\nfor _ in orders(): pass"
        with Child(program, backend) as child:
            child.hears("holds")
            grants: list[Grant] = []
            waiting = threading.Thread(
                target=lambda: grants.append(drive(backend, take(backend, "lock:a", ttl=30, timeout=3600))), daemon=True
            )
            waiting.start()
            wait_until(lambda: bool(self.awaited(backend)), "the waiter", 10)
            child.kill()
            waiting.join(30)
        assert grants

    @pytest.mark.parametrize("end", ["granted", "gives up"])
    def test_nobody_looks_after_the_dead_when_nobody_waits(
        self, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        monkeypatch.setattr(lookout, "LOOK", 0.001)
        assert backend.locks is not None
        watching = backend.locks.lookout
        grab(backend, 1)
        grab(backend, 2, WAIT)
        assert watching.is_looking
        if end == "granted":
            backend.execute([Release("a", owner(backend, 1))])
            assert grab(backend, 2, WAIT) is Status.APPLIED
        else:
            backend.execute([Release("a", owner(backend, 2))])
        wait_until(lambda: not watching.is_looking, "the end of the looking", 10)

    @staticmethod
    def awaited(backend: PostgresBackend) -> tuple[str, ...]:
        lease = backend.execute([Inspect("lock:a")])[0].lease
        return () if lease is None else lease.waiters


class TestLossThroughTheLock:
    @pytest.fixture
    def using(self, backend: PostgresBackend) -> Iterator[str]:
        backends.install("advisory", backend)
        yield "advisory"
        backends.install("advisory", None)

    def test_every_held_lock_is_lost_in_the_moment_in_which_the_session_ends(
        self, backend: PostgresBackend, using: str
    ) -> None:
        helds = [lock(name, using=using).acquire() for name in "abc"]
        given_back = lock("d", using=using).acquire()
        lock("d", using=using).release(given_back)
        backend.close()
        for held in helds:
            assert held.lost.wait(2)
            with pytest.raises(LockLost, match="connection to PostgreSQL has ended"):
                held.check()
        assert not given_back.lost
        with lock("a", using=using) as again:
            assert again.token > helds[0].token

    def test_release_of_a_lost_lock_says_so_and_disturbs_nobody(self, backend: PostgresBackend, using: str) -> None:
        held = lock("a", using=using).acquire()
        backend.close()
        assert held.lost.wait(1)
        with lock("a", using=using, timeout=5) as again:
            with pytest.raises(LockLost):
                lock("a", using=using).release(held)
            again.check()

    async def test_body_of_an_async_block_is_cancelled(self, backend: PostgresBackend, using: str) -> None:
        async def body() -> None:
            async with lock("a", using=using):
                backend.close()
                await asyncio.sleep(20)

        with pytest.raises(LockLost):
            await body()


class TestEverybodyAtOnce:
    def test_threads_and_tasks_share_the_session(self, backend: PostgresBackend) -> None:
        """Each contends for some leases; whoever is granted one holds it alone, and tokens only rise."""
        names = ["x", "y", "z"]
        holders: dict[str, str] = {}
        tokens: dict[str, int] = dict.fromkeys(names, 0)
        done: list[int] = []

        def enter(name: str, who: str, token: int) -> None:
            assert holders.setdefault(name, who) == who
            assert token > tokens[name]
            tokens[name] = token

        def work(number: int) -> None:
            for turn in range(40):
                name, who = names[turn % 3], owner(backend, number)
                reply = backend.execute([Acquire(name, who, TTL)])[0]
                if reply.status is Status.APPLIED:
                    enter(name, who, reply.token)
                    del holders[name]
                    assert backend.execute([Release(name, who, reply.token)])[0].existed
            done.append(number)

        async def awork(number: int) -> None:
            for turn in range(40):
                name, who = names[turn % 3], owner(backend, number)
                reply = (await backend.aexecute([Acquire(name, who, TTL)]))[0]
                if reply.status is Status.APPLIED:
                    enter(name, who, reply.token)
                    await asyncio.sleep(0)
                    del holders[name]
                    assert (await backend.aexecute([Release(name, who, reply.token)]))[0].existed
            done.append(number)

        async def loop(first: int) -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(first, first + 4):
                    group.create_task(awork(number))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        threads += [threading.Thread(target=lambda first=first: asyncio.run(loop(first))) for first in (10, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert sorted(done) == [*range(6), *range(10, 14), *range(20, 24)]

    def test_loop_that_is_blocked_holds_up_nobody_else(self, backend: PostgresBackend) -> None:
        """Its command is under way when its loop stops."""
        for command in (Acquire("b", owner(backend, 1), TTL), Release("b", owner(backend, 1))):
            backend.execute([command])
        sent, go_on = threading.Event(), threading.Event()

        async def blocked() -> Status:
            command = asyncio.ensure_future(backend.aexecute([Acquire("b", owner(backend, 2), TTL)]))
            await asyncio.sleep(0)  # it is on the wire
            sent.set()
            go_on.wait(20)
            return (await command)[0].status

        statuses: list[Status] = []
        thread = threading.Thread(target=lambda: statuses.append(asyncio.run(blocked())))
        thread.start()
        assert sent.wait(10)
        for number in range(5):
            assert backend.execute([Acquire(f"c{number}", owner(backend, 3), TTL)])[0].status is Status.APPLIED
        assert backend.execute([Acquire("b", owner(backend, 4), TTL)])[0].status is Status.HELD, "it was granted"
        go_on.set()
        thread.join(20)
        assert statuses == [Status.APPLIED]

    def test_reader_that_only_looks_in_takes_nobodys_reply(
        self, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(advisory, "TICK", 0.0005)  # the watching thread looks in all the time
        for turn in range(300):
            began = time.monotonic()
            assert backend.execute([Acquire("a", owner(backend, turn), TTL)])[0].status is Status.APPLIED
            backend.execute([Release("a", owner(backend, turn))])
            assert time.monotonic() - began < 4

    async def test_command_that_is_cancelled_disturbs_no_other(self, backend: PostgresBackend) -> None:
        await backend.aexecute([Acquire("a", owner(backend, 1), TTL)])
        for number in range(20):
            task = asyncio.ensure_future(backend.aexecute([Acquire(f"n{number}", owner(backend, 2), TTL)]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            replies = await backend.aexecute([Release(f"n{number}", owner(backend, 2))])
            assert replies[0].status is Status.APPLIED
            assert (await backend.aexecute([Acquire(f"n{number}", owner(backend, 3), TTL)]))[0].status is Status.APPLIED


def test_processes_take_turns_until_all_are_served(backend: PostgresBackend) -> None:
    program = (
        "import time\n"
        "for _ in range(15):\n"
        "    with lock('a', ttl=5, timeout=50) as held:\n"
        "        began = time.monotonic_ns()\n"
        "        held.check()\n"
        "        ended = time.monotonic_ns()\n"
        "    say('round', held.token, began, ended)\n"
    )
    children = [Child(program, backend) for _ in range(3)]
    rounds: list[tuple[int, int, int]] = []
    try:
        for child in children:
            for _ in range(15):
                token, began, ended = child.hears("round", 50)
                rounds.append((token, began, ended))
    finally:
        for child in children:
            child.__exit__()
    rounds.sort()
    assert len({token for token, _, _ in rounds}) == 45
    for (_, _, left), (_, entered, _) in pairwise(rounds):
        assert left < entered, "two held it at once"
