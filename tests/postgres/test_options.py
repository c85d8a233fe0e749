"""OPTIONS, checks, and sentences that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from dref_django import migrations
from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.protocol import Add, Read
from tests.listening import Listening, until
from tests.postgres.conftest import OP, Database, MakeBackend
from tests.processes import wait_until
from tests.proxy import TcpProxy
from tests.servers import PostgresServer


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ALIAS": "x"}, "unknown OPTIONS ALIAS; the postgres back end has DATABASE_ALIAS"),
        ({"POOL_SIZE": 0}, "must be at least 1"),
        ({"POOL_SIZE": "4"}, "must be a int, not '4'"),
        ({"POOL_SIZE": True}, "must be a int, not True"),
        ({"LOCKS": "row"}, "must be one of"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=sentence):
        PostgresBackend(Params(options=options))


def test_alias_that_is_missing_or_not_postgres_says_what_to_set(make_backend: MakeBackend) -> None:
    for alias, sentence in (("nowhere", "has no alias 'nowhere'"), ("default", "is sqlite, not PostgreSQL")):
        backend = make_backend(DATABASE_ALIAS=alias)
        with pytest.raises(ImproperlyConfigured, match=sentence):
            backend.execute([Read("n")])
        (message,) = backend.check()
        assert message.id == "dref.E030"


def test_missing_psycopg_names_the_extra() -> None:
    program = """
import sys
sys.modules["psycopg"] = None
from django.core.exceptions import ImproperlyConfigured
try:
    import dref_django.backends.postgres
except ImproperlyConfigured as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "dref-django[postgres]" in ended.stdout


def ids(backend: PostgresBackend) -> list[str | None]:
    return [message.id for message in backend.check()]


def test_sound_database_is_not_complained_about(make_backend: MakeBackend, database: Database) -> None:
    assert ids(make_backend()) in ([], ["dref.W031"])  # the tests' own server does not flush
    wait_until(lambda: database.sessions() == 0, "the server to have seen the connection of the check end", 10)


def test_check_finds_missing_tables_and_a_server_that_is_not_there(
    make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[database.alias], "NAME", "postgres")
    assert ids(make_backend()) == ["dref.E031"]
    monkeypatch.setitem(connections.settings[database.alias], "PORT", "1")
    assert ids(make_backend()) == ["dref.E032"]


def test_check_finds_a_server_that_does_not_flush_or_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with PostgresServer(fsync=False, max_connections=20) as server:
        with psycopg.connect(server.url) as admin:
            admin.execute(Path(migrations.__path__[0], "postgres_0001.sql").read_bytes())
            admin.execute("CREATE ROLE weak LOGIN")
            admin.execute("GRANT SELECT ON dref_meta, dref_entry, dref_lease TO weak")
        alias = {**connections.settings["pg"], "PORT": str(server.port), "NAME": "postgres"}
        monkeypatch.setitem(connections.settings, "small", alias)
        backend = PostgresBackend(Params(options={"DATABASE_ALIAS": "small"}))
        assert ids(backend) == ["dref.W031", "dref.W032"]
        monkeypatch.setitem(connections.settings["small"], "USER", "weak")
        assert ids(backend) == ["dref.E033", "dref.W031", "dref.W032"]
        backend.close()


async def test_listener_and_dispatcher_go_past_the_pooler(
    make_backend: MakeBackend, database: Database, through: TcpProxy
) -> None:
    backend = make_backend(LISTEN_DSN=database.url)
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], [])
        assert through.connections == 0
        backend.execute([Add("n", 1, op=OP)])
        await until(lambda: bool(listening.heard.notices))
        assert through.connections == 1
