"""Connections: how many there are, who owns them, and when they close."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from asgiref.sync import async_to_sync

from dref_django.backends.redis import RedisBackend
from dref_django.backends.redis.wire import LoopWire, Wire
from dref_django.exceptions import DRefError, Unavailable
from dref_django.protocol import Acquire, Add, Command, Inspect, Read, Status, Write
from tests.listening import until
from tests.proxy import TcpProxy
from tests.redis.conftest import MakeBackend, command
from tests.servers import HasUrl

MIB = 1024 * 1024


class Named:
    """A back end whose connections carry a name of their own, so that the server can count them."""

    def __init__(self, make_backend: MakeBackend, server: HasUrl, **options: Any) -> None:
        self.client_name = f"test-{secrets.token_hex(6)}"
        self.backend = make_backend(CLIENT_KWARGS={"client_name": self.client_name}, **options)
        self._server = server

    def count(self) -> int:
        clients: bytes = command(self._server, "CLIENT", "LIST")
        return clients.count(f"name={self.client_name} ".encode())

    def wait_for(self, count: int) -> None:
        """The server notices a closed connection a moment later."""
        deadline = time.monotonic() + 5
        while self.count() != count and time.monotonic() < deadline:
            os.sched_yield()
        assert self.count() == count


@pytest.fixture
def named(make_backend: MakeBackend, redis_server: HasUrl) -> Named:
    return Named(make_backend, redis_server)


def test_nothing_connects_before_the_first_use(named: Named) -> None:
    assert named.count() == 0


def test_one_thread_needs_one_connection(named: Named) -> None:
    for _ in range(20):
        named.backend.execute([Add("n", 1)])
    assert named.count() == 1
    named.backend.close()
    named.backend.close()
    named.wait_for(0)
    assert named.backend.execute([Read("n")])[0].data == 20


def test_a_thousand_async_to_sync_calls_leave_no_more_than_one_connection(named: Named) -> None:
    @async_to_sync
    async def increment() -> Any:
        return (await named.backend.aexecute([Add("n", 1)]))[0].data

    for expected in range(1, 1001):
        assert increment() == expected
    named.wait_for(0)


def test_two_loops_have_connections_of_their_own(named: Named) -> None:
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    for loop in loops:
        loop.run_until_complete(named.backend.aexecute([Add("n", 1)]))
    assert named.count() == 2
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    named.wait_for(0)


async def test_close_reaches_the_connections_of_running_loops(named: Named) -> None:
    await named.backend.aexecute([Add("n", 1)])
    assert named.count() == 1
    await asyncio.to_thread(named.backend.close)
    await until(lambda: named.count() == 0)
    assert (await named.backend.aexecute([Read("n")]))[0].data == 1


def test_connection_that_is_busy_while_the_back_end_closes_is_closed_after_its_answer(
    named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    named.backend.execute([Add("n", 1)])
    exchange = Wire.exchange

    def meanwhile(wire: Wire, *request: Any) -> list[Any]:
        answers = exchange(wire, *request)
        named.backend.close()
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(Wire, "exchange", meanwhile)
        assert named.backend.execute([Add("n", 1)])[0].data == 2
    named.wait_for(0)
    assert named.backend.execute([Read("n")])[0].data == 2


async def test_connection_of_a_loop_that_is_busy_while_the_back_end_closes_is_closed_after_its_answer(
    named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    await named.backend.aexecute([Add("n", 1)])
    exchange = LoopWire.exchange

    async def meanwhile(wire: LoopWire, *request: Any) -> list[Any]:
        answers = await exchange(wire, *request)
        named.backend.close()
        await asyncio.sleep(0)  # the loop is told,
        await asyncio.sleep(0)  # and the task closes what is idle
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(LoopWire, "exchange", meanwhile)
        assert (await named.backend.aexecute([Add("n", 1)]))[0].data == 2
    await asyncio.to_thread(named.wait_for, 0)
    assert (await named.backend.aexecute([Read("n")]))[0].data == 2


async def test_what_a_server_says_unasked_is_not_taken_for_the_next_reply(named: Named) -> None:
    await named.backend.aexecute([Write("n", 1)])
    pool = await named.backend._loop_pools().pool(None)
    (idle,) = pool._idle
    idle._reader.feed_data(b"+nonsense\r\n")  # the loop has read it while nobody waited
    assert (await named.backend.aexecute([Read("n")]))[0].data == 1
    assert pool._idle != [idle]


def test_threads_share_a_bounded_number_of_connections(make_backend: MakeBackend, redis_server: HasUrl) -> None:
    named = Named(make_backend, redis_server, MAX_CONNECTIONS=2)
    threads = [
        threading.Thread(target=lambda: [named.backend.execute([Add("n", 1)]) for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert named.backend.execute([Read("n")])[0].data == 400
    assert named.count() <= 2


async def test_tasks_share_a_bounded_number_of_connections(make_backend: MakeBackend, redis_server: HasUrl) -> None:
    named = Named(make_backend, redis_server, MAX_CONNECTIONS=2)
    await asyncio.gather(*(named.backend.aexecute([Add("n", 1)]) for _ in range(200)))
    assert (await named.backend.aexecute([Read("n")]))[0].data == 200
    assert named.count() <= 2


@pytest.fixture
def silent(redis_server: HasUrl) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", urlsplit(redis_server.url).port or 6379) as proxy:
        yield proxy


async def test_busy_connections_are_said_in_time(
    make_backend: MakeBackend, redis_server: HasUrl, silent: TcpProxy
) -> None:
    backend, direct = make_backend(URL=silent.through(redis_server.url), MAX_CONNECTIONS=1), make_backend()
    await backend.aexecute([Write("a", 0)])
    await asyncio.to_thread(backend.execute, [Write("b", 0)])
    silent.blackhole(requests=False)
    waiting = asyncio.ensure_future(backend.aexecute([Write("a", 1, op=b"12345678")]))
    blocked = asyncio.ensure_future(asyncio.to_thread(backend.execute, [Write("b", 1, op=b"12345678")]))
    await until(lambda: [reply.data for reply in direct.execute([Read("a"), Read("b")])] == [1, 1])
    with pytest.raises(Unavailable, match="all 1 connections are busy"):
        await backend.aexecute([Write("a", 2)], timeout=0.1)
    with pytest.raises(Unavailable, match="all 1 connections are busy"):
        await asyncio.to_thread(backend.execute, [Write("b", 2)], timeout=0.1)
    silent.heal()
    for replies in await asyncio.gather(waiting, blocked):
        assert replies[0].status is Status.APPLIED
    assert [reply.data for reply in direct.execute([Read("a"), Read("b")])] == [1, 1]


async def test_cancelled_exchange_never_leaves_its_reply_to_another(
    make_backend: MakeBackend, redis_server: HasUrl, silent: TcpProxy
) -> None:
    backend, direct = make_backend(URL=silent.through(redis_server.url)), make_backend()
    await backend.aexecute([Write("mine", 0), Write("yours", b"yours")])
    await backend.aexecute([Add("mine", 0)])  # the server knows the script now
    silent.blackhole(requests=False)
    task = asyncio.ensure_future(backend.aexecute([Add("mine", 1)]))
    await until(lambda: direct.execute([Read("mine")])[0].data == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    silent.heal()
    assert (await backend.aexecute([Read("yours")]))[0].data == b"yours"


async def test_scripts_that_the_server_forgot_are_sent_along(backend: RedisBackend, redis_server: HasUrl) -> None:
    cases: list[list[Command]] = [
        [Add("n", 1)],
        [Add("n", 1)],
        [Read("n")],
        [Write("v", b"x"), Write("w", 1)],
        [Acquire("l", "n/1", 10**7), Inspect("l")],
    ]
    for commands in cases:
        for _ in range(2):
            command(redis_server, "SCRIPT", "FLUSH")
            assert [reply.status for reply in backend.execute(commands)] == [Status.APPLIED] * len(commands)
            command(redis_server, "SCRIPT", "FLUSH")
            assert [reply.status for reply in await backend.aexecute(commands)] == [Status.APPLIED] * len(commands)
    assert backend.execute([Read("n")])[0].data == 8


@pytest.mark.parametrize("size", [0, 7_999, 8_000, 8_001, MIB])
async def test_values_of_every_size_come_back(backend: RedisBackend, size: int) -> None:
    value = os.urandom(size)
    backend.execute([Write("v", value)])
    assert backend.execute([Read("v")])[0].data == value
    assert backend.execute([Read("v"), Read("v", 1), Read("none")])[1].data == value
    assert (await backend.aexecute([Read("v")]))[0].data == value
    assert (await backend.aexecute([Read("v"), Read("v", 1), Read("none")]))[1].data == value


def test_reply_that_trickles_in_ends_with_the_time_limit() -> None:
    ours, theirs = socket.socketpair()
    connection = SimpleNamespace(_sock=ours, disconnect=ours.close)
    wire = Wire(connection, 0.2)
    feeding = threading.Event()

    def trickle() -> None:
        theirs.recv(100)
        theirs.sendall(b"$1000000\r\n")
        while not feeding.wait(0.01):
            theirs.sendall(b"x")

    feeder = threading.Thread(target=trickle)
    feeder.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        wire.exchange(b"PING", 1, 0.2)
    assert time.monotonic() - started < 2
    feeding.set()
    feeder.join()
    wire.close()
    theirs.close()


def test_forked_child_leaves_the_connections_of_its_parent_alone(named: Named) -> None:
    named.backend.execute([Add("n", 1)])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(named.backend.aexecute([Add("n", 1)]))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            (reply,) = named.backend.execute([Add("n", 1)])
            os.write(writing, str(reply.data).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"3"
    os.close(reading)
    os.close(writing)
    assert named.backend.execute([Add("n", 1)])[0].data == 4
    (last,) = loop.run_until_complete(named.backend.aexecute([Add("n", 1)]))
    assert last.data == 5
    named.wait_for(2)  # the parent's own two: the child closed none, and its own are gone with it
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_newer_layout_is_refused(make_backend: MakeBackend, redis_server: HasUrl) -> None:
    backend = make_backend()
    backend.execute([Add("n", 1)])
    assert command(redis_server, "GET", backend.keys.layout) == b"1"
    command(redis_server, "SET", backend.keys.layout, "2")
    assert backend.execute([Add("n", 1)])[0].data == 2  # it was asked before
    late = make_backend()
    with pytest.raises(DRefError, match=r"layout 2.*Upgrade dref_django"):
        late.execute([Add("n", 1)])
    with pytest.raises(DRefError, match="layout 2"):
        asyncio.run(late.aexecute([Read("n")]))
