"""The redis back end keeps the contract, on one server and on a cluster."""

import secrets
from collections.abc import Iterator

import pytest

from dref_django.backends import Params
from dref_django.backends.redis import RedisBackend
from dref_django.testing.conformance import BackendConformance
from tests.servers import HasUrl, RedisCluster


def make(prefix: str, url: str, *, cluster: bool = False) -> RedisBackend:
    return RedisBackend(Params(key_prefix=prefix, options={"URL": url, **({"CLUSTER": True} if cluster else {})}))


class TestRedis(BackendConformance):
    @pytest.fixture
    def backend(self, redis_backends: tuple[RedisBackend, RedisBackend]) -> RedisBackend:
        return redis_backends[0]

    @pytest.fixture
    def peer(self, redis_backends: tuple[RedisBackend, RedisBackend]) -> RedisBackend:
        return redis_backends[1]


class TestRedisCluster(BackendConformance):
    @pytest.fixture
    def backend(self, cluster_backends: tuple[RedisBackend, RedisBackend]) -> RedisBackend:
        return cluster_backends[0]

    @pytest.fixture
    def peer(self, cluster_backends: tuple[RedisBackend, RedisBackend]) -> RedisBackend:
        return cluster_backends[1]


@pytest.fixture(scope="module")
def redis_backends(redis_server: HasUrl) -> Iterator[tuple[RedisBackend, RedisBackend]]:
    prefix = secrets.token_hex(8)
    first, second = make(prefix, redis_server.url), make(prefix, redis_server.url)
    yield first, second
    first.close()
    second.close()


@pytest.fixture(scope="module")
def cluster_backends(redis_cluster: RedisCluster) -> Iterator[tuple[RedisBackend, RedisBackend]]:
    prefix = secrets.token_hex(8)
    first, second = (make(prefix, redis_cluster.url, cluster=True) for _ in range(2))
    yield first, second
    first.close()
    second.close()
