"""Lost connections, locked rows, slow servers: a change is made once or not at all, and the caller learns which."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connections

from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.postgres.session import Late, Limit, Session, connect
from dref_django.exceptions import DRefError, OutcomeUnknown, Unavailable
from dref_django.protocol import Acquire, Add, Check, Delete, Read, Status, Write
from tests.postgres.conftest import OP, Database, MakeBackend
from tests.processes import no_threads
from tests.proxy import TcpProxy

HANG_UP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dref_django'"


def total(backend: PostgresBackend, name: str = "n") -> object:
    return backend.execute([Read(name)])[0].data


def test_lost_reply_is_proven_by_the_op_id(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend()
    backend.execute([Add("n", 1, op=b"warm up.")])
    lost = through.drop_replies(matching=OP)
    (reply,) = backend.execute([Add("n", 5, op=OP)])
    assert lost.is_set()
    assert (reply.status, reply.data) == (Status.APPLIED, 6)
    assert total(backend) == 6


async def test_lost_reply_of_a_batch_is_proven_on_a_loop_too(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend()
    await backend.aexecute([Delete("v", op=b"warm up."), Add("n", 1, op=b"warm up.")])
    lost = through.drop_replies(matching=OP)
    written, added = await backend.aexecute([Write("v", b"old", op=OP), Add("n", 2, op=OP[::-1])])
    assert lost.is_set()
    assert (written.status, written.existed) == (Status.APPLIED, False)
    assert (added.status, added.data) == (Status.APPLIED, 3)


def test_lost_request_of_a_change_is_an_unknown_outcome(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend()
    backend.execute([Add("n", 1, op=b"warm up.")])
    lost = through.drop_requests(matching=OP)
    with pytest.raises(OutcomeUnknown) as caught:
        backend.execute([Add("n", 5, op=OP)])
    assert lost.is_set()
    assert caught.value.name == "n"
    assert total(backend) == 1


def test_lost_reply_of_a_read_or_of_a_lease_is_asked_for_again(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend()
    backend.execute([Write("unique", b"v")])
    backend.execute([Read("unique")])
    through.drop_replies(matching=b"unique")
    assert total(backend, "unique") == b"v"
    through.drop_replies(matching=b"lease")
    (reply,) = backend.execute([Acquire("lease", "n/1", 10**7)])
    assert (reply.status, reply.token > 0) == (Status.APPLIED, True)


def test_server_that_hung_up_on_an_idle_connection_is_not_noticed(backend: PostgresBackend, database: Database) -> None:
    backend.execute([Add("n", 1, op=b"warm up.")])
    database.sql(HANG_UP)
    for count in range(2, 5):
        assert backend.execute([Add("n", 1, op=bytes([count] * 8))])[0].data == count


@pytest.mark.parametrize("warm", [True, False])
def test_black_hole_ends_within_the_time_limit(make_backend: MakeBackend, through: TcpProxy, warm: bool) -> None:
    backend = make_backend(timeout=0.5)
    if warm:
        backend.execute([Add("n", 1, op=b"warm up.")])
    through.blackhole()
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown if warm else Unavailable):
        backend.execute([Add("n", 1, op=OP)])
    with pytest.raises(Unavailable):
        backend.execute([Read("n")])
    assert time.monotonic() - started < 2
    through.heal()
    assert total(backend) == (1 if warm else None)


async def test_black_hole_ends_within_the_time_limit_on_a_loop_too(
    make_backend: MakeBackend, through: TcpProxy
) -> None:
    backend = make_backend(timeout=0.5)
    await backend.aexecute([Add("n", 1, op=b"warm up.")])
    through.blackhole()
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await backend.aexecute([Add("n", 1, op=OP)])
    with pytest.raises(Unavailable):
        await backend.aexecute([Read("n")])
    assert time.monotonic() - started < 2


def test_large_value_into_a_black_hole_ends_within_the_time_limit(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend(timeout=0.5)
    backend.execute([Write("v", b"small", op=b"warm up.")])
    through.blackhole()
    with pytest.raises(OutcomeUnknown):
        backend.execute([Write("v", b"x" * 2**20 * 16, op=OP)])


def test_refused_connections_are_unavailable_and_name_the_cause(make_backend: MakeBackend, through: TcpProxy) -> None:
    backend = make_backend(timeout=0.3)
    through.refuse()
    with pytest.raises(Unavailable, match=r"(?s)cannot be reached.*refused"):
        backend.execute([Add("n", 1, op=OP)])
    through.accept()
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 1


@pytest.mark.parametrize("command", [Add("n", 1, op=OP), Write("n", b"v", expect=0, op=OP), Delete("n", op=OP)])
def test_row_that_another_transaction_holds_is_given_up_unchanged(
    command: Add | Write | Delete, make_backend: MakeBackend, database: Database
) -> None:
    backend = make_backend(timeout=2)
    backend.execute([Add("n", 5, op=b"warm up.")])
    with psycopg.connect(database.url) as other:
        other.execute("SELECT FROM dref_entry WHERE name = 'n' FOR UPDATE")
        started = time.monotonic()
        with pytest.raises(Unavailable, match="'n': another transaction holds the row"):
            backend.execute([command])
        assert time.monotonic() - started < 2.5
    assert total(backend) == 5
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 6


async def test_row_that_another_transaction_holds_is_given_up_on_a_loop_too(
    make_backend: MakeBackend, database: Database
) -> None:
    backend = make_backend(timeout=2)
    await backend.aexecute([Add("n", 5, op=b"warm up.")])
    async with await psycopg.AsyncConnection.connect(database.url) as other:
        await other.execute("SELECT FROM dref_entry WHERE name = 'n' FOR UPDATE")
        with pytest.raises(Unavailable, match="another transaction holds the row"):
            await backend.aexecute([Add("n", 1, op=OP)])
    assert (await backend.aexecute([Read("n")]))[0].data == 5


def test_statement_that_is_not_cancelled_for_want_of_a_thread_is_late(make_backend: MakeBackend) -> None:
    limit = Limit.of(2)
    session = Session(connect(make_backend().address.direct_params(2), limit.end))
    with no_threads(), pytest.raises(Late):
        session.wait(session.script("SELECT pg_sleep(60)"), limit)
    assert session.cancelled
    session.close()


def test_what_waits_for_a_row_sees_it_as_it_is_then(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend()
    backend.execute([Write("n", 5, ttl=200_000, op=b"warm up.")])
    with psycopg.connect(database.url) as other, ThreadPoolExecutor() as threads:
        other.execute("SELECT FROM dref_entry WHERE name = 'n' FOR UPDATE")
        waiting = threads.submit(backend.execute, [Add("n", 1, op=OP)])
        while backend.execute([Read("n")])[0].data is not None:
            pass
        other.commit()
        (reply,) = waiting.result()
    assert (reply.data, reply.existed, reply.left) == (1, False, None)


def test_full_pool_waits_and_then_gives_up(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend(timeout=20, POOL_SIZE=1)
    backend.execute([Add("n", 1, op=b"warm up.")])
    with psycopg.connect(database.url) as other, ThreadPoolExecutor() as threads:
        other.execute("SELECT FROM dref_entry WHERE name = 'n' FOR UPDATE")
        holder = threads.submit(backend.execute, [Add("n", 1, op=OP)])
        while not database.sql("SELECT FROM pg_locks WHERE NOT granted"):
            pass
        with pytest.raises(Unavailable, match="POOL_SIZE"):
            backend.execute([Read("m")], timeout=0.1)
        waiting = threads.submit(backend.execute, [Read("m")])
        other.commit()
        assert holder.result()[0].data == 2
        assert waiting.result()[0].data is None
    assert database.sessions() <= 2, "one of the pool and one that notifies"


def test_batches_in_opposite_order_never_deadlock(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend()
    rounds = 60

    def work(names: str) -> None:
        for step in range(rounds):
            op = names.encode() + step.to_bytes(7 - len(names) + 1, "big")
            backend.execute([Check("guard", 0), *(Add(name, 1, op=op) for name in names)])

    threads = [threading.Thread(target=work, args=(names,)) for names in ("abc", "cba", "bca", "acb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [total(backend, name) for name in "abc"] == [4 * rounds] * 3
    ((deadlocks,),) = database.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0
    assert total(backend, "guard") is None
    assert not database.sql("SELECT FROM dref_entry WHERE name = 'guard'")


def test_missing_tables_say_to_migrate(
    make_backend: MakeBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    monkeypatch.setitem(connections.settings[database.alias], "NAME", "postgres")
    with pytest.raises(DRefError, match=rf"manage\.py migrate --database {database.alias}"):
        backend.execute([Read("n")])


def test_newer_tables_are_refused_with_a_sentence(make_backend: MakeBackend, database: Database) -> None:
    database.sql("UPDATE dref_meta SET value = '99' WHERE key = 'layout'")
    try:
        with pytest.raises(DRefError, match="layout 99, made by a newer release"):
            make_backend().execute([Read("n")])
    finally:
        database.sql("UPDATE dref_meta SET value = '1' WHERE key = 'layout'")
