"""Fixtures for every test: real servers, started on first use and shared by the run.

A test process has its own servers, also under pytest-xdist, unless ``DREF_TEST_REDIS_URL`` or
``DREF_TEST_POSTGRES_URL`` names one. Tests that kill, freeze or configure a server start their own from
``tests.servers``.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import hypothesis
import psycopg
import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import connections
from psycopg import sql

from dref_django import migrations
from dref_django.backends import Backend, Params
from dref_django.backends.memory import MemoryBackend
from dref_django.backends.raft.backend import RaftBackend
from tests.callers import Caller
from tests.kinds import KINDS, SERVED, installed, make
from tests.raft.clusters import ClusterServer
from tests.servers import GivenServer, HasUrl, PostgresServer, RedisCluster, RedisServer
from tests.settings import postgres_alias

# A shared machine has slow moments; what fails must be printed so that it can be replayed.
hypothesis.settings.register_profile("dref", deadline=None, print_blob=True)
hypothesis.settings.load_profile("dref")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[HasUrl]:
    """The Redis server that ``CACHES["redis"]`` points at; ``.url``."""
    if given := os.environ.get("DREF_TEST_REDIS_URL"):
        yield GivenServer(given)
        return
    with RedisServer(appendonly=False) as server, pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.CACHES["redis"], "LOCATION", server.url)
        with suppress(AttributeError):
            del caches["redis"]  # Django makes every cache's client when it creates a test database
        patch.setenv("DREF_TEST_REDIS_URL", server.url)
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[HasUrl]:
    """The PostgreSQL server that ``DATABASES["pg"]`` points at; ``.url`` names its database ``postgres``.

    Inside database tests Django's own test database is in use: ``connections["pg"].settings_dict`` names it.
    """
    if given := os.environ.get("DREF_TEST_POSTGRES_URL"):
        yield GivenServer(given)
        return
    # Killing a process loses nothing that it had written; only a power cut would, and none is tested here.
    with PostgresServer(fsync=False) as server, pytest.MonkeyPatch.context() as patch:
        for key, value in postgres_alias(server.url).items():
            patch.setitem(connections.settings["pg"], key, value)
        patch.setenv("DREF_TEST_POSTGRES_URL", server.url)
        yield server


@pytest.fixture(scope="session")
def postgres_tables(postgres_server: HasUrl) -> Iterator[str]:
    """An alias of DATABASES for a database with our tables that Django's tests do not rename."""
    name = f"dref_tests_{secrets.token_hex(6)}"
    tables = Path(migrations.__path__[0], "postgres_0001.sql").read_bytes()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(postgres_server.url, dbname=name) as own:
            own.execute(tables)
        known = connections.settings
        known[name] = {**known["pg"], **postgres_alias(postgres_server.url), "NAME": name}
        yield name
        del known[name]
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Redis Cluster of three masters; ``.url``, ``.nodes``."""
    with RedisCluster(masters=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def raft_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DATA_DIR of a cluster of one node, which this process hosts as long as the tests run."""
    directory = str(tmp_path_factory.mktemp("raft"))
    backend = RaftBackend(Params("raft-node", options={"DATA_DIR": directory}))
    backend.attach()
    yield directory
    backend.close()


@pytest.fixture(scope="session")
def raft_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServer]:
    """Three processes with a node each. Who breaks them mends them."""
    with ClusterServer(tmp_path_factory.mktemp("nodes")) as server:
        yield server


@pytest.fixture(params=KINDS)
def any_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Refs without `using=` live on this back end, on a key prefix of the test's own; once for every kind."""
    with installed(make(request.param, request)) as backend:
        yield backend


@pytest.fixture(params=SERVED)
def served_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """`any_backend`, of those kinds only that several processes share."""
    with installed(make(request.param, request)) as backend:
        yield backend


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Calls methods of refs, once in the test's thread and once, their a-twins, on a loop."""
    if request.param == "sync":
        yield Caller(None)
    else:
        with asyncio.Runner() as runner:
            yield Caller(runner)


@pytest.fixture
def peer(any_backend: Backend) -> Iterator[str]:
    """An alias for `using=`: the same truth as another process has it (on memory there is no other)."""
    if isinstance(any_backend, MemoryBackend):
        other: Backend = any_backend
    else:
        other = type(any_backend)(replace(any_backend.params, alias="peer"))
    with installed(other, "peer"):
        yield "peer"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_server: HasUrl, django_db_modify_db_settings_parallel_suffix: None) -> None:
    """pytest-django asks for this before it creates the test databases: the server must run by then."""
