"""Labs: servers that only the fault tests use, healed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from tests.faults.labs import Breakable, Lab, PostgresLab, RaftLab, RedisLab, ServerLab
from tests.proxy import TcpProxy
from tests.raft.clusters import ClusterServer
from tests.servers import PostgresServer, RedisServer

KINDS = ("redis", "postgres", "raft")


def healed(server: Breakable) -> None:
    """The server runs and is thawed, whatever the test before did to it."""
    if server.running():
        server.resume()
    else:
        server.start()


AnyLab = TypeVar("AnyLab", bound=Lab)


@contextmanager
def behind_a_proxy(server: Breakable, kind: Callable[[Any, TcpProxy], AnyLab]) -> Iterator[AnyLab]:
    healed(server)
    with TcpProxy("127.0.0.1", server.port) as proxy:
        lab = kind(server, proxy)
        try:
            yield lab
        finally:
            healed(server)
            proxy.heal()
            lab.close()


@pytest.fixture(scope="session")
def durable_redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly=True, fsync="always") as server:
        yield server


@pytest.fixture
def redis_lab(durable_redis: RedisServer) -> Iterator[RedisLab]:
    with behind_a_proxy(durable_redis, RedisLab) as lab:
        yield lab


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:  # a killed process loses nothing that it had written
        PostgresLab.migrate(server)
        yield server


@pytest.fixture
def postgres_lab(own_postgres: PostgresServer) -> Iterator[PostgresLab]:
    with behind_a_proxy(own_postgres, PostgresLab) as lab:
        yield lab


@pytest.fixture
def raft_lab(raft_cluster: ClusterServer) -> Iterator[RaftLab]:
    with behind_a_proxy(raft_cluster, RaftLab) as lab:
        yield lab


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Lab:
    chosen: Lab = request.getfixturevalue(f"{request.param}_lab")
    return chosen


@pytest.fixture(params=("redis", "postgres"))
def server_lab(request: pytest.FixtureRequest) -> ServerLab:
    chosen: ServerLab = request.getfixturevalue(f"{request.param}_lab")
    return chosen
