"""Connections end before Django creates, clones or drops a database, and none comes back before it is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections

from dref_django import background
from dref_django.backends.postgres import PostgresBackend, dispatcher, listener, pools, session
from dref_django.protocol import Add
from tests.listening import Listening, until
from tests.postgres.conftest import OP, Database, MakeBackend


@pytest.fixture(autouse=True)
def _with_databases(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


@contextmanager
def in_background(backend: PostgresBackend, ups: int = 1) -> Iterator[Listening]:
    """A feed on the background loop, where the hub has it."""
    listening = Listening(backend)
    background.submit(listening.start(ups)).result()
    try:
        yield listening
    finally:
        background.submit(listening.__aexit__()).result()


@contextmanager
def database_change(database: Database) -> Iterator[None]:
    with connections[database.alias]._nodb_cursor():
        yield


def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the listener was answered whenever it looked whether a change goes on."""
    answers: list[bool] = []

    def look() -> bool:
        answers.append(pools.databases_change())
        return answers[-1]

    monkeypatch.setattr(listener, "databases_change", look)
    return answers


def wait_for_two_looks(answers: list[bool]) -> None:
    seen = len(answers)
    background.submit(until(lambda: len(answers) > seen + 1)).result()


def no_session_is_left(database: Database) -> None:
    """The server ends a session a moment after the client has gone."""
    background.submit(until(lambda: database.sessions() == 0)).result()


def test_listener_stays_away_for_as_long_as_the_change_goes_on(
    backend: PostgresBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = looks(monkeypatch)
    begun: list[object] = []

    async def counted_connect(*args: Any) -> Any:
        begun.append(args)
        return await session.aconnect(*args)

    monkeypatch.setattr(listener, "aconnect", counted_connect)
    with in_background(backend) as listening:
        with database_change(database), database_change(database):
            wait_for_two_looks(answers)
            no_session_is_left(database)
            assert (len(begun), len(listening.heard.epochs)) == (1, 1)
        background.submit(listening.ups(2)).result()


def test_listener_that_was_connecting_makes_way_too(
    backend: PostgresBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = looks(monkeypatch)
    connected, go_on = threading.Event(), threading.Event()

    def slow_greet(*args: Any) -> Any:
        connected.set()
        assert go_on.wait(10)
        return pools.greet(*args)

    monkeypatch.setattr(listener, "greet", slow_greet)
    monkeypatch.setattr(listener, "CLOSE_TIMEOUT", 0)  # the loop is kept busy
    with in_background(backend, ups=0) as listening:
        assert connected.wait(10)
        with database_change(database):
            go_on.set()
            wait_for_two_looks(answers)
            no_session_is_left(database)
            assert listening.heard.epochs == []
        background.submit(listening.ups(1)).result()


def test_change_that_was_forgotten_is_not_waited_for(
    backend: PostgresBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "LONGEST_CHANGE", 0)
    with in_background(backend) as listening, database_change(database):
        background.submit(listening.ups(2)).result()


def test_pool_keeps_no_connection_that_was_begun_before(
    backend: PostgresBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect_while_it_begins(*args: Any) -> Any:
        pgconn = session.connect(*args)
        with database_change(database):
            return pgconn

    monkeypatch.setattr(pools, "connect", connect_while_it_begins)
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 1
    backend.dispatcher.close()
    no_session_is_left(database)


def test_dispatcher_that_was_connecting_hangs_up_as_soon_as_it_can(
    make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    connected, go_on = threading.Event(), threading.Event()

    def slow_greet(*args: Any) -> Any:
        connected.set()
        assert go_on.wait(10)
        return pools.greet(*args)

    monkeypatch.setattr(dispatcher, "greet", slow_greet)
    backend.execute([Add("n", 1, op=OP)])
    assert connected.wait(10)
    with database_change(database):
        go_on.set()
        no_session_is_left(database)
    backend.execute([Add("n", 1, op=OP[::-1])])
    assert backend.dispatcher.flush(10), "the next post opens another"
