"""Refs within join_transaction(): this process's copies neither show nor keep what is not committed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import transaction

from dref_django import Conflict, Counter, DRef, backends, join_transaction
from dref_django import transaction as several
from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "pg"])


@pytest.fixture(autouse=True)
def postgres(db: None) -> Iterator[None]:
    params = Params(key_prefix=f"test-{secrets.token_hex(6)}", options={"DATABASE_ALIAS": "pg"}, timeout=2)
    made = PostgresBackend(params)
    backends.install("default", made)
    yield
    backends.install("default", None)
    made.close()


def elsewhere(work: object) -> object:
    """What `work` returns in a thread that is in no transaction."""
    with ThreadPoolExecutor() as threads:
        return threads.submit(work).result()  # type: ignore[arg-type]


def test_peek_shows_the_transaction_its_own_values_and_nobody_else() -> None:
    visits = Counter("visits")
    visits.set(1)
    assert visits.peek() == 1
    with transaction.atomic("pg"), join_transaction():
        visits.increment()
        assert visits.peek() == 2
        assert visits.get(max_staleness=60) == 2
        assert elsewhere(visits.peek) == 1


def test_value_that_was_rolled_back_is_never_peeked_at() -> None:
    visits = Counter("visits")
    visits.set(1)
    assert visits.peek() == 1
    with transaction.atomic("pg"), join_transaction():
        visits.set(99)
        transaction.set_rollback(True, using="pg")
    assert visits.peek() == 1
    assert visits.get() == 1


def test_update_is_not_retried_within_a_joined_transaction() -> None:
    settings: DRef[list[int]] = DRef("settings", default=list)
    settings.set([1])
    calls = []

    def append(value: list[int]) -> list[int]:
        calls.append(value)
        elsewhere(lambda: settings.set([7]))
        return [*value, 2]

    with pytest.raises(Conflict, match="'settings'"), transaction.atomic("pg"), join_transaction():
        settings.update(append)
    assert calls == [[1]]
    assert settings.get() == [7]


def test_transaction_of_several_refs_is_part_of_the_joined_one() -> None:
    stock, sold = Counter("stock", 10), Counter("sold")
    for rolled_back in (True, False):
        with transaction.atomic("pg"), join_transaction():
            with several():
                stock.decrement()
                sold.increment()
                assert elsewhere(sold.get) == 0
            assert (stock.get(), sold.peek()) == (9, 1)
            assert elsewhere(sold.get) == 0
            transaction.set_rollback(rolled_back, using="pg")
    assert (stock.get(), sold.get()) == (9, 1)


def test_conflict_of_several_refs_is_not_run_again_within_the_joined_one() -> None:
    stock, sold = Counter("stock", 10), Counter("sold")
    calls = []

    @several
    def sell() -> None:
        calls.append(stock.get())
        elsewhere(stock.increment)
        sold.increment()

    with pytest.raises(Conflict, match="'stock'"):
        with transaction.atomic("pg"), join_transaction():
            sell()
    assert (calls, sold.get()) == ([10], 0)


def test_change_on_commit_follows_the_joined_one() -> None:
    visits = Counter("visits")
    with transaction.atomic("pg"):
        visits.on_commit("pg").increment()
        with join_transaction():
            visits.set(10)
    assert visits.get() == 11
