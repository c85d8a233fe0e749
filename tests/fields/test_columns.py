"""The UPDATE of many mirrored rows, in the words of each database. SQLite understands those of MySQL, and runs them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import models
from django.db.backends.mysql.operations import DatabaseOperations
from django.test.utils import isolate_apps

from dref_django.fields import DRefCounterField, DRefFlagField
from dref_django.fields.columns import Columns, Target

pytestmark = pytest.mark.usefixtures("memory")
TRUE = b"\xc3"


def mysql() -> Any:
    """What the statement asks of a connection; nothing of it needs a server, or a driver."""
    connection: Any = SimpleNamespace(vendor="mysql")
    connection.ops = DatabaseOperations(connection)
    return connection


@pytest.fixture
def mirrored() -> Iterator[Any]:
    """A model with a text key."""
    with isolate_apps("tests.fields.shop"):
        model = type(
            "Tag",
            (models.Model,),
            {
                "__module__": "tests.fields.shop.models",
                "slug": models.SlugField(primary_key=True),
                "score": DRefCounterField(mirror=True, default=1),
                "hot": DRefFlagField(mirror=True),
            },
        )
        yield model


@pytest.fixture
def table() -> Iterator[sqlite3.Connection]:
    """Its table, with three rows of version 5."""
    with sqlite3.connect(":memory:") as database:
        database.row_factory = sqlite3.Row
        columns = "slug PRIMARY KEY, score_mirror, score_version, hot_mirror, hot_version"
        database.execute(f"CREATE TABLE shop_tag ({columns})")
        database.executemany("INSERT INTO shop_tag VALUES (?, 0, 5, 0, 5)", [("a",), ("b",), ("it's",)])
        yield database
    database.close()


def run(database: sqlite3.Connection, columns: Columns, *targets: Target) -> list[tuple[Any, ...]]:
    """The rows, after MySQL's statement has run."""
    sql, parameters = columns.statement(mysql(), targets)
    database.execute(sql.replace("%s", "?"), parameters)
    value, version = columns.names
    rows = [dict(row) for row in database.execute("SELECT * FROM shop_tag ORDER BY slug")]
    return [(row["slug"], row[value], row[version]) for row in rows]


class TestMysql:
    def test_writes_newer_values_and_no_older_ones(self, mirrored: Any, table: sqlite3.Connection) -> None:
        columns = mirrored.score.field.columns
        found = run(
            table, columns, Target("a", 70, 6), Target("b", 80, 4), Target("gone", 90, 9), Target("it's", 100, 7)
        )
        assert found == [("a", 70, 6), ("b", 0, 5), ("it's", 100, 7)]

    def test_writes_the_default_of_what_is_gone(self, mirrored: Any, table: sqlite3.Connection) -> None:
        assert run(table, mirrored.score.field.columns, Target("b", None, 6))[1] == ("b", 1, 6)

    def test_writes_flags(self, mirrored: Any, table: sqlite3.Connection) -> None:
        columns = mirrored.hot.field.columns
        assert run(table, columns, Target("b", TRUE, 6)) == [("a", 0, 5), ("b", 1, 6), ("it's", 0, 5)]

    def test_says_it_in_one_statement(self, mirrored: Any) -> None:
        sql, parameters = mirrored.score.field.columns.statement(mysql(), [Target("a", 7, 6), Target("b", 8, 9)])
        assert sql == (
            "UPDATE `shop_tag` SET "
            "`score_mirror` = CASE `slug` WHEN %s THEN 7 WHEN %s THEN 8 ELSE `score_mirror` END, "
            "`score_version` = CASE `slug` WHEN %s THEN 6 WHEN %s THEN 9 ELSE `score_version` END "
            "WHERE `slug` IN (%s, %s) AND "
            "`score_version` < CASE `slug` WHEN %s THEN 6 WHEN %s THEN 9 ELSE `score_version` END"
        )
        assert parameters == ["a", "b"] * 4
