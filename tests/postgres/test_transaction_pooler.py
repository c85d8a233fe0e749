"""Behind a pooler in transaction mode that no setting tells of."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from django.db import connections

from dref_django.backends.postgres import PostgresBackend
from dref_django.protocol import Add, Delete, Read, Release, Renew, Status, Write
from tests.postgres.conftest import Database, MakeBackend
from tests.postgres.pooler import SESSIONS, TransactionPooler
from tests.postgres.test_advisory_locks import owner, take

TTL = 30_000_000
LEFT_BEHIND = """
SELECT pg_backend_pid(), current_setting('synchronous_commit'), current_setting('lock_timeout'),
    current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
    (SELECT count(*) FROM pg_prepared_statements),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""


@pytest.fixture
def pooler(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[TransactionPooler]:
    with TransactionPooler(database.host, database.port, database.alias) as pooler:
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(pooler.port))
        yield pooler


@pytest.fixture
def backend(pooler: TransactionPooler, make_backend: MakeBackend) -> PostgresBackend:
    return make_backend(timeout=2.0)


def test_refs_work(backend: PostgresBackend) -> None:
    sums = [backend.execute([Add("n", 1, op=b"%08d" % number)])[0].data for number in range(6)]
    assert sums == [1, 2, 3, 4, 5, 6]
    backend.execute([Write("a", b"x", op=b"12345678"), Write("b", b"y", op=b"23456789")])
    assert [reply.data for reply in backend.execute([Read("a"), Read("b")])] == [b"x", b"y"]
    assert backend.execute([Delete("a", op=b"34567890")])[0].existed


@pytest.mark.parametrize("use", ["advisory", "lease"])
def test_locks_are_leases(pooler: TransactionPooler, make_backend: MakeBackend, use: str) -> None:
    backend, other = make_backend(LOCKS=use), make_backend(LOCKS=use)
    for _ in range(2):
        token = take(backend, "a").token
        assert take(other, "a", 1).status is Status.HELD
        assert backend.execute([Renew("a", owner(backend), token, TTL)])[0].status is Status.APPLIED
        assert backend.execute([Release("a", owner(backend), token)])[0].status is Status.APPLIED


def test_sessions_of_the_project_stay_as_they_are(
    backend: PostgresBackend, pooler: TransactionPooler, database: Database
) -> None:
    """A server that does not wait for the disk, or gives up after 0.5 s, would be a surprise in the project's own
    transactions."""
    before = left_behind(pooler, database)
    take(backend, "a")
    for number in range(6):
        backend.execute([Add("n", 1, op=b"%08d" % number)])
    assert backend.dispatcher.flush()
    assert left_behind(pooler, database) == before
    assert len(before) == SESSIONS


def left_behind(pooler: TransactionPooler, database: Database) -> set[tuple[object, ...]]:
    url = database.url.replace(f":{database.port}/", f":{pooler.port}/")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        return {connection.execute(LEFT_BEHIND).fetchone() or () for _ in range(SESSIONS * 2)}
