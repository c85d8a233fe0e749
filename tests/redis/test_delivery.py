"""Lost connections, refusing servers: a change is made once or not at all, and the caller learns which."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from dref_django.exceptions import DRefError, OutcomeUnknown, Unavailable
from dref_django.protocol import Acquire, Add, Read, Release, Reply, Status, Write
from tests.proxy import TcpProxy
from tests.redis.conftest import MakeBackend, command
from tests.servers import HasUrl, RedisServer

OP = b"12345678"


@pytest.fixture
def proxy(redis_server: HasUrl) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", urlsplit(redis_server.url).port or 6379) as standing_between:
        yield standing_between


def total(backend: object, name: str = "n") -> object:
    return backend.execute([Read(name)])[0].data  # type: ignore[attr-defined]


def test_lost_reply_is_proven_by_the_op_id(make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl) -> None:
    backend, direct = make_backend(URL=proxy.through(redis_server.url)), make_backend()
    backend.execute([Add("n", 1)])
    backend.execute([Add("n", 1)])
    lost = proxy.drop_replies(matching=b"EVALSHA")
    (reply,) = backend.execute([Add("n", 5, op=OP)])
    assert lost.is_set()
    assert (reply.status, reply.data) == (Status.APPLIED, 7)
    assert direct.execute([Read("n")])[0] == Reply(Status.APPLIED, 7, reply.version, None, True)


async def test_lost_reply_is_proven_on_a_loop_too(
    make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl
) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url))
    await backend.aexecute([Write("v", b"old")])
    lost = proxy.drop_replies(matching=b"EVALSHA")
    written, added = await backend.aexecute([Write("v", b"new", op=OP), Add("n", 2, op=OP[::-1])])
    assert lost.is_set()
    assert (written.status, written.existed) == (Status.APPLIED, True)
    assert (added.status, added.data) == (Status.APPLIED, 2)
    assert (await backend.aexecute([Read("v")]))[0].data == b"new"


def test_lost_request_of_a_change_is_an_unknown_outcome(
    make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl
) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url))
    backend.execute([Add("n", 1)])
    backend.execute([Add("n", 1)])
    lost = proxy.drop_requests(matching=b"EVALSHA")
    with pytest.raises(OutcomeUnknown, match="'n'"):
        backend.execute([Add("n", 1, op=OP)])
    assert lost.is_set()
    assert total(backend) == 2


def test_lost_reply_of_a_read_or_a_lease_is_asked_for_again(
    make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl
) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url))
    backend.execute([Write("v", b"x")])
    proxy.drop_replies(matching=b"EVALSHA")
    assert total(backend, "v") == b"x"
    lost = proxy.drop_replies(matching=b"EVALSHA")
    (first,) = backend.execute([Acquire("l", "n/1", 10**7)])
    assert lost.is_set()
    assert backend.execute([Acquire("l", "n/1", 10**7)])[0].token == first.token


def test_connections_that_died_while_idle_cost_nothing(
    make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl
) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url))
    for expected in range(1, 4):
        assert backend.execute([Add("n", 1, op=OP)])[0].data == expected
        proxy.cut()


async def test_connections_that_died_while_idle_cost_nothing_on_a_loop(
    make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl
) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url))
    (added,) = await backend.aexecute([Add("n", 1, op=OP)])
    proxy.cut()
    (again,) = await backend.aexecute([Add("n", 1, op=OP[::-1])])
    assert (added.data, again.data) == (1, 2)


def test_unreachable_server_is_said_in_time(make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url), timeout=0.3)
    backend.execute([Add("n", 1)])
    proxy.refuse()
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"cannot be reached.*Nothing was changed"):
        backend.execute([Add("n", 1, op=OP)])
    assert time.monotonic() - started < 2
    proxy.accept()
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 2


def test_silent_server_is_an_unknown_outcome_in_time(
    make_backend: MakeBackend, proxy: TcpProxy, redis_server: HasUrl
) -> None:
    backend = make_backend(URL=proxy.through(redis_server.url), timeout=0.3)
    backend.execute([Add("n", 1)])
    proxy.blackhole()
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        backend.execute([Add("n", 1, op=OP)])
    assert time.monotonic() - started < 2
    proxy.heal()
    assert total(backend) == 1


def test_change_waits_for_a_replica_to_become_primary(make_backend: MakeBackend) -> None:
    with RedisServer(appendonly=False) as server:
        backend = make_backend(URL=server.url)
        backend.execute([Add("n", 1)])
        command(server, "REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(Unavailable, match="read only"):
            backend.execute([Add("n", 1, op=OP)], timeout=0.2)
        promotion = threading.Timer(0.1, lambda: command(server, "REPLICAOF", "NO", "ONE"))
        promotion.start()
        assert backend.execute([Add("n", 1, op=OP)])[0].data == 2
        promotion.join()
        backend.close()


def test_full_server_is_said_at_once(make_backend: MakeBackend) -> None:
    with RedisServer(appendonly=False) as server:
        backend = make_backend(URL=server.url)
        backend.execute([Write("v", b"x")])
        command(server, "CONFIG", "SET", "maxmemory", "1")
        started = time.monotonic()
        for change in (Write("v", b"y"), Write("w", 1), Add("n", 1)):
            with pytest.raises(Unavailable, match="does not accept writes"):
                backend.execute([change])
        assert time.monotonic() - started < backend.params.timeout / 2
        assert total(backend, "v") == b"x"
        command(server, "CONFIG", "SET", "maxmemory", "0")
        backend.close()


async def test_wrong_password_is_said_at_once(make_backend: MakeBackend) -> None:
    with RedisServer(appendonly=False, password="right") as server:
        assert make_backend(URL=server.url).execute([Add("n", 1)])[0].data == 1
        for url in (server.url.replace("right", "wrong"), server.url.replace(":right@", "")):
            backend = make_backend(URL=url)
            with pytest.raises(Unavailable, match="credentials"):
                backend.execute([Add("n", 1)])
            with pytest.raises(Unavailable, match="credentials"):
                await backend.aexecute([Add("n", 1)])


def test_key_of_another_program_is_left_alone(make_backend: MakeBackend, redis_server: HasUrl) -> None:
    backend = make_backend()
    command(redis_server, "SET", backend.keys.entry("n"), "mine")
    for change in (Add("n", 1), Write("n", b"x"), Read("n")):
        with pytest.raises(DRefError, match="WRONGTYPE"):
            backend.execute([change])
    assert command(redis_server, "GET", backend.keys.entry("n")) == b"mine"


def test_additions_are_taken_back_when_an_entry_is_not_ours(make_backend: MakeBackend, redis_server: HasUrl) -> None:
    backend = make_backend()
    backend.execute([Add("a", 1)])
    command(redis_server, "HSET", backend.keys.entry("b"), "v", "1", "i", "no number")
    with pytest.raises(DRefError, match="not an integer"):
        backend.execute([Add("a", 1), Add("b", 1)])
    assert total(backend, "a") == 1


def test_replicas_are_waited_for(make_backend: MakeBackend) -> None:
    with RedisServer(appendonly=False, extra=["--repl-diskless-sync-delay", "0"]) as primary:
        backend = make_backend(URL=primary.url, WAIT_REPLICAS=1, timeout=2.0)
        with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
            backend.execute([Add("n", 1, op=OP)])
        with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
            backend.execute([Acquire("l", "n/1", 10**7)])
        with RedisServer(appendonly=False, extra=["--replicaof", f"127.0.0.1 {primary.port}"]):
            patient = make_backend(URL=primary.url, WAIT_REPLICAS=1, timeout=20)
            assert patient.execute([Write("v", b"x", op=OP)])[0].status is Status.APPLIED
            assert patient.execute([Add("n", 1, op=OP)])[0].data == 2
            assert patient.execute([Release("l", "n/1")])[0].existed
            assert total(patient) == 2
