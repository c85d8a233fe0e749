"""What a process says of the pages that it serves."""

import asyncio
import time
from typing import Any

from dref_django import Counter, Presence
from dref_django.live.counting import Tally, counts
from dref_django.live.policy import Policy
from tests.live.client import Client
from tests.live.test_fanout import eventually


class Open(Policy):
    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        return True

    def allows_prefix(self, user: Any, prefix: str, action: str) -> bool:
        return True


def dropped(reason: str) -> int:
    return counts("default").dropped.get(reason, 0)


async def test_sockets_subscriptions_and_rooms_are_those_of_now(settings: Any) -> None:
    settings.DREF_POLICY = "tests.live.test_counting.Open"
    async with Client() as first, Client() as second:
        for client in (first, second):
            await client.expect("hello")
            await client.watch("test.a", prefixes=["test.open."])
            await client.expect("snapshot")
        await second.say("join", rooms=["tea"])
        await second.expect("joined")
        assert counts("default")[:4] == (2, 4, 1, 0)
        await second.say("unwatch", names=["test.a"])
        await second.expect("unwatched")
        await second.say("leave", rooms=["tea"])
        await second.expect("left")
        assert counts("default")[:4] == (2, 3, 0, 0)
    await eventually(lambda: counts("default")[:4] == (0, 0, 0, 0), "the sockets to be gone")
    assert await Presence("tea").acount() == 0


async def test_client_that_acknowledges_nothing_is_slow_until_it_does(limits: Any) -> None:
    limits(WINDOW=1024)
    ref = Counter("test.long." + "x" * 180)
    async with Client() as client:
        await client.expect("hello")
        await client.watch(ref.name)
        while not counts("default").slow:
            await ref.aincrement()
            await asyncio.sleep(0)
        await client.until(ref.name, await ref.aget())  # answers the pings on the way
        await eventually(lambda: not counts("default").slow, "the client not to be slow")


async def test_dropped_clients_are_counted_by_reason(limits: Any) -> None:
    limits(MAX_MESSAGE_SIZE=256)
    before = dropped("too-large")
    async with Client() as client:
        await client.expect("hello")
        await client.say_text("x" * 257)
        await client.expect("error", code="too-large")
        assert dropped("too-large") == before + 1
    async with Client() as client:
        await client.expect("hello")
    assert dropped("too-large") == before + 1


async def test_lag_is_the_age_of_a_change_when_it_is_ready_for_the_sockets() -> None:
    ref = Counter("test.aged")
    async with Client() as client:
        await client.expect("hello")
        await client.watch(ref.name)
        await client.expect("snapshot")
        before = time.time()
        await ref.aset(1)
        await client.until(ref.name, 1)
        lag = counts("default").lag
        assert lag is not None
        assert -0.001 < lag <= time.time() - before + 0.001


async def test_snapshot_of_an_old_value_is_no_lag() -> None:
    ref = Counter("test.old")
    await ref.aset(1)
    before = counts("default").lag
    async with Client() as client:
        await client.expect("hello")
        await client.watch(ref.name)
        await client.until(ref.name, 1)
    assert counts("default").lag == before


def test_a_process_begins_with_nothing() -> None:
    assert Tally().counts() == (0, 0, 0, 0, {}, None)
