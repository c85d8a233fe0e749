"""`manage.py dref doctor` on servers and clusters that are sick: each illness is shown to it once, and it says so."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from django.db import connections

from dref_django import migrations
from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from tests.commandline.conftest import dref
from tests.kinds import installed, make
from tests.processes import wait_until
from tests.raft.clusters import Cluster
from tests.redis.conftest import command
from tests.rewriting import another_process_id, rewriting
from tests.servers import HasUrl, PostgresServer, RedisServer

HARMLESS: Final = {"dref.W001", "dref.I023", "dref.W031"}
"""Of the tests' own settings and servers: no back end is named, nothing is kept on the disk."""


def found() -> dict[str, str]:
    """What the doctor says, by id; the exit code tells of it."""
    outcome = dref("doctor", "--json")
    assert outcome.code == 1
    return {record["id"]: record["message"] for record in outcome.records if record["id"] not in HARMLESS}


class TestRedis:
    def test_that_evicts(self, request: pytest.FixtureRequest) -> None:
        with RedisServer(appendonly=False) as server:
            command(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            with installed(make("redis", request, options={"URL": server.url})):
                messages = found()
        assert set(messages) == {"dref.W022"}
        assert "allkeys-lru" in messages["dref.W022"]

    def test_that_is_too_old(self, request: pytest.FixtureRequest, redis_server: HasUrl) -> None:
        version = command(redis_server, "INFO", "server")["redis_version"]
        old = "6.0" + version[3:]

        def pretend(said: bytes) -> bytes:
            return said.replace(f"redis_version:{version}".encode(), f"redis_version:{old}".encode())

        with rewriting("127.0.0.1", port_of(redis_server.url), pretend) as port:
            with installed(make("redis", request, options={"URL": f"redis://127.0.0.1:{port}/1"})):
                assert f"is Redis {old}" in found()["dref.E024"]

    @pytest.mark.parametrize(
        ("forbidden", "id_"), [("-subscribe -psubscribe -ssubscribe", "dref.E072"), ("-@write", "dref.E020")]
    )
    def test_whose_user_has_not_all_rights(
        self, request: pytest.FixtureRequest, redis_server: HasUrl, forbidden: str, id_: str
    ) -> None:
        user = f"weak-{secrets.token_hex(4)}"
        command(redis_server, "ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", *forbidden.split())
        url = f"redis://{user}:pw@127.0.0.1:{port_of(redis_server.url)}/1"
        with installed(make("redis", request, options={"URL": url}, timeout=1.0)):
            assert set(found()) == {id_}
        command(redis_server, "ACL", "DELUSER", user)

    def test_whose_replicas_are_gone(self, request: pytest.FixtureRequest) -> None:
        with installed(make("redis", request, options={"DB": 1, "WAIT_REPLICAS": 1}, timeout=1.0)):
            assert set(found()) == {"dref.E074"}

    def test_that_is_slow(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        with installed(make("redis", request, options={"DB": 1})):
            assert dref("doctor").code == 0
            monkeypatch.setattr("dref_django.commandline.probes.SLOW_AFTER", 0.0)
            assert set(found()) == {"dref.W073"}


class TestPostgres:
    def test_behind_a_pooler(self, request: pytest.FixtureRequest, place: dict[str, Any]) -> None:
        with rewriting(place["HOST"], int(place["PORT"]), another_process_id) as port:
            place["PORT"] = str(port)
            with installed(make("postgres", request, options={"DATABASE_ALIAS": self.alias})):
                assert set(found()) == {"dref.W030", "dref.W035"}

    def test_whose_user_has_not_all_rights(
        self, request: pytest.FixtureRequest, place: dict[str, Any], postgres_server: HasUrl
    ) -> None:
        user = f"weak_{secrets.token_hex(4)}"
        with psycopg.connect(postgres_server.url, dbname=place["NAME"], autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {user} LOGIN".encode())
            admin.execute(f"GRANT SELECT ON dref_meta, dref_entry, dref_lease TO {user}".encode())
            place["USER"] = user
            with installed(make("postgres", request, options={"DATABASE_ALIAS": self.alias})):
                assert set(found()) == {"dref.E033"}
            admin.execute(f"DROP OWNED BY {user}".encode())
            admin.execute(f"DROP ROLE {user}".encode())

    def test_whose_database_holds_latin_letters_only(
        self, request: pytest.FixtureRequest, place: dict[str, Any], postgres_server: HasUrl
    ) -> None:
        name = f"dref_latin_{secrets.token_hex(4)}"
        with psycopg.connect(postgres_server.url, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".encode())
            make_tables(postgres_server.url, name)
            place["NAME"] = name
            with installed(make("postgres", request, options={"DATABASE_ALIAS": self.alias})):
                assert set(found()) == {"dref.W033"}
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def test_that_is_a_standby(self, request: pytest.FixtureRequest, place: dict[str, Any]) -> None:
        with PostgresServer(fsync=False) as server:
            make_tables(server.url, "postgres")
            server.stop()
            Path(server.dir, "data", "standby.signal").touch()
            server.start()
            place |= {"PORT": str(server.port), "NAME": "postgres"}
            with installed(make("postgres", request, options={"DATABASE_ALIAS": self.alias})):
                assert set(found()) == {"dref.E034"}

    @pytest.fixture
    def place(self, postgres_tables: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Where the alias leads to: at first, to a sound database."""
        self.alias = f"sick-{secrets.token_hex(4)}"  # Django keeps what an alias led to
        place = dict(connections.settings[postgres_tables])
        monkeypatch.setitem(connections.settings, self.alias, place)
        return place


class TestRaft:
    def test_with_two_voters_and_then_without_a_leader(self, tmp_path: Path) -> None:
        with Cluster(tmp_path, 2, bare=True) as cluster:
            processes = cluster.start_all()
            with installed(client_of(cluster)):
                messages = found()
                assert set(messages) == {"dref.W061"}
                assert "has 2 voters" in messages["dref.W061"]
            processes[0].kill()
            with installed(client_of(cluster)):
                wait_until(lambda: set(found()) == {"dref.E060"}, "the leader to step down", 30)


def client_of(cluster: Cluster) -> RaftBackend:
    options = cluster.options(0, ROLE="client")
    return RaftBackend(Params("default", cluster.prefix, timeout=1, options=options))


def make_tables(url: str, database: str) -> None:
    with psycopg.connect(url, dbname=database) as admin:
        admin.execute(Path(migrations.__path__[0], "postgres_0001.sql").read_bytes())


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])
