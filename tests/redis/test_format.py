"""docs/format.md, section Redis, with nothing but a plain client and plain msgpack."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from dref_django.backends.redis import RedisBackend
from dref_django.backends.redis.options import KNOWN
from dref_django.protocol import Acquire, Add, Delete, Notice, Patch, Read, Scan, Write
from tests.listening import Listening, until
from tests.servers import HasUrl

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
VALUE = {"beta": True, "rollout": 25}


@pytest.fixture
def client(redis_server: HasUrl) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url) as plain:
        yield plain


def key(backend: RedisBackend, name: str, mark: str = "") -> str:
    return f"{{{backend.params.key_prefix}:{name}}}{mark}"


def test_value_is_read_by_a_plain_client(backend: RedisBackend, client: Any) -> None:
    (written,) = backend.execute([Write("flags", msgpack.packb(VALUE), ttl=60_000_000)])
    version, number, encoded, deadline, gone = client.hmget(key(backend, "flags"), "v", "i", "b", "d", "g")
    assert msgpack.unpackb(encoded) == VALUE
    assert (int(version), number, gone) == (written.version, None, None)
    assert int(deadline) == written.version + 60_000_000
    assert 3600 < client.ttl(key(backend, "flags")) <= 3660


def test_counter_is_read_by_a_plain_client(backend: RedisBackend, client: Any) -> None:
    for number in range(10):
        (added,) = backend.execute([Add("visits", -1, op=bytes([number] * 8))])
    fields = client.hgetall(key(backend, "visits"))
    assert (int(fields[b"i"]), int(fields[b"v"])) == (-10, added.version)
    assert set(fields) == {b"i", b"v", b"n", *(b"r%d" % slot for slot in range(8))}
    assert fields[b"r" + fields[b"n"]].split() == [b"09" * 8, b"%d" % added.version, b"-10"]
    assert client.ttl(key(backend, "visits")) == -1


def test_deleted_ref_is_remembered_for_an_hour(backend: RedisBackend, client: Any) -> None:
    backend.execute([Write("flags", b"x", op=b"12345678")])
    (deleted,) = backend.execute([Delete("flags")])
    fields = client.hgetall(key(backend, "flags"))
    assert set(fields) == {b"v", b"g", b"n", b"r0"}
    assert int(fields[b"v"]) == deleted.version
    assert 3590 < client.ttl(key(backend, "flags")) <= 3600


async def test_value_written_by_a_plain_client_is_read_scanned_and_noticed(backend: RedisBackend, client: Any) -> None:
    prefix = backend.params.key_prefix
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["flags"], [])
        await backend.aexecute([Add("flags", 1)])  # it was a number, with a deadline and an op id
        seconds, microseconds = client.time()
        base = int(client.hget(key(backend, "flags"), "v"))
        version = max(base + 1, seconds * 1_000_000 + microseconds)
        encoded = msgpack.packb(VALUE)
        with client.pipeline(transaction=True) as step:
            step.hset(key(backend, "flags"), mapping={"v": version, "b": encoded})
            step.hdel(key(backend, "flags"), "i", "d", "g")
            step.persist(key(backend, "flags"))
            step.zadd(f"{{{prefix}:}}names", {"flags": 0})
            step.publish(f"{prefix}@0:flags", b"b %d %d -\n%b" % (version, base, encoded))
            step.execute()
        (read,) = await backend.aexecute([Read("flags")])
        assert (read.data, read.version, read.left) == (encoded, version, None)
        (scanned,) = await backend.aexecute([Scan()])
        assert [row.name for row in scanned.page] == ["flags"]
        await until(lambda: len(listening.heard.notices) == 2)
        assert listening.heard.notices[1] == Notice("flags", version, base, Patch.FULL, encoded, None, None)


def test_lock_is_read_by_a_plain_client(backend: RedisBackend, client: Any) -> None:
    (held,) = backend.execute([Acquire("report", "p1/1", 30_000_000, meta='{"host": "web1"}')])
    backend.execute([Acquire("report", "p2/1", 30_000_000, 10_000_000)])
    fields = client.hgetall(key(backend, "report", "!"))
    assert (fields[b"o"], int(fields[b"t"]), fields[b"m"]) == (b"p1/1", held.token, b'{"host": "web1"}')
    assert int(fields[b"d"]) - int(fields[b"s"]) == 30_000_000
    ((owner, expires),) = msgpack.unpackb(fields[b"q"])
    assert owner == "p2/1"
    assert expires > int(fields[b"s"]) + 10_000_000


def test_indexes_hold_the_names_in_order_and_forget_what_is_gone(backend: RedisBackend, client: Any) -> None:
    index = f"{{{backend.params.key_prefix}:}}names"
    names = [f"n{number:02}" for number in range(20)]
    for name in names:
        backend.execute([Write(name, b"x")])
    assert [name.decode() for name in client.zrange(index, 0, -1)] == names
    client.delete(*(key(backend, name) for name in names))
    backend.execute([Scan("n0")])
    assert client.zcard(index) == 10
    for number in range(100):
        backend.execute([Write(f"m{number}", b"x")])
    assert client.zcard(index) < 110


def test_every_option_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert [option for option in KNOWN if f"`{option}`" not in text] == []


def test_nothing_of_ours_is_left_unnamed(backend: RedisBackend, client: Any) -> None:
    backend.execute([Write("a", b"x")])
    backend.execute([Write("g\x1fa", b"x")])
    asyncio.run(backend.aexecute([Acquire("a", "p/1", 1_000_000), Acquire("g\x1fa", "p/1", 1_000_000)]))
    opening = f"{{{backend.params.key_prefix}:"
    found = {found.decode() for found in client.scan_iter(match=f"{opening}*")}
    tails = ("a}", "a}!", "g}:a", "g}!:a", "}names", "}leases", "}layout")
    assert found == {opening + tail for tail in tails}
