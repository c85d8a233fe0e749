"""The connection of the locks when the network is silent, the server restarts, or a pooler stands between."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connections

from dref_django import backends, lock
from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.postgres.address import Address
from dref_django.backends.postgres.locks import SETTINGS
from dref_django.backends.postgres.pools import greet
from dref_django.backends.postgres.session import Limit, Session, connect
from dref_django.exceptions import Unavailable
from dref_django.protocol import Acquire, Release, Renew, Reply, Status
from tests.faults.labs import PostgresLab
from tests.postgres.conftest import Database, MakeBackend
from tests.postgres.test_advisory_locks import Losses, key_of, owner, sessions_with, take
from tests.processes import wait_until
from tests.proxy import TcpProxy
from tests.rewriting import another_process_id, rewriting
from tests.servers import PostgresServer
from tests.settings import postgres_alias

TTL = 30_000_000


def ask(backend: PostgresBackend, command: Acquire | Renew | Release) -> Reply:
    return backend.execute([command])[0]


class TestSilence:
    def test_command_ends_in_time_and_the_next_connection_works(
        self, through: TcpProxy, make_backend: MakeBackend
    ) -> None:
        backend = make_backend(timeout=1.0)
        take(backend, "a")
        ask(backend, Release("a", owner(backend)))
        through.blackhole()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            take(backend, "b")
        assert time.monotonic() - began < 3
        through.heal()
        assert take(backend, "c").status is Status.APPLIED

    def test_late_reply_is_waited_for_while_a_lease_depends_on_the_connection(
        self, through: TcpProxy, make_backend: MakeBackend, database: Database
    ) -> None:
        """A server that answers nothing for longer than a command may take, but shorter than the lease."""
        backend = make_backend(timeout=0.3)
        losses = Losses(backend)
        token = take(backend, "a").token
        (pid,) = sessions_with(database, key_of(backend, "a"))
        with lock_table(database):  # not even a row can be read
            with pytest.raises(Unavailable):
                ask(backend, Renew("a", owner(backend), token, TTL))
        assert ask(backend, Renew("a", owner(backend), token, TTL)).status is Status.APPLIED
        assert sessions_with(database, key_of(backend, "a")) == [pid]
        assert not losses.told.is_set()

    def test_connection_on_which_a_reply_is_late_is_given_up_when_no_lease_depends_on_it(
        self, make_backend: MakeBackend, database: Database
    ) -> None:
        backend = make_backend(timeout=0.3)
        ask(backend, Release("a", owner(backend), take(backend, "a").token))
        with lock_table(database):
            with pytest.raises(Unavailable):
                take(backend, "a")
            with pytest.raises(Unavailable):  # greeted, it asks for more than the lock on the table lets through
                take(backend, "a")
        assert take(backend, "a").status is Status.APPLIED

    def test_lock_counts_as_lost_before_the_server_grants_it_again(
        self, through: TcpProxy, make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cut_off = make_backend(timeout=1.0)
        backends.install("cut-off", cut_off)
        try:
            held = lock("a", ttl=1.5, using="cut-off").acquire()
            through.blackhole()
            direct = {**connections.settings[database.alias], "PORT": str(database.port)}
            monkeypatch.setitem(connections.settings, "direct", direct)
            other = make_backend(DATABASE_ALIAS="direct")
            wait_until(lambda: take(other, "lock:a").status is Status.APPLIED, "the lease to run out", 10)
            granted = other.clock.monotonic()
            assert held.lost
            assert held.deadline() < granted
        finally:
            backends.install("cut-off", None)


class lock_table:  # noqa: N801 - reads as a statement
    """Nobody gets at the leases within it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        import psycopg

        self._connection = psycopg.connect(self._database.url)
        self._connection.execute("LOCK TABLE dref_lease")

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class TestServer:
    @pytest.fixture
    def server(self) -> Iterator[PostgresServer]:
        with PostgresServer(fsync=False) as server:
            PostgresLab.migrate(server)
            connections.settings["own"] = {**connections.settings["pg"], **postgres_alias(server.url)}
            yield server
            del connections.settings["own"]

    @pytest.fixture
    def own(self, server: PostgresServer) -> Iterator[PostgresBackend]:
        backend = PostgresBackend(Params(key_prefix="own", timeout=10.0, options={"DATABASE_ALIAS": "own"}))
        yield backend
        backend.close()

    def test_crash_is_a_loss_at_once_and_tokens_rise_over_it(
        self, server: PostgresServer, own: PostgresBackend
    ) -> None:
        losses = Losses(own)
        tokens: list[int] = []
        for _ in range(3):
            for number in range(20):  # the last of them are not on the disk yet
                tokens.append(take(own, "a", number).token)
                if number < 19:
                    ask(own, Release("a", owner(own, number)))
            losses.told.clear()
            server.kill()
            assert losses.told.wait(2)
            server.start()
        assert losses.leases == [("a", owner(own, 19))] * 3
        assert tokens == sorted(set(tokens))
        assert take(own, "a").status is Status.APPLIED


@contextmanager
def greeted(address: Address) -> Iterator[tuple[Session, bool]]:
    """A new connection, and what it was found to be."""
    limit = Limit.of(5)
    session = Session(connect(address.params(5), limit.end))
    try:
        yield session, session.wait(greet(session, address, SETTINGS), limit)
    finally:
        session.close()


def set_in(session: Session) -> set[str]:
    """The names of what was set in it."""
    found = session.wait(session.script("SELECT name FROM pg_settings WHERE source = 'session'"), Limit.of(5))
    return {(found.get_value(row, 0) or b"").decode() for row in range(found.ntuples)}


class TestPooler:
    def test_without_a_session_of_its_own_locks_are_leases(
        self, pooler: int, make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(pooler))
        backend = make_backend()
        with caplog.at_level(logging.WARNING):
            token = take(backend, "a").token
        assert "LISTEN_DSN" in caplog.text
        assert sessions_with(database, key_of(backend, "a")) == []
        assert ask(backend, Renew("a", owner(backend), token, TTL)).status is Status.APPLIED
        assert [message.id for message in backend.check() if "pooler" in message.msg] == ["dref.W030"]
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(database.port))
        other = make_backend()
        assert take(other, "a").status is Status.HELD

    def test_check_says_so_before_a_lock_is_taken(
        self, pooler: int, make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(pooler))
        found = {message.id for message in make_backend().check() if "pooler" in message.msg}
        assert found == {"dref.W030", "dref.W035"}
        assert "dref.W035" not in {message.id for message in make_backend(LOCKS="lease").check()}

    def test_listen_dsn_goes_past_it(
        self, pooler: int, make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(pooler))
        backend = make_backend(LISTEN_DSN=database.url)
        take(backend, "a")
        assert len(sessions_with(database, key_of(backend, "a"))) == 1

    def test_a_session_that_somebody_else_gets_next_is_left_as_it_was(
        self, pooler: int, make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = make_backend().address
        with greeted(address) as (session, is_own):
            assert is_own
            assert session.prepares
            assert SETTINGS.keys() <= set_in(session)
        monkeypatch.setitem(connections.settings[database.alias], "PORT", str(pooler))
        with greeted(address) as (session, is_own):
            assert not is_own
            assert not session.prepares
            assert set_in(session) == set()

    @pytest.fixture
    def pooler(self, database: Database) -> Iterator[int]:
        """The port of something that, as a pooler does, makes up the process id that a session is told at its start."""
        with rewriting(database.host, database.port, another_process_id) as port:
            yield port
