"""Django's test databases: independent of TestCase, followed when renamed, out of the way when they are dropped."""

from __future__ import annotations

import secrets
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.test import TestCase

from dref_django import background
from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.protocol import Add, Read
from tests.postgres.conftest import OP, MakeBackend
from tests.postgres.test_making_way import in_background


class InsideTestCaseTests(TestCase):
    """The transaction that TestCase rolls back is not ours."""

    databases = {"default", "pg"}
    backend: PostgresBackend

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        params = Params(key_prefix=f"test-{secrets.token_hex(6)}", options={"DATABASE_ALIAS": "pg"})
        cls.backend = PostgresBackend(params)
        cls.addClassCleanup(cls.backend.close)
        cls.backend.execute([Add("n", 1, op=OP)])

    def test_value_from_the_class_is_there(self) -> None:
        assert self.backend.execute([Read("n")])[0].data == 1

    def test_change_is_committed_at_once(self) -> None:
        self.backend.execute([Add("m", 1, op=OP)])
        other = PostgresBackend(self.backend.params)
        self.addCleanup(other.close)
        assert other.execute([Read("m")])[0].data == 1


@pytest.mark.django_db(transaction=True, databases=["default", "pg"])
def test_database_is_cloned_and_dropped_under_live_connections(make_backend: MakeBackend) -> None:
    """As the test runner does it with --parallel, while a pool, a dispatcher and a listener are connected."""
    backend = make_backend(DATABASE_ALIAS="pg")
    settings = connections.settings["pg"]
    before = settings["NAME"]
    creation = connections["pg"].creation
    clone = creation.get_test_db_clone_settings("7")["NAME"]
    with in_background(backend) as listening:
        backend.execute([Add("n", 1, op=OP)])
        backend.dispatcher.flush()
        try:
            creation.clone_test_db("7", verbosity=0)
            background.submit(listening.ups(2)).result()
            settings["NAME"] = clone
            assert backend.execute([Read("n")])[0].data == 1, "the clone's"
            assert backend.execute([Add("n", 1, op=OP[::-1])])[0].data == 2
            backend.dispatcher.flush()
            settings["NAME"] = before
            assert backend.execute([Read("n")])[0].data == 1
            settings["NAME"] = clone
            assert backend.execute([Read("n")])[0].data == 2
        finally:
            settings["NAME"] = before
            creation.destroy_test_db(before, suffix="7", verbosity=0)
        assert backend.execute([Read("n")])[0].data == 1
        background.submit(listening.ups(3)).result()


@pytest.mark.django_db(transaction=True)
def test_migration_runs_and_does_nothing_on_sqlite() -> None:
    assert connection.vendor == "sqlite"
    assert not any(name.startswith("dref_") for name in connection.introspection.table_names())
    assert ("dref_django", "0001_initial") in MigrationExecutor(connection).loader.applied_migrations


@pytest.mark.django_db(transaction=True, databases=["default", "pg"])
def test_migration_can_be_undone_and_done_again(make_backend: MakeBackend) -> None:
    backend = make_backend(DATABASE_ALIAS="pg")
    try:
        call_command("migrate", "dref_django", "zero", database="pg", verbosity=0)
        with connections["pg"].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'dref%'")
            assert cursor.fetchone() == (0,)
            assert not any(name.startswith("dref_") for name in connections["pg"].introspection.table_names())
    finally:
        call_command("migrate", "dref_django", database="pg", verbosity=0)
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 1


@pytest.mark.django_db(databases=["default", "pg"])
def test_sqlmigrate_shows_what_postgres_gets() -> None:
    shown = StringIO()
    call_command("sqlmigrate", "dref_django", "0001", database="pg", stdout=shown)
    assert "CREATE TABLE dref_entry" in shown.getvalue()


@pytest.mark.django_db
def test_models_and_migrations_agree() -> None:
    call_command("makemigrations", "dref_django", check=True, dry_run=True, verbosity=0)
