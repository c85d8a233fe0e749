"""Holders and waiters that freeze or die, as real processes."""

from __future__ import annotations

import time

from dref_django.inspection import lock_info
from tests.lock_faults.conftest import Site
from tests.lock_faults.holders import Holder
from tests.locks.test_entering import until_awaited
from tests.processes import wait_until


def freeze_until_lost(holder: Holder, seconds: float) -> None:
    holder.freeze()
    thawed_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > thawed_at, "the lease to be over", seconds + 5)


class TestFrozenHolder:
    def test_learns_its_loss_before_its_next_guarded_statement(self, site: Site) -> None:
        holder = site.holder()
        holder.acquire("h", "a")
        freeze_until_lost(holder, 1.2)
        holder.tell("check", "h")  # the first thing that it will do
        holder.thaw()
        assert not holder.expect("checked", "h")["held"]
        holder.expect("lost", "h")

    def test_another_gets_the_lock_only_when_the_lease_ran_out(self, site: Site) -> None:
        holder, waiter = site.holder(), site.holder()
        first = holder.acquire("h", "a", ttl=2)
        waiter.wait_for("w", "a", ttl=2)
        until_awaited("a")
        frozen_at = time.monotonic()
        holder.freeze()
        second = waiter.expect("acquired", "w")
        holder.tell("check", "h")
        holder.thaw()
        assert not holder.expect("checked", "h")["held"]
        assert second["token"] > first["token"]
        assert second["at"] >= first["at"] + first["left"]  # when the holder's own window had closed, too
        assert second["at"] - frozen_at < 2 + 2  # the lease, and a place in the queue

    def test_pause_shorter_than_the_lease_loses_nothing(self, site: Site) -> None:
        holder = site.holder()
        holder.acquire("h", "a", ttl=3)
        freeze_until_lost(holder, 1.2)
        holder.tell("check", "h")
        holder.thaw()
        assert holder.expect("checked", "h")["held"]
        holder.tell("release", "h")
        holder.expect("released", "h")

    def test_late_release_touches_nothing_of_the_next_holder(self, site: Site) -> None:
        holder, other = site.holder(), site.holder()
        holder.acquire("h", "a")
        holder.freeze()
        second = other.acquire("o", "a", ttl=30)
        holder.tell("release", "h")
        holder.thaw()
        assert holder.expect("failed", "h")["error"] == "LockLost"
        found = lock_info("a")
        assert found is not None
        assert found.token == second["token"]
        other.tell("check", "o")
        assert other.expect("checked", "o")["held"]


class TestFrozenWaiter:
    def test_is_passed_over_and_served_when_it_is_back(self, site: Site) -> None:
        holder, frozen, waiter = site.holder(), site.holder(), site.holder()
        holder.acquire("h", "a", ttl=30)
        frozen.wait_for("f", "a")
        until_awaited("a", 1)
        waiter.wait_for("w", "a")
        until_awaited("a", 2)
        frozen.freeze()
        holder.tell("release", "h")
        waiter.expect("acquired", "w", timeout=10)
        frozen.thaw()
        waiter.tell("release", "w")
        frozen.expect("acquired", "f", timeout=10)


class TestKilled:
    def test_holder(self, site: Site) -> None:
        holder, waiter = site.holder(), site.holder()
        first = holder.acquire("h", "a", ttl=2)
        waiter.wait_for("w", "a", ttl=2)
        until_awaited("a")
        holder.kill()
        second = waiter.expect("acquired", "w", timeout=6)
        assert second["token"] > first["token"]

    def test_head_of_the_queue(self, site: Site) -> None:
        self.assert_queue_survives(site, victim=0)

    def test_middle_of_the_queue(self, site: Site) -> None:
        self.assert_queue_survives(site, victim=1)

    @staticmethod
    def assert_queue_survives(site: Site, victim: int) -> None:
        holder = site.holder()
        holder.acquire("h", "a", ttl=30)
        waiters = [site.holder() for _ in range(3)]
        for number, waiter in enumerate(waiters):
            waiter.wait_for("w", "a")
            until_awaited("a", number + 1)
        waiters.pop(victim).kill()
        released_at = time.monotonic()
        holder.tell("release", "h")
        tokens = []
        while waiters:
            (served,) = wait_for_one(waiters)
            tokens.append(served.expect("acquired", "w")["token"])
            served.tell("release", "w")
            served.expect("released", "w")
            waiters.remove(served)
        assert tokens == sorted(set(tokens))
        assert time.monotonic() - released_at < 10  # a lost wake-up: the next look is 5 s away at most

    def test_everybody(self, site: Site) -> None:
        victims = [site.holder() for _ in range(3)]
        victims[0].acquire("h", "a")
        for number, waiter in enumerate(victims[1:]):
            waiter.wait_for("w", "a")
            until_awaited("a", number + 1)
        for victim in victims:
            victim.kill()
        began = time.monotonic()
        site.holder().acquire("h", "a")
        assert time.monotonic() - began < 12


def wait_for_one(waiters: list[Holder]) -> list[Holder]:
    """The one that was served."""
    wait_until(lambda: any(waiter.has_said("acquired", "w") for waiter in waiters), "a waiter to be served", 20)
    return [waiter for waiter in waiters if waiter.has_said("acquired", "w")]
