"""One reader of the hub a name, one text a change, and nothing left behind."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from dref_django import Counter, DRef, backends
from dref_django.codecs import JsonCodec
from dref_django.hub import Hub
from dref_django.testing import isolate
from tests.live.client import Client, Closed
from tests.live.test_slow_clients import Carrier
from tests.processes import wait_until


class CountingCodec(JsonCodec):
    """Counts how often a value is decoded."""

    name = "counting"
    decoded = 0

    def decode(self, data: bytes) -> object:
        type(self).decoded += 1
        return super().decode(data)


async def eventually(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, 10.0)


async def test_change_is_decoded_once_however_many_watch() -> None:
    ref = DRef[str]("test.counted", codec="tests.live.test_fanout.CountingCodec")
    await ref.aset("first")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client()) for _ in range(20)]
        for client in clients:
            await client.expect("hello")
            await client.watch("test.counted")
            await client.until("test.counted", "first")
        before = CountingCodec.decoded
        await ref.aset("second")
        for client in clients:
            await client.until("test.counted", "second")
        assert CountingCodec.decoded == before + 1


async def test_hub_has_one_reader_however_many_watch(hub: Hub) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(10):
            client = await stack.enter_async_context(Client())
            await client.expect("hello")
            await client.watch("test.shared")
            await client.expect("snapshot")
        assert len(hub.cells["test.shared"].readers) == 1


async def test_last_client_to_go_ends_the_watch(hub: Hub) -> None:
    await Counter("test.open.a").aset(1)
    async with Client() as first:
        await first.expect("hello")
        await first.say("watch", names=["test.a"], prefixes=["test.open."])
        await first.expect("watching")
        await first.until("test.open.a", 1)
        async with Client() as second:
            await second.expect("hello")
            await second.watch("test.a")
            await second.expect("snapshot")
        assert "test.a" in hub.cells
    await eventually(lambda: not hub.cells, "the hub to watch nothing any more")


async def test_unwatching_ends_the_watch_while_the_client_stays(hub: Hub) -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.a", "test.b")
        await client.expect("snapshot")
        await client.expect("snapshot")
        await client.say("unwatch", names=["test.a"])
        await eventually(lambda: set(hub.cells) == {"test.b"}, "the hub to watch only the other")


async def test_watch_that_ends_before_it_began_leaves_nothing(hub: Hub) -> None:
    for _ in range(20):
        async with Client() as client:
            await client.expect("hello")
            await client.watch("test.hasty")
    await eventually(lambda: not hub.cells, "the hub to watch nothing any more")


async def test_handler_that_is_cancelled_leaves_nothing(hub: Hub) -> None:
    client = Client()
    await client.__aenter__()
    await client.expect("hello")
    await client.watch("test.a")
    await client.expect("snapshot")
    task = client._communicator.future
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not hub.cells, "the hub to watch nothing any more")


async def test_clients_on_several_loops_hear_the_same(hub: Hub) -> None:
    ref = Counter("test.loops")
    heard: list[list[int]] = []

    async def listen() -> None:
        async with Carrier() as carrier:
            await carrier.say("watch", names=["test.loops"])
            await carrier.until("test.loops", 3)
            heard.append(carrier.values("test.loops"))

    threads = [threading.Thread(target=asyncio.run, args=[listen()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(heard) < 3:
        if await ref.aget() < 3:
            await ref.aincrement()
        await asyncio.sleep(0)
    for thread in threads:
        thread.join(10)
    assert all(values == sorted(values) and values[-1] == 3 for values in heard)
    await eventually(lambda: not hub.cells, "the hub to watch nothing any more")


async def test_loop_that_closed_under_its_sockets_is_forgotten(hub: Hub) -> None:
    ref = Counter("test.loops")
    loop = asyncio.new_event_loop()

    async def abandon() -> None:
        carrier = Carrier()
        await carrier.say("watch", names=["test.loops"])
        kept.append(carrier)

    kept: list[Carrier] = []
    await asyncio.to_thread(loop.run_until_complete, abandon())
    loop.close()
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.loops")
        await ref.aincrement()
        await client.until("test.loops", 1)
    await ref.aincrement()
    await eventually(lambda: not hub.cells, "the hub to watch nothing any more")


async def test_discarded_back_end_sends_its_clients_to_connect_again() -> None:
    async with Client() as watching, Client() as idle:
        await watching.expect("hello")
        await idle.expect("hello")
        await watching.watch("test.a")
        await watching.expect("snapshot")
        backends.reset()
        await watching.expect("error", code="restarting")
        with pytest.raises(Closed) as closed:
            await watching.hear()
        assert closed.value.code == 1012
        await idle.say("watch", names=["test.a"])
        await idle.expect("watching")
        await idle.expect("error", code="restarting")


async def test_next_back_end_is_watched_anew() -> None:
    for number in (1, 2):
        with isolate():
            await Counter("test.a").aset(number)
            async with Client() as client:
                await client.expect("hello")
                await client.watch("test.a")
                assert await client.value("test.a") == number


async def test_back_end_that_comes_back_into_use_is_watched_anew() -> None:
    counter = Counter("test.a")
    async with Client() as before:
        await before.expect("hello")
        await before.watch("test.a")
        await before.expect("snapshot")
        with isolate():
            await before.expect("error", code="restarting")
    async with Client() as after:
        await after.expect("hello")
        await after.watch("test.a")
        await after.expect("snapshot")
        await counter.aincrement()
        await after.expect("snapshot", text="1")
