"""A PostgreSQL back end with a key prefix of its own, closed at the end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import psycopg
import pytest
from django.db import connections

from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.protocol import Notice, Wake
from tests.proxy import TcpProxy

OP = b"12345678"

MakeBackend: TypeAlias = Callable[..., PostgresBackend]


class Database:
    """The database of the tests as a plain client sees it, past any proxy."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        settings = connections.settings[alias]
        self.host, self.port = settings["HOST"], int(settings["PORT"])
        self.url = f"postgresql://{settings['USER']}@{self.host}:{self.port}/{settings['NAME']}"

    def sql(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        """What a plain client is answered to one statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params or None)
            return cursor.fetchall() if cursor.description is not None else []

    def sessions(self) -> int:
        """How many connections to this database are the back end's."""
        condition = "application_name = 'dref_django' AND datname = current_database()"
        ((count,),) = self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {condition}")  # noqa: S608
        return int(count)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when another process or task has made `condition` true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.002)


@pytest.fixture
def database(postgres_tables: str) -> Database:
    return Database(postgres_tables)


@pytest.fixture
def made() -> list[PostgresBackend]:
    """The back ends of this test."""
    return []


@pytest.fixture
def make_backend(database: Database, made: list[PostgresBackend]) -> Iterator[MakeBackend]:
    """Makes back ends on that database; keywords are options, but for those of Params."""
    shared_prefix = f"test-{secrets.token_hex(6)}"

    def make(
        *, key_prefix: str = shared_prefix, timeout: float = 5.0, heartbeat: float = 15.0, **options: Any
    ) -> PostgresBackend:
        options = {"DATABASE_ALIAS": database.alias, **options}
        params = Params(key_prefix=key_prefix, timeout=timeout, heartbeat=heartbeat, options=options)
        made.append(PostgresBackend(params))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend(make_backend: MakeBackend) -> PostgresBackend:
    return make_backend()


@pytest.fixture
def through(database: Database, made: list[PostgresBackend], monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """Back ends of this test go through this proxy."""
    with TcpProxy(database.host, database.port) as proxy:
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(proxy.port))
        yield proxy
        for backend in made:  # they would go on trying
            backend.close()


class Recorder:
    """A sink that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.epochs: list[str] = []
        self.downs: list[str] = []
        self.notices: list[Notice] = []
        self.wakes: list[Wake] = []

    def up(self, epoch: str) -> None:
        self.epochs.append(epoch)

    def down(self, reason: str) -> None:
        self.downs.append(reason)

    def notice(self, notices: Sequence[Notice]) -> None:
        self.notices += notices

    def wake(self, wake: Wake) -> None:
        self.wakes.append(wake)


class Listening:
    """A feed that runs, with its sink."""

    def __init__(self, backend: PostgresBackend) -> None:
        self.heard = Recorder()
        self.feed = backend.feed(self.heard)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listening:
        self._task = asyncio.ensure_future(self.feed.run())
        await self.ups(1)
        return self

    async def ups(self, count: int) -> None:
        await until(lambda: len(self.heard.epochs) >= count)

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
