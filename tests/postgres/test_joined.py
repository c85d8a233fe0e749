"""join_transaction(): refs as part of the caller's transaction, and the ones that are not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.postgres.join import OwnLock
from dref_django.exceptions import Conflict, DRefError, Unavailable
from dref_django.protocol import INT_MAX, Acquire, Add, Check, Delete, Read, Scan, Splice, Status, Write
from dref_django.store import Event
from tests.postgres.conftest import OP, Database

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "pg"])


@pytest.fixture
def backend(db: None) -> Iterator[PostgresBackend]:
    params = Params(key_prefix=f"test-{secrets.token_hex(6)}", options={"DATABASE_ALIAS": "pg"}, timeout=2)
    made = PostgresBackend(params)
    yield made
    made.close()


@pytest.fixture
def told(backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events that the back end hands to its dispatcher."""
    events: list[Event] = []
    monkeypatch.setattr(backend.dispatcher, "post", events.extend)
    return events


def server_url() -> str:
    return Database("pg").url


def seen_elsewhere(backend: PostgresBackend, name: str = "n") -> object:
    """The value that another thread, outside every transaction, reads."""
    with ThreadPoolExecutor() as threads:
        return threads.submit(backend.execute, [Read(name)]).result()[0].data


def test_change_is_committed_and_told_with_the_transaction(backend: PostgresBackend, told: list[Event]) -> None:
    with transaction.atomic("pg"):
        with backend.joined():
            (reply,) = backend.execute([Add("n", 5, op=OP)])
            assert (reply.status, reply.data) == (Status.APPLIED, 5)
            assert backend.execute([Read("n")])[0].data == 5
        assert seen_elsewhere(backend) is None
        assert told == []
    assert seen_elsewhere(backend) == 5
    assert [event.name for event in told] == ["n"]


def test_every_command_works_joined_also_as_the_first_of_the_transaction(backend: PostgresBackend) -> None:
    with transaction.atomic("pg"), backend.joined():
        version = backend.execute([Write("v", b"hello", expect=0, op=OP)])[0].version
        backend.execute([Write("v", Splice(0, 1, b"J"), expect=version, ttl=10**9, op=OP)])
        assert backend.execute([Check("none", 0), Add("n", 1, op=OP), Delete("v", op=OP)])[2].existed
        assert [row.name for row in backend.execute([Scan()])[0].page] == ["n"]
        assert backend.execute([Read("v"), Read("n")])[1].data == 1
        assert backend.execute([Add("n", INT_MAX, op=OP)])[0].status is Status.OVERFLOW
        assert backend.execute([Write("n", 2, expect=1, op=OP)])[0].status is Status.CONFLICT
        assert backend.execute([Add("n", 1, op=OP)])[0].data == 2
    assert seen_elsewhere(backend) == 2


def test_rollback_takes_the_change_and_its_notice_along(backend: PostgresBackend, told: list[Event]) -> None:
    with transaction.atomic("pg"), backend.joined():
        backend.execute([Add("n", 5, op=OP)])
        transaction.set_rollback(True, "pg")
    assert seen_elsewhere(backend) is None
    assert told == []
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 1


def test_savepoint_that_is_rolled_back_takes_only_its_own_along(backend: PostgresBackend, told: list[Event]) -> None:
    with transaction.atomic("pg"):
        with backend.joined():
            backend.execute([Add("kept", 1, op=OP)])
        with transaction.atomic("pg"), backend.joined():
            backend.execute([Add("dropped", 1, op=OP)])
            transaction.set_rollback(True, "pg")
        assert backend.execute([Add("dropped", 7, op=OP)])[0].data == 7  # its row is free again
        with pytest.raises(OwnLock, match="'kept'"):
            backend.execute([Add("kept", 1, op=OP)])
    assert seen_elsewhere(backend, "kept") == 1
    assert [event.name for event in told] == ["dropped", "kept"]


def test_row_of_its_own_transaction_is_an_error_at_once_and_no_hang(backend: PostgresBackend) -> None:
    backend.execute([Add("n", 1, op=OP)])
    with transaction.atomic("pg"):
        with backend.joined():
            backend.execute([Add("n", 1, op=OP)])
            backend.execute([Check("looked-at", 0), Write("v", b"x", op=OP)])
        for command in (Add("n", 1, op=OP), Write("looked-at", 1, op=OP), Delete("v", op=OP)):
            with pytest.raises(OwnLock, match=f"'{command.name}' was changed by join_transaction"):
                backend.execute([command])
        with pytest.raises(OwnLock):
            async_to_sync(backend.aexecute)([Add("n", 1, op=OP)])
        assert backend.execute([Read("n")])[0].data == 1
        assert backend.execute([Add("free", 1, op=OP)])[0].data == 1
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 3


def test_row_that_another_transaction_holds_is_given_up_in_time(backend: PostgresBackend) -> None:
    backend.execute([Add("n", 1, op=OP)])
    with psycopg.connect(server_url()) as other:
        other.execute("SELECT 1 FROM dref_entry FOR UPDATE")
        with (
            pytest.raises(Unavailable, match="'n': another transaction holds the row"),
            transaction.atomic("pg"),
            backend.joined(),
        ):
            backend.execute([Add("n", 1, op=OP)])
    with transaction.atomic("pg"), backend.joined():
        assert backend.execute([Add("n", 1, op=OP)])[0].data == 2


def test_serialization_failure_is_a_conflict_and_not_retried(backend: PostgresBackend) -> None:
    backend.execute([Add("n", 1, op=OP)])

    @transaction.atomic("pg")
    def add_in_a_snapshot() -> None:
        with connections["pg"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        with backend.joined():
            assert backend.execute([Read("n")])[0].data == 1
            with ThreadPoolExecutor() as threads:
                threads.submit(backend.execute, [Add("n", 1, op=OP)]).result()
            assert backend.execute([Read("n")])[0].data == 1, "the transaction's own snapshot"
            backend.execute([Add("n", 1, op=OP)])

    with pytest.raises(Conflict, match="run the whole transaction again"):
        add_in_a_snapshot()
    assert backend.execute([Read("n")])[0].data == 2


def test_deadlock_is_a_conflict(backend: PostgresBackend) -> None:
    backend.execute([Write("a", 0, op=OP), Write("b", 0, op=OP)])
    lock = "SELECT 1 FROM dref_entry WHERE name = %s FOR UPDATE"
    waiting: list[Future[object]] = []
    with psycopg.connect(server_url()) as other, ThreadPoolExecutor() as threads:
        other.execute("SET deadlock_timeout = '10s'")  # so that the joined one is the victim
        other.execute(lock, ["b"])

        @transaction.atomic("pg")
        def add_to_both() -> None:
            with connections["pg"].cursor() as cursor:
                cursor.execute("SET LOCAL deadlock_timeout = '10ms'")
            with backend.joined():
                backend.execute([Add("a", 1, op=OP)])
                waiting.append(threads.submit(other.execute, lock, ["a"]))
                backend.execute([Add("b", 1, op=OP)])

        with pytest.raises(Conflict):
            add_to_both()
        waiting[0].result()


def test_joining_needs_a_transaction_and_ends_with_it(backend: PostgresBackend) -> None:
    with pytest.raises(TransactionManagementError, match=r"transaction\.atomic\(using='pg'\)"), backend.joined():
        pass
    with transaction.atomic("pg"):
        joined = backend.joined()
        joined.__enter__()
    with pytest.raises(TransactionManagementError, match="has ended"):
        backend.execute([Read("n")])
    joined.__exit__(None, None, None)


def test_async_operations_and_locks_cannot_join(backend: PostgresBackend) -> None:
    with transaction.atomic("pg"), backend.joined():
        with pytest.raises(DRefError, match="asynchronous"):
            async_to_sync(backend.aexecute)([Read("n")])
        with pytest.raises(DRefError, match="asynchronous"):
            asyncio.run(backend.aexecute([Read("n")]))
        with pytest.raises(DRefError, match="locks cannot be taken"):
            backend.execute([Acquire("l", "n/1", 10**6)])


def test_other_threads_do_not_join(backend: PostgresBackend) -> None:
    with transaction.atomic("pg"), backend.joined():
        with ThreadPoolExecutor() as threads:
            threads.submit(backend.execute, [Add("n", 1, op=OP)]).result()
        transaction.set_rollback(True, "pg")
    assert seen_elsewhere(backend) == 1


def test_lost_connection_leaves_the_transaction_rolled_back(backend: PostgresBackend, told: list[Event]) -> None:
    end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state = 'idle in transaction'"

    @transaction.atomic("pg")
    def lose_the_connection() -> None:
        with backend.joined():
            backend.execute([Add("n", 1, op=OP)])
            with psycopg.connect(server_url(), autocommit=True) as other:
                other.execute(end)
            backend.execute([Add("n", 1, op=OP)])

    with pytest.raises(Unavailable, match="its transaction with it"):
        lose_the_connection()
    assert seen_elsewhere(backend) is None
    assert told == []


def test_nothing_of_the_callers_transaction_concerns_what_has_not_joined(backend: PostgresBackend) -> None:
    with transaction.atomic("pg"):
        backend.execute([Add("n", 1, op=OP)])
        assert seen_elsewhere(backend) == 1
        transaction.set_rollback(True, "pg")
    assert backend.execute([Read("n")])[0].data == 1
