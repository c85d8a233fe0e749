"""Partitions: every one owned, none by two, shares that are even, and what happens as members come, go, die, freeze."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dref_django import LockLost, Partitions
from dref_django.backends import Backend
from dref_django.held import Held
from dref_django.inspection import break_lock
from dref_django.protocol import ScanLeases
from tests.children import PATIENCE, Child
from tests.processes import wait_until


class Member:
    """A member that notes what its callbacks were told, and whether two members ever worked on one partition."""

    active: dict[int, Member] = {}
    clashes: list[int] = []
    mutex = threading.Lock()

    def __init__(self, count: int, **options: Any) -> None:
        self.terms: dict[int, Held] = {}
        self.parts = Partitions("orders", count, on_gained=self.gained, on_lost=self.lost, **options)

    def gained(self, partition: int, term: Held) -> None:
        term.check()
        with self.mutex:
            if partition in self.active:
                self.clashes.append(partition)
            self.active[partition] = self
            self.terms[partition] = term

    def lost(self, partition: int) -> None:
        with self.mutex:
            del self.terms[partition]
            if self.active.get(partition) is self:
                del self.active[partition]

    @property
    def owned(self) -> frozenset[int]:
        return self.parts.owned


@pytest.fixture
def members(any_backend: Backend, peer: str) -> Iterator[Callable[..., Member]]:
    """Makes started members, in turn on either of two back ends; stopped at the end."""
    Member.active, Member.clashes = {}, []
    turns = ["default", peer]
    with ExitStack() as stack:

        def make(count: int = 8, *, ttl: float = 60) -> Member:
            member = Member(count, ttl=ttl, using=turns[0])
            turns.reverse()
            stack.enter_context(member.parts)
            return member

        yield make
    assert not Member.clashes


def settle(*members: Member, count: int = 8) -> list[int]:
    """Waits until everything is owned in even shares; returns their sizes in order."""

    def even() -> bool:
        sizes = [len(member.owned) for member in members]
        return sum(sizes) == count and max(sizes) - min(sizes) <= 1 and len(Member.active) == count

    wait_until(even, f"even shares of {count} among {len(members)}", PATIENCE)
    owned = [partition for member in members for partition in member.owned]
    assert sorted(owned) == list(range(count))
    return [len(member.owned) for member in members]


class TestShares:
    def test_one_member_owns_everything(self, members: Callable[..., Member]) -> None:
        assert settle(members()) == [8]

    def test_members_that_come_get_their_share(self, members: Callable[..., Member]) -> None:
        first = members()
        settle(first)
        second = members()
        settle(first, second)
        third = members()
        assert settle(first, second, third) == [3, 3, 2]  # in the order of their joining

    def test_members_that_leave_are_made_up_for_at_once(self, members: Callable[..., Member]) -> None:
        three = [members() for _ in range(3)]
        settle(*three)
        three[0].parts.stop()
        assert not three[0].owned
        assert not three[0].terms
        settle(*three[1:])

    def test_more_members_than_partitions(self, members: Callable[..., Member]) -> None:
        four = [members(2) for _ in range(4)]
        assert sorted(settle(*four, count=2)) == [0, 0, 1, 1]
        leaving = next(member for member in four if member.owned)
        leaving.parts.stop()
        settle(*(member for member in four if member is not leaving), count=2)

    def test_tokens_of_a_partition_rise_from_owner_to_owner(self, members: Callable[..., Member]) -> None:
        first = members(1)
        settle(first, count=1)
        token = first.parts.term(0).token
        second = members(1)
        first.parts.stop()
        settle(second, count=1)
        assert second.parts.term(0).token > token

    def test_a_term_of_what_is_not_owned_raises(self, any_backend: Backend) -> None:
        with pytest.raises(LockLost, match="partition 3 of 'orders'"):
            Partitions("orders", 8).term(3)


class TestLoss:
    def test_a_partition_that_is_broken_is_told_and_owned_again(self, members: Callable[..., Member]) -> None:
        member = members(2, ttl=1)
        settle(member, count=2)
        term = member.parts.term(1)
        assert break_lock(term.lease.partition(":")[2], kind="partitions")
        assert term.lost.wait(PATIENCE)
        settle(member, count=2)
        assert member.parts.term(1).token > term.token

    def test_a_membership_that_is_broken_is_taken_up_again(
        self, any_backend: Backend, members: Callable[..., Member]
    ) -> None:
        two = [members(ttl=1), members(ttl=1)]
        settle(*two)
        (page,) = any_backend.execute([ScanLeases("partitions:orders\x1fm:")])
        for row in page.page:
            assert break_lock(row.name.partition(":")[2], kind="partitions")
        three = [*two, members()]
        settle(*three)

    def test_a_partition_is_given_back_only_when_its_worker_has_stopped(self, any_backend: Backend, peer: str) -> None:
        stopping, stop = threading.Event(), threading.Event()
        proven: list[bool] = []

        def lost(partition: int) -> None:
            proven.append(term.remaining() > 0)
            stopping.set()
            assert stop.wait(PATIENCE)

        first = Partitions("orders", 1, on_lost=lost)
        second = Partitions("orders", 1, using=peer)
        first.start()
        wait_until(lambda: bool(first.owned), "the first to own it", PATIENCE)
        term = first.term(0)
        second.start()
        leaving = threading.Thread(target=first.stop)
        leaving.start()
        assert stopping.wait(PATIENCE)
        assert not first.owned
        assert not second.owned
        stop.set()
        leaving.join(PATIENCE)
        assert proven == [True]
        wait_until(lambda: bool(second.owned), "the second to own it", PATIENCE)
        second.stop()

    def test_a_callback_that_raises_is_logged_and_stops_nothing(
        self, any_backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        def gained(partition: int, term: Held) -> None:
            raise OSError(f"no worker for {partition}")

        with Partitions("orders", 3, on_gained=gained) as mine:
            wait_until(lambda: len(mine.owned) == 3, "all to be owned", PATIENCE)
        assert caplog.text.count("OSError: no worker for") == 3

    async def test_async(self, any_backend: Backend) -> None:
        gained = threading.Event()
        async with Partitions("orders", 1, on_gained=lambda partition, term: gained.set()) as mine:
            assert await asyncio.to_thread(gained.wait, PATIENCE)
            assert mine.owned == {0}
        assert mine.owned == frozenset()

    @pytest.mark.parametrize("count", [0, -1, 1001])
    def test_a_count_that_makes_no_sense_is_refused(self, count: int) -> None:
        with pytest.raises(ValueError, match="count is a number from 1 to 1000"):
            Partitions("orders", count)

    def test_starting_twice_is_a_mistake(self, any_backend: Backend) -> None:
        with Partitions("orders", 1) as mine, pytest.raises(RuntimeError, match="started already"):
            mine.start()


MEMBER = """
mine = Partitions("orders", 8, ttl=1, on_gained=lambda number, term: say("gained", number, term.token),
                  on_lost=lambda number: say("lost", number))
with mine:
    for order in orders():
        say("owned", sorted(mine.owned))
"""


def share(member: Member, child: Child) -> None:
    def even() -> bool:
        child.tell("what is yours?")
        (theirs,) = child.hears("owned")
        return len(theirs) == len(member.owned) == 4

    wait_until(even, "even shares", PATIENCE)


class TestProcesses:
    def test_what_a_killed_member_had_goes_to_the_others(self, served_backend: Backend) -> None:
        Member.active, Member.clashes = {}, []
        member = Member(8, ttl=2)
        with Child(MEMBER, served_backend) as child, member.parts:
            share(member, child)
            child.kill()
            settle(member)

    def test_a_frozen_member_owns_nothing_when_it_resumes_and_gets_its_share_again(
        self, served_backend: Backend
    ) -> None:
        Member.active, Member.clashes = {}, []
        member = Member(8, ttl=2)
        with Child(MEMBER, served_backend) as child, member.parts:
            share(member, child)
            child.freeze()
            settle(member)
            tokens = [member.parts.term(partition).token for partition in range(8)]
            child.thaw()
            for _ in range(4):
                child.hears("lost")
            wait_until(lambda: len(member.owned) == 4, "even shares again", PATIENCE)
            again = [child.hears("gained") for _ in range(4)]
            assert all(token > tokens[partition] for partition, token in again)
