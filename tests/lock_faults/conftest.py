"""Processes that hold locks on one back end; each test has an empty namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from dref_django import backends
from tests.faults.labs import Breakable, PostgresLab
from tests.kinds import SERVED, SHORT_NAMES, options_of
from tests.lock_faults.holders import Holder
from tests.proxy import TcpProxy
from tests.servers import HasUrl, PostgresServer, RedisServer
from tests.settings import postgres_alias


class Pool:
    """Processes that go from test to test, as a new one takes its time; those that a test killed are not among them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._idle: list[Holder] = []

    def take(self) -> Holder:
        if self._idle:
            return self._idle.pop()
        return Holder({**self._environment, "DJANGO_SETTINGS_MODULE": "tests.lock_faults.settings"})

    def put(self, holder: Holder) -> None:
        if holder.is_alive():
            holder.thaw()
            holder.settle({"BACKEND": "memory"})  # it connects to nothing of the test any more
            self._idle.append(holder)
        else:
            holder.close()

    def close(self) -> None:
        for holder in self._idle:
            holder.close()


class Site:
    """Where the processes of one test and this process find the same locks."""

    def __init__(self, stack: ExitStack, setting: dict[str, Any], pool: Pool) -> None:
        self._stack = stack
        self._pool = pool
        self.setting = setting

    def holder(self, **options: Any) -> Holder:
        """Another process. `options` override those of the back end."""
        holder = self._pool.take()
        self._stack.callback(self._pool.put, holder)
        setting = {**self.setting, "OPTIONS": {**self.setting["OPTIONS"], **options}}
        holder.settle(setting)
        return holder


def _setting(kind: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "BACKEND": SHORT_NAMES.get(kind, kind),
        "KEY_PREFIX": f"locks-{secrets.token_hex(6)}",
        "OPTIONS": options,
        **more,
    }


@pytest.fixture(scope="session")
def redis_pool() -> Iterator[Pool]:
    with closing(Pool({})) as pool:
        yield pool


@pytest.fixture(scope="session")
def postgres_pool(postgres_tables: str) -> Iterator[Pool]:
    with closing(Pool({"DREF_TEST_POSTGRES_URL": url_of(postgres_tables)})) as pool:
        yield pool


@pytest.fixture(scope="session")
def nodes_pool() -> Iterator[Pool]:
    with closing(Pool({})) as pool:
        yield pool


@contextmanager
def _site(kind: str, request: pytest.FixtureRequest, settings: Settings) -> Iterator[Site]:
    settings.DREF_BACKEND = setting = _setting(kind, options_of(kind, request))
    if kind == "postgres":
        setting = {**setting, "OPTIONS": {"DATABASE_ALIAS": "pg"}}  # as the processes call it
    with ExitStack() as stack:
        yield Site(stack, setting, request.getfixturevalue(f"{kind}_pool"))
        backends.reset()


@pytest.fixture(params=SERVED)
def site(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Site]:
    """On the servers that the test run shares."""
    with _site(request.param, request, settings) as site:
        yield site


class Gap(NamedTuple):
    """A site with a proxy; a holder with the options `through` has its locks, and its listener, behind it."""

    site: Site
    proxy: TcpProxy
    through: dict[str, Any]


@pytest.fixture(params=SERVED)
def gap(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Gap]:
    """The proxy closes after the processes have left it."""
    match request.param:
        case "redis":
            option, url = "URL", request.getfixturevalue("redis_server").url
        case "postgres":
            option, url = "LISTEN_DSN", url_of(request.getfixturevalue("postgres_tables"))
        case _:
            option, url = "NODES", request.getfixturevalue("raft_cluster").url
    with _proxy(url) as proxy, _site(request.param, request, settings) as site:
        through = proxy.through(url)
        yield Gap(site, proxy, {option: [urlsplit(through).netloc] if option == "NODES" else through})


@pytest.fixture
def redis_site(redis_server: HasUrl, redis_proxy: TcpProxy, redis_pool: Pool, settings: Settings) -> Iterator[Site]:
    """`redis_proxy` closes after the processes have left it."""
    settings.DREF_BACKEND = setting = _setting("redis", {"URL": redis_server.url})
    with ExitStack() as stack:
        yield Site(stack, setting, redis_pool)
        backends.reset()


@pytest.fixture
def own_redis(redis_pool: Pool, settings: Settings) -> Iterator[tuple[RedisServer, Site]]:
    """A server that the test may stop and kill; what it acknowledged survives."""
    with RedisServer(appendonly=True, fsync="always") as server, ExitStack() as stack:
        settings.DREF_BACKEND = setting = _setting("redis", {"URL": server.url})
        yield server, Site(stack, setting, redis_pool)
        backends.reset()


class OwnServer(NamedTuple):
    server: Breakable
    site: Site


@pytest.fixture(params=SERVED)
def own_server(request: pytest.FixtureRequest, settings: Settings) -> Iterator[OwnServer]:
    """As `own_redis`, on each kind."""
    if request.param == "redis":
        server, site = request.getfixturevalue("own_redis")
        yield OwnServer(server, site)
        return
    if request.param == "nodes":
        cluster = request.getfixturevalue("raft_cluster")
        with _site("nodes", request, settings) as site:
            yield OwnServer(cluster, site)
        if not cluster.running():
            cluster.start()
        return
    with PostgresServer(fsync=False) as server, closing(Pool({"DREF_TEST_POSTGRES_URL": server.url})) as pool:
        PostgresLab.migrate(server)
        connections.settings["own"] = {**connections.settings["pg"], **postgres_alias(server.url)}
        settings.DREF_BACKEND = setting = _setting("postgres", {"DATABASE_ALIAS": "own"})
        with ExitStack() as stack:
            yield OwnServer(server, Site(stack, {**setting, "OPTIONS": {"DATABASE_ALIAS": "pg"}}, pool))
            backends.reset()
        del connections.settings["own"]


@pytest.fixture
def redis_proxy(redis_server: HasUrl) -> Iterator[TcpProxy]:
    with _proxy(redis_server.url) as proxy:
        yield proxy


@contextmanager
def _proxy(url: str) -> Iterator[TcpProxy]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with TcpProxy(parts.hostname, parts.port) as proxy:
        yield proxy


def url_of(alias: str) -> str:
    database = connections.settings[alias]
    return f"postgresql://postgres@{database['HOST']}:{database['PORT']}/{database['NAME']}"
