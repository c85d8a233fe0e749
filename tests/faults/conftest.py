"""Labs: servers that only the fault tests use, healed after each test."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def durable_redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly=True, fsync="always") as server:
        yield server


@pytest.fixture
def redis_lab(durable_redis: RedisServer) -> Iterator[RedisLab]:
    healed(durable_redis)
    with TcpProxy("127.0.0.1", durable_redis.port) as proxy:
        lab = RedisLab(durable_redis, proxy)
        try:
            yield lab
        finally:
            healed(durable_redis)
            proxy.heal()
            lab.close()


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:  # a killed process loses nothing that it had written
        PostgresLab.migrate(server)
        yield server


@pytest.fixture
def postgres_lab(own_postgres: PostgresServer) -> Iterator[PostgresLab]:
    healed(own_postgres)
    with TcpProxy("127.0.0.1", own_postgres.port) as proxy:
        lab = PostgresLab(own_postgres, proxy)
        try:
            yield lab
        finally:
            healed(own_postgres)
            proxy.heal()
            lab.close()


@pytest.fixture
def raft_lab(raft_cluster: ClusterServer) -> Iterator[RaftLab]:
    healed(raft_cluster)
    with TcpProxy("127.0.0.1", raft_cluster.port) as proxy:
        lab = RaftLab(raft_cluster, proxy)
        try:
            yield lab
        finally:
            healed(raft_cluster)
            proxy.heal()
            lab.close()


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Lab:
    chosen: Lab = request.getfixturevalue(f"{request.param}_lab")
    return chosen


@pytest.fixture(params=("redis", "postgres"))
def server_lab(request: pytest.FixtureRequest) -> ServerLab:
    chosen: ServerLab = request.getfixturevalue(f"{request.param}_lab")
    return chosen
