"""docs/format.md is all that a program in another language needs: plain psycopg and msgpack read and write by it."""

from __future__ import annotations

import binascii
import hashlib
import re
import struct
from pathlib import Path

import msgpack
import psycopg
import pytest

from dref_django.backends.postgres import PostgresBackend
from dref_django.codecs import get_codec
from dref_django.protocol import Acquire, Add, Delete, Patch, Read, Release, Scan, Status, Write
from tests.listening import Listening, until
from tests.postgres.conftest import OP, Database, MakeBackend

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "docs" / "format.md").read_text(encoding="utf-8").partition("\n## PostgreSQL\n")[2]
READ_LIVE, WRITES, IS_HELD = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture
def backend(make_backend: MakeBackend, database: Database) -> PostgresBackend:
    """On the default prefix, as the examples are."""
    database.sql("DELETE FROM dref_entry WHERE space = 'dref'")
    return make_backend(key_prefix="dref")


def documented_channel(space: str, name: str) -> str:
    return f"dref_{hashlib.sha256(space.encode()).hexdigest()[:12]}_{binascii.crc32(name.encode()) % 16:x}"


def test_documented_query_reads_what_is_alive(backend: PostgresBackend, database: Database) -> None:
    value = {"title": "émile", "tags": ["a", "b"], "size": 7}
    backend.execute([Write("page", msgpack.packb(value), op=OP)])
    backend.execute([Add("visits", 5, op=OP)])
    backend.execute([Write("over", b"x", ttl=1, op=OP)])
    backend.execute([Write("soon over", b"", ttl=10**9, op=OP)])
    backend.execute([Write("gone", b"x", op=OP)])
    backend.execute([Delete("gone", op=OP)])
    rows = {name: (num, data, version) for name, num, data, version in database.sql(READ_LIVE)}
    assert rows.keys() == {"page", "visits", "soon over"}
    assert rows["visits"][0] == 5
    assert msgpack.unpackb(rows["page"][1]) == value
    page = backend.execute([Scan()])[0].page
    assert {row.name: row.version for row in page} == {name: row[2] for name, row in rows.items()}  # type: ignore[union-attr]


def test_documented_statements_write_what_the_back_end_reads(backend: PostgresBackend, database: Database) -> None:
    set_greeting, count_visit = (statement for statement in WRITES.split(";") if statement.strip())
    assert database.sql(set_greeting)[0][0] == Status.APPLIED
    assert [database.sql(count_visit)[0][1] for _ in range(3)] == [1, 2, 3]
    assert backend.execute([Read("visits")])[0].data == 3
    data = backend.execute([Read("greeting")])[0].data
    assert isinstance(data, bytes)
    assert get_codec("msgpack").decode(data) == "hello"


def test_last_op_ids_stand_in_the_documented_columns(backend: PostgresBackend, database: Database) -> None:
    versions = [backend.execute([Add("n", 1, op=step.to_bytes(8, "big"))])[0].version for step in range(10)]
    ((op, result, ring),) = database.sql("SELECT op, result, ring FROM dref_entry WHERE space = 'dref' AND name = 'n'")
    assert (int.from_bytes(op, "big"), result) == (9, 10)
    marks = list(struct.iter_unpack("!qqq", ring))
    assert marks == [(step, versions[step], step + 1) for step in range(2, 9)]


def test_notice_reads_as_documented(backend: PostgresBackend, database: Database) -> None:
    channel = documented_channel("dref", "n")
    with psycopg.connect(database.url, autocommit=True) as listener:
        listener.execute(f"LISTEN {channel}".encode())
        version = backend.execute([Write("n", b"hello", ttl=10**9, op=OP)])[0].version
        (notification,) = listener.notifies(timeout=5, stop_after=1)
    assert msgpack.unpackb(binascii.a2b_base64(notification.payload)) == [
        ["n", version, 0, int(Patch.FULL), b"hello", 10**9]
    ]


async def test_documented_notice_is_heard(backend: PostgresBackend, database: Database) -> None:
    channel = documented_channel("dref", "n")
    payload = binascii.b2a_base64(msgpack.packb([["n", 5, 4, 2, None, None]]), newline=False).decode()
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], [])
        database.sql("SELECT pg_notify(%s, %s)", channel, payload)
        await until(lambda: bool(listening.heard.notices))
        assert listening.heard.notices[0][:4] == ("n", 5, 4, Patch.GONE)


def test_lock_reads_as_documented(backend: PostgresBackend, database: Database) -> None:
    token = backend.execute([Acquire("lock", "node/1", 10**9, meta='{"pid": 1}')])[0].token
    backend.execute([Acquire("lock", "node/2", 10**9, wait=10**9)])
    columns = "owner, token, deadline > extract(epoch FROM clock_timestamp()) * 1000000, meta, waiters"
    (row,) = database.sql(f"SELECT {columns} FROM dref_lease WHERE space = 'dref' AND name = 'lock'")  # noqa: S608
    assert row == ("node/1", token, True, '{"pid": 1}', ["node/2"])


def test_documented_query_says_whether_a_lock_is_held(backend: PostgresBackend, database: Database) -> None:
    database.sql("DELETE FROM dref_lease WHERE space = 'dref'")
    token = backend.execute([Acquire("lock:billing", f"{backend.node_id()}/1", 10**9)])[0].token
    assert database.sql(IS_HELD) == [(True,)]
    backend.execute([Release("lock:billing", f"{backend.node_id()}/1", token)])
    assert database.sql(IS_HELD) == [(False,)]
