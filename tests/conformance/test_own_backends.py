"""Every back end of this project keeps the contract."""

import pytest

from dref_django.backends import Backend
from dref_django.testing.conformance import BackendConformance
from tests.conformance.conftest import MakePair


class Conformance(BackendConformance):
    kind: str

    @pytest.fixture
    def backend(self, make_pair: MakePair) -> Backend:
        return make_pair(self.kind)[0]


class Served(Conformance):
    @pytest.fixture
    def peer(self, make_pair: MakePair) -> Backend:
        return make_pair(self.kind)[1]


class TestMemory(Conformance):
    kind = "memory"


class TestRedis(Served):
    kind = "redis"


class TestRedisCluster(Served):
    kind = "cluster"


class TestPostgres(Served):
    kind = "postgres"


class TestRaft(Served):
    kind = "raft"


class TestRaftCluster(Served):
    kind = "nodes"
