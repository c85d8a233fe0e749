"""A PostgreSQL back end with a key prefix of its own, closed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import psycopg
import pytest
from django.db import connections

from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.streams import get_hub
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
        self._others: frozenset[int] = frozenset()

    def sql(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        """What a plain client is answered to one statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params or None)
            return cursor.fetchall() if cursor.description is not None else []

    def sessions(self) -> int:
        """How many connections to this database are the back ends' of this test."""
        return len(self._pids() - self._others)

    def pass_over_others(self) -> None:
        """What earlier tests left, and may be on its way out, does not count."""
        self._others = self._pids()

    def _pids(self) -> frozenset[int]:
        condition = "application_name = 'dref_django' AND datname = current_database()"
        return frozenset(pid for (pid,) in self.sql(f"SELECT pid FROM pg_stat_activity WHERE {condition}"))  # noqa: S608


@pytest.fixture
def database(postgres_tables: str) -> Database:
    database = Database(postgres_tables)
    database.pass_over_others()
    return database


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
        get_hub(backend).close()  # a wait or a renewal may have started it
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
