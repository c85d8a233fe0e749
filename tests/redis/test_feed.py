"""The listener: what it hears, what it costs on the wire, and how it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgpack
import pytest
import redis.asyncio

from dref_django.backends.redis import RedisBackend
from dref_django.backends.redis.scripts import pack
from dref_django.deltas import make_splice
from dref_django.protocol import Acquire, Add, Delete, Notice, Patch, Release, Splice, Wake, Write
from tests.listening import Listening, until
from tests.proxy import TcpProxy
from tests.redis.conftest import MakeBackend, command
from tests.servers import HasUrl, RedisServer


@pytest.fixture
async def listening(backend: RedisBackend) -> AsyncIterator[Listening]:
    async with Listening(backend) as running:
        yield running


async def test_what_is_written_after_subscribe_is_noticed(listening: Listening) -> None:
    for number in range(20):
        await listening.feed.subscribe([f"n{number}"], [])
        await listening.backend.aexecute([Add(f"n{number}", number)])
    await until(lambda: len(listening.heard.notices) == 20)
    assert [notice.data for notice in listening.heard.notices] == list(range(20))


async def test_subscribed_twice_at_once_is_confirmed_to_both(listening: Listening) -> None:
    await asyncio.gather(*(listening.feed.subscribe(["a", "b"], ["p"]) for _ in range(5)))
    await listening.backend.aexecute([Add("a", 1), Add("p1", 1)])
    await until(lambda: len(listening.heard.notices) == 2)


async def test_unsubscribed_and_subscribed_again_is_confirmed_anew(listening: Listening) -> None:
    for _ in range(10):
        await listening.feed.subscribe(["a"], ["p"])
        await listening.feed.unsubscribe(["a"], ["p"])
    await listening.feed.subscribe(["a"], [])
    await listening.backend.aexecute([Add("p1", 1)])
    await listening.backend.aexecute([Add("a", 1)])
    await until(lambda: bool(listening.heard.notices))
    assert listening.heard.names() == ["a"]


async def test_each_change_is_told_once_however_often_it_is_watched(listening: Listening) -> None:
    await listening.feed.subscribe(["shop.visits"], ["", "shop.", "shop.v", "sh*p"])
    for name in ("shop.visits", "shop.votes", "other", "sh*p1"):
        await listening.backend.aexecute([Add(name, 1)])
    await until(lambda: "sh*p1" in listening.heard.names())
    assert listening.heard.names() == ["shop.visits", "shop.votes", "other", "sh*p1"]


@pytest.mark.parametrize("prefix", ["a*b", "a?b", "a[b]", "a\\b", "é{", "a\\*"])
async def test_prefix_stands_for_itself(listening: Listening, prefix: str) -> None:
    await listening.feed.subscribe([], [prefix])
    for name in ("aXb", "ab", prefix, prefix + "more"):
        await listening.backend.aexecute([Add(name, 1)])
    await until(lambda: prefix + "more" in listening.heard.names())
    assert listening.heard.names() == [prefix, prefix + "more"]


async def test_one_changed_field_of_100_kb_is_published_in_under_300_bytes(
    backend: RedisBackend, listening: Listening, redis_server: HasUrl
) -> None:
    value = {f"field {number}": "x" * 90 for number in range(1000)}
    old = msgpack.packb(value)
    new = msgpack.packb({**value, "field 500": "y" * 90})
    splice = make_splice(old, new)
    assert isinstance(splice, Splice)
    assert len(old) > 100_000
    (first,) = await listening.backend.aexecute([Write("v", old)])
    await listening.feed.subscribe(["v"], [])
    async with redis.asyncio.Redis.from_url(redis_server.url) as client, client.pubsub() as raw:
        await raw.subscribe(backend.keys.channel("v"))
        await raw.get_message(timeout=5)
        (second,) = await listening.backend.aexecute([Write("v", splice, expect=first.version)])
        message = await raw.get_message(timeout=5)
    assert message is not None
    assert len(message["channel"]) + len(message["data"]) < 300
    await until(lambda: bool(listening.heard.notices))
    assert listening.heard.notices == [Notice("v", second.version, first.version, Patch.SPLICE, None, splice, None)]


async def test_large_values_are_hinted_at(listening: Listening) -> None:
    await listening.feed.subscribe(["v"], [])
    for size in (32 * 1024, 32 * 1024 + 1):
        await listening.backend.aexecute([Write("v", b"x" * size)])
    await until(lambda: len(listening.heard.notices) == 2)
    assert [notice.patch for notice in listening.heard.notices] == [Patch.FULL, Patch.HINT]
    assert listening.heard.notices[1].data is None


async def test_deletion_and_deadline_are_told(listening: Listening) -> None:
    await listening.feed.subscribe(["v"], [])
    await listening.backend.aexecute([Write("v", b"x", ttl=5_000_000)])
    await listening.backend.aexecute([Delete("v")])
    await until(lambda: len(listening.heard.notices) == 2)
    written, gone = listening.heard.notices
    assert (written.left, gone.patch, gone.base) == (5_000_000, Patch.GONE, written.version)


async def test_waiters_of_this_process_are_woken(listening: Listening, make_backend: MakeBackend) -> None:
    backend = listening.backend
    mine, other = f"{backend.node_id()}/7", f"{make_backend().node_id()}/7"
    await backend.aexecute([Acquire("l", "x/1", 10**9), Acquire("l", mine, 10**9, 10**9)])
    await backend.aexecute([Acquire("k", "x/1", 10**9), Acquire("k", other, 10**9, 10**9)])
    await backend.aexecute([Release("k", "x/1"), Release("l", "x/1")])
    await until(lambda: bool(listening.heard.wakes))
    assert listening.heard.wakes == [Wake("l", mine)]


async def test_killed_connection_comes_back_and_hears_again(listening: Listening, redis_server: HasUrl) -> None:
    await listening.feed.subscribe(["a"], ["p"])
    command(redis_server, "CLIENT", "KILL", "TYPE", "pubsub")
    await listening.ups(2)
    assert len(listening.heard.downs) == 1
    assert listening.heard.epochs[0] == listening.heard.epochs[1]
    await listening.feed.subscribe(["b"], [])
    await listening.backend.aexecute([Add("a", 1), Add("b", 1), Add("p1", 1)])
    await until(lambda: listening.heard.names() == ["a", "b", "p1"])


async def test_complaint_of_the_server_ends_the_connection_and_another_one_hears(listening: Listening) -> None:
    await listening.feed.subscribe(["a"], [])
    session = listening.feed._session  # type: ignore[attr-defined]
    await session._wire.send(pack(b"GET", b"x"))  # who listens may not ask
    await listening.ups(2)
    assert "GET" in listening.heard.downs[0].upper()
    await listening.backend.aexecute([Add("a", 1)])
    await until(lambda: listening.heard.names() == ["a"])


async def test_restarted_server_has_another_epoch(make_backend: MakeBackend) -> None:
    with RedisServer() as server:
        backend = make_backend(URL=server.url)
        async with Listening(backend) as listening:
            await listening.feed.subscribe(["a"], [])
            await asyncio.to_thread(server.kill)
            await until(lambda: len(listening.heard.downs) == 1)
            await listening.feed.subscribe(["b"], [])  # returns at once; the next `up` covers it
            await asyncio.to_thread(server.start)
            await listening.ups(2)
            assert len(set(listening.heard.epochs)) == 2
            await backend.aexecute([Add("a", 1), Add("b", 1)])
            await until(lambda: listening.heard.names() == ["a", "b"])


async def test_deaf_connection_is_noticed_by_its_canaries(make_backend: MakeBackend, redis_server: HasUrl) -> None:
    with TcpProxy("127.0.0.1", urlsplit(redis_server.url).port or 6379) as proxy:
        backend = make_backend(URL=proxy.through(redis_server.url), heartbeat=0.05, timeout=0.5)
        async with Listening(backend) as listening:
            await listening.feed.subscribe(["a"], [])
            proxy.blackhole()  # half-open: nothing ends, nothing comes
            await until(lambda: len(listening.heard.downs) == 1)
            assert "canaries" in listening.heard.downs[0]
            proxy.heal()
            await listening.ups(2)
            await make_backend().aexecute([Add("a", 1)])
            await until(lambda: listening.heard.names() == ["a"])


async def test_subscription_that_is_not_confirmed_ends_the_connection(
    make_backend: MakeBackend, redis_server: HasUrl
) -> None:
    with TcpProxy("127.0.0.1", urlsplit(redis_server.url).port or 6379) as proxy:
        backend = make_backend(URL=proxy.through(redis_server.url), timeout=0.2)
        async with Listening(backend) as listening:
            proxy.blackhole()
            await listening.feed.subscribe(["a"], [])
            await until(lambda: len(listening.heard.downs) == 1)
            proxy.heal()
            await listening.ups(2)
            await make_backend().aexecute([Add("a", 1)])
            await until(lambda: listening.heard.names() == ["a"])


async def test_listener_needs_one_connection_for_any_number_of_names(
    backend: RedisBackend, listening: Listening, redis_server: HasUrl
) -> None:
    before = command(redis_server, "CLIENT", "LIST", "TYPE", "pubsub").count(b"\n")
    await listening.feed.subscribe([f"n{number}" for number in range(5000)], [])
    assert command(redis_server, "CLIENT", "LIST", "TYPE", "pubsub").count(b"\n") == before
