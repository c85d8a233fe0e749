"""The listener: what it hears, what it costs on the wire, and how it comes back."""

from __future__ import annotations

import threading

import psycopg
import pytest

from dref_django.backends.postgres import PostgresBackend, listener
from dref_django.backends.postgres.channels import PAYLOAD_LIMIT, Channels, canary, parse
from dref_django.backends.postgres.dispatcher import MOST_NAMES, MOST_NOTICES, Outbox
from dref_django.deltas import make_splice
from dref_django.protocol import Acquire, Add, Delete, Expire, Notice, Patch, Read, Release, Splice, Wake, Write
from tests.listening import Listening, until
from tests.postgres.conftest import OP, Database, MakeBackend
from tests.proxy import TcpProxy

END_LISTENERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^(LISTEN|NOTIFY) dref'"
FRIEND = Channels("friend")


async def test_hears_what_is_watched_and_nothing_else(make_backend: MakeBackend) -> None:
    backend, writer = make_backend(), make_backend()
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], ["shop."])
        version = writer.execute([Write("shop.a", b"x", op=OP)])[0].version
        writer.execute([Write("other", b"x", op=OP)])
        last = writer.execute([Add("n", 1, op=OP)])[0].version
        await until(lambda: len(listening.heard.notices) >= 2)
        assert sorted(listening.heard.notices) == [
            Notice("n", last, 0, Patch.FULL, 1),
            Notice("shop.a", version, 0, Patch.FULL, b"x"),
        ]
        await listening.feed.unsubscribe(["n"], [])
        writer.execute([Add("n", 1, op=OP)])
        gone = writer.execute([Delete("shop.a", op=OP)])[0].version
        await until(lambda: len(listening.heard.notices) >= 3)
        assert listening.heard.notices[2:] == [Notice("shop.a", gone, version, Patch.GONE)]


async def test_release_wakes_the_waiter_of_this_process_only(make_backend: MakeBackend) -> None:
    backend, other = make_backend(), make_backend()
    waiter = f"{backend.node_id()}/1"
    async with Listening(backend) as listening, Listening(other) as elsewhere:
        token = other.execute([Acquire("lock", "holder", 10**7)])[0].token
        backend.execute([Acquire("lock", waiter, 10**7, wait=10**7)])
        other.execute([Release("lock", "holder", token)])
        await until(lambda: bool(listening.heard.wakes))
        assert listening.heard.wakes == [Wake("lock", waiter)]
        assert elsewhere.heard.wakes == []


async def test_ended_listener_comes_back_and_hears_again(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend()
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], [])
        database.sql(END_LISTENERS)
        await listening.ups(2)
        assert len(listening.heard.downs) == 1
        assert listening.heard.epochs[0] == listening.heard.epochs[1] != ""
        backend.execute([Add("n", 1, op=OP)])
        await until(lambda: [notice.data for notice in listening.heard.notices] == [1])


async def test_listener_whose_own_messages_do_not_come_back_connects_again(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that gives LISTEN and NOTIFY to different sessions: every statement succeeds."""
    async with Listening(make_backend(heartbeat=0.05)) as listening:
        monkeypatch.setattr(listener, "canary", lambda number: "kA==")  # an array of nothing
        await until(lambda: bool(listening.heard.downs))
        monkeypatch.undo()
        await listening.ups(2)
    assert "did not come back" in listening.heard.downs[0]


async def test_half_open_connection_is_found_within_the_time_limit(
    make_backend: MakeBackend, through: TcpProxy
) -> None:
    backend = make_backend(heartbeat=0.1, timeout=0.5)
    async with Listening(backend) as listening:
        through.blackhole()
        await until(lambda: bool(listening.heard.downs))
        through.heal()
        await listening.ups(2)


async def test_canary_keeps_a_quiet_connection_up(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend(heartbeat=0.05)
    async with Listening(backend) as listening:
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as other:
            await other.execute(f"LISTEN {backend.channels.of_node(backend.node_id())}".encode())
            payloads = [each.payload async for each in other.notifies(timeout=5, stop_after=4)]
        numbers = [number for payload in payloads for number in parse(payload)]
        assert numbers == list(range(numbers[0], numbers[0] + 4))  # type: ignore[arg-type, operator]
        assert (len(listening.heard.epochs), listening.heard.downs) == (1, [])


async def test_marker_of_the_tables_is_part_of_the_epoch(make_backend: MakeBackend, database: Database) -> None:
    async with Listening(make_backend()) as listening:
        ((marker, system),) = database.sql(
            "SELECT value, system_identifier::text FROM dref_meta, pg_control_system() WHERE key = 'marker'"
        )
        assert listening.heard.epochs[0].startswith(f"{system}-00000001-")
        assert listening.heard.epochs[0].endswith(f"-{marker}")


def test_one_changed_field_of_a_large_value_travels_in_under_300_bytes(
    backend: PostgresBackend, database: Database
) -> None:
    old = b'{"title": "a", "body": "' + b"x" * 100_000 + b'"}'
    new = old.replace(b'"a"', b'"b"')
    version = backend.execute([Write("page", old, op=OP)])[0].version
    splice = make_splice(old, new)
    assert splice is not None
    with psycopg.connect(database.url, autocommit=True) as plain:
        plain.execute(f"LISTEN {backend.channels.of_name('page')}".encode())
        changed = backend.execute([Write("page", splice, expect=version, op=b"87654321")])[0].version
        wanted = Notice("page", changed, version, Patch.SPLICE, None, splice)
        payload = next(each.payload for each in plain.notifies(timeout=5) if wanted in parse(each.payload))
    assert len(payload) < 300
    assert backend.execute([Read("page")])[0].data == new


@pytest.mark.parametrize("size", [0, 5800, 7_999, 8_000, 8_001, 2**20])
async def test_value_of_any_size_arrives_or_is_hinted_at(size: int, backend: PostgresBackend) -> None:
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["v"], [])
        version = backend.execute([Write("v", b"x" * size, op=OP)])[0].version
        await until(lambda: bool(listening.heard.notices))
        (notice,) = listening.heard.notices
        whole = (Patch.FULL, b"x" * size) if size < 5900 else (Patch.HINT, None)
        assert (notice.version, notice.patch, notice.data) == (version, *whole)


async def test_longest_names_of_any_script_are_heard(backend: PostgresBackend) -> None:
    names = ["😀" * 200, "a b/c{d}'e\"f\\g%h", "日本"]
    async with Listening(backend) as listening:
        await listening.feed.subscribe(names, [])
        for name in names:
            backend.execute([Add(name, 1, op=OP)])
            backend.execute([Expire(name, 10**7, op=OP[::-1])])
        await until(lambda: len(listening.heard.notices) >= 6)
        assert [notice.name for notice in listening.heard.notices] == [name for name in names for _ in range(2)]


async def test_burst_of_many_threads_arrives_complete(make_backend: MakeBackend) -> None:
    backend, writer = make_backend(), make_backend()

    def write(name: str) -> None:
        for step in range(100):
            writer.execute([Add(name, 1, op=step.to_bytes(8, "big"))])

    async with Listening(backend) as listening:
        await listening.feed.subscribe([], [""])
        threads = [threading.Thread(target=write, args=(f"n{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: len(listening.heard.notices) >= 400)
        for thread in threads:
            thread.join()
    for name in ("n0", "n1", "n2", "n3"):
        assert [notice.data for notice in listening.heard.notices if notice.name == name] == list(range(1, 101))


async def test_notices_survive_the_end_of_the_connection_that_sends_them(
    make_backend: MakeBackend, database: Database
) -> None:
    backend, writer = make_backend(), make_backend()
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], [])
        writer.execute([Add("n", 1, op=OP)])
        await until(lambda: len(listening.heard.notices) == 1)
        database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_notify(c, p)%'"
            " AND pid <> pg_backend_pid()")  # fmt: skip
        writer.execute([Add("n", 1, op=OP[::-1])])
        await until(lambda: [notice.data for notice in listening.heard.notices][-1] == 2)


def test_payloads_carry_every_kind_of_item_and_never_more_than_fits() -> None:
    notices = [
        Notice("n", 3, 2, Patch.FULL, -(2**63), None, 5),
        Notice("n", 4, 3, Patch.SPLICE, None, Splice(0, 4, b"\x00\xff"), None),
        Notice("n", 5, 4, Patch.GONE),
        Notice("n", 6, 5, Patch.FULL, b"y" * 5900, None, None),
        Notice("n", 7, 6, Patch.HINT),
    ]
    messages = FRIEND.messages([*notices, Wake("l", "node/1"), None])
    assert all(len(payload) <= PAYLOAD_LIMIT for _, payload in messages)
    heard = [item for channel, payload in messages if channel == FRIEND.of_name("n") for item in parse(payload)]
    assert heard == [*notices, None]
    assert {channel for channel, _ in messages} == {*FRIEND.all, FRIEND.of_node("node")}
    assert parse(canary(7)) == [7]
    for foreign in ("", "hello", "gA==", canary(7)[:-1], "kpIBAg=="):
        with pytest.raises(ValueError, match=r"."):
            parse(foreign)


def test_outbox_keeps_the_newest_version_of_each_name_when_it_overflows() -> None:
    outbox = Outbox()
    outbox.add([Notice("n", step, step - 1, Patch.FULL, step) for step in range(1, MOST_NOTICES + 2)])
    assert outbox.take() == [Notice("n", MOST_NOTICES + 1, 0, Patch.HINT)]
    assert not outbox


def test_outbox_says_that_everything_may_have_changed_when_too_many_names_wait() -> None:
    outbox = Outbox()
    outbox.add([Notice(f"n{step}", 1, 0, Patch.FULL, step) for step in range(MOST_NAMES + 1)])
    assert outbox.take() == [None]


async def test_lost_notices_are_announced_as_a_new_beginning(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend()
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], [])
        ((channel, payload), *_) = (
            message for message in backend.channels.messages([None]) if message[0] == backend.channels.of_name("n")
        )
        database.sql("SELECT pg_notify(%s, %s)", channel, payload)
        await listening.ups(2)
        assert listening.heard.downs == []
