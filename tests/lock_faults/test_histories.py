"""What several processes recorded of their entries, judged by a checker that knows nothing of locks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import psycopg
import pytest
import redis

from dref_django import backends
from dref_django.backends import Backend
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.redis import RedisBackend
from dref_django.inspection import lock_info
from dref_django.protocol import Inspect, Status
from tests.lock_faults.conftest import Site, url_of
from tests.lock_faults.holders import Holder
from tests.processes import wait_until


class Passage(NamedTuple):
    """One holder's time inside, on the clock that all processes of the host share."""

    token: int
    entered: float
    left: float


def faults(history: Iterable[Passage]) -> list[str]:
    """Two holders at once, a token twice, work under an older token after a newer one worked."""
    found = []
    ordered = sorted(history, key=lambda passage: passage.entered)
    for earlier, later in itertools.pairwise(ordered):
        if later.entered < earlier.left:
            found.append(f"two holders at once: {earlier} and {later}")
        if later.token <= earlier.token:
            found.append(f"token does not rise: {earlier} before {later}")
    return found


class TestChecker:
    """It must see what it is there for."""

    def test_accepts_a_good_history(self) -> None:
        assert not faults([Passage(5, 2.0, 3.0), Passage(1, 0.0, 1.0), Passage(2, 1.0, 1.5)])

    @pytest.mark.parametrize(
        ("second", "fault"),
        [
            (Passage(2, 0.5, 2.0), "two holders"),
            (Passage(1, 1.0, 2.0), "token"),
            (Passage(0, 1.0, 2.0), "token"),
        ],
    )
    def test_finds_each_fault(self, second: Passage, fault: str) -> None:
        (found,) = faults([Passage(1, 0.0, 1.0), second])
        assert fault in found


def recorded(holders: Iterable[Holder]) -> list[Passage]:
    return [
        Passage(event["token"], event["entered"], event["left"])
        for holder in holders
        for event in holder.all("round", "r")
        if event["held"]
    ]


class TestProcesses:
    def test_four_processes_in_turn(self, site: Site) -> None:
        holders = [site.holder() for _ in range(4)]
        for holder in holders:
            holder.tell("rounds", "r", name="a", count=40, ttl=30)
        for holder in holders:
            holder.expect("done", "r", timeout=55)
        history = recorded(holders)
        assert len(history) == 160
        assert not faults(history)

    def test_processes_that_freeze_and_die_meanwhile(self, site: Site) -> None:
        holders = [site.holder() for _ in range(4)]
        for holder in holders:
            holder.tell("rounds", "r", name="a", count=80, ttl=1)
        wait_until(lambda: len(recorded(holders)) > 20, "the race to be on", 30)
        holders[0].freeze()
        so_far = len(recorded(holders))
        wait_until(lambda: len(recorded(holders)) > so_far + 20, "the others to go on", 30)
        holders[1].kill()
        so_far = len(recorded(holders))
        wait_until(lambda: len(recorded(holders)) > so_far + 20, "the others to go on", 30)
        holders[0].thaw()
        for holder in (holders[0], *holders[2:]):
            holder.expect("done", "r", timeout=50)
        assert not faults(recorded(holders))


class TestRaces:
    def test_no_expiry_rises_after_any_of_five_thousand_releases(self, site: Site) -> None:
        """Two processes release while their own renewal is on its way; the server is watched by a third."""
        holders = [site.holder() for _ in range(2)]
        names = [f"race{number}" for number in range(5)]
        for holder, name in itertools.product(holders, names):
            holder.tell("race", name, name=name, count=500)
        for holder, name in itertools.product(holders, names):
            holder.expect("done", name, timeout=55)
        backend = backends.get_backend()
        for name in names:  # a renewal that came after the last release would show as held for 30 s
            assert lock_info(name) is None
            assert backend.execute([Inspect(f"lock:{name}")])[0].status is Status.NOT_FOUND
        if not isinstance(backend, RaftBackend):  # there an inspection sees all there is
            assert stored_owners(backend) == {f"lock:{name}": "" for name in names}


def stored_owners(backend: Backend) -> dict[str, str]:
    """Of each lease, as the server has it."""
    prefix = backend.params.key_prefix
    if isinstance(backend, RedisBackend):
        with redis.Redis.from_url(backend.params.options["URL"]) as client:
            keys = [key for key in client.keys("*race*") if prefix.encode() in key]
            names = [(backend.keys.name(key, b"!") or b"").decode() for key in keys]
            return {name: client.hget(key, "o").decode() for name, key in zip(names, keys, strict=True)}
    with psycopg.connect(url_of(backend.params.options["DATABASE_ALIAS"])) as connection:
        return dict(connection.execute("SELECT name, owner FROM dref_lease WHERE space = %s", [prefix]).fetchall())
