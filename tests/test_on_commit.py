"""`ref.on_commit()`: changes that wait for the surrounding database transaction."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, assert_type

import pytest
from django.db import transaction as database

from dref_django import Counter, DRef, Flag, InvalidValue, transaction
from dref_django.on_commit import CounterOnCommit, FlagOnCommit, OnCommit
from dref_django.testing import isolate
from tests.transactions.others import elsewhere

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "pg"])


@pytest.mark.usefixtures("any_backend")
@pytest.mark.parametrize("using", ["default", "pg"])
def test_change_is_made_by_the_commit_and_by_nothing_else(using: str) -> None:
    visits = Counter("visits")
    with database.atomic(using):
        visits.on_commit(using).increment(2)
        with database.atomic(using):
            visits.on_commit(using).increment(3)
        with suppress(ZeroDivisionError), database.atomic(using):
            visits.on_commit(using).increment(100)
            raise ZeroDivisionError
        assert visits.get() == 0
    assert visits.get() == 5
    with suppress(ZeroDivisionError), database.atomic(using):
        visits.on_commit(using).increment()
        raise ZeroDivisionError
    assert visits.get() == 5
    visits.on_commit(using).increment()  # no transaction is open
    assert visits.get() == 6


@pytest.mark.usefixtures("any_backend")
def test_every_changing_method_waits_for_the_commit() -> None:
    counter, flag, text = Counter("counter"), Flag("flag"), DRef("text", "")
    first, swapped, gone, short = DRef("first", ""), DRef("swapped", [1]), DRef("gone", ""), DRef("short", "")
    gone.set("x")
    short.set("x")
    with database.atomic():
        counter.on_commit().increment(5)
        counter.on_commit().decrement(2)
        flag.on_commit().toggle()
        text.on_commit().set("a", ttl=60)
        text.on_commit().update(lambda old: old + "b")
        first.on_commit().set_if_absent("first")
        first.on_commit().set_if_absent("second")
        swapped.on_commit().compare_and_set([1], [2])
        swapped.on_commit().compare_and_set([1], [3])
        gone.on_commit().delete()
        short.on_commit().expire(60)
        refs: list[DRef[Any]] = [counter, flag, text, first, swapped, gone, short]
        assert [ref.get() for ref in refs] == [0, False, "", "", [1], "x", "x"]
    assert [ref.get() for ref in refs] == [3, True, "ab", "first", [2], "", "x"]


@isolate()
def test_what_is_wrong_raises_at_the_call() -> None:
    with database.atomic():
        with pytest.raises(InvalidValue):
            Counter("counter").on_commit().increment(1.5)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            Counter("counter").on_commit().set("text")  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            DRef("text", "").on_commit().set("text", ttl=-1)


@isolate()
def test_object_that_is_changed_afterwards_is_written_as_it_was() -> None:
    tags: DRef[list[str]] = DRef("tags", default=list, type=list[str])
    given = ["a"]
    with database.atomic():
        tags.on_commit().set(given)
        given.append("b")
    assert tags.get() == ["a"]


@isolate()
def test_failing_change_is_raised_by_the_commit_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    text, visits = DRef("text", "words"), Counter("visits")

    def fail(old: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with database.atomic():
            text.on_commit().update(fail)
    with caplog.at_level(logging.ERROR), database.atomic():
        text.on_commit(robust=True).update(fail)
        visits.on_commit().increment()
    assert visits.get() == 1
    assert "DRef('text').on_commit" in caplog.text


@isolate()
def test_commit_inside_a_transaction_of_refs_counts_whatever_becomes_of_that() -> None:
    visits, other = Counter("visits"), Counter("other")
    with suppress(ZeroDivisionError), transaction():
        other.increment()
        with database.atomic():
            visits.on_commit().increment()
        assert elsewhere(visits.get) == 1
        raise ZeroDivisionError
    assert (visits.get(), other.get()) == (1, 0)


def test_it_is_typed_by_its_ref() -> None:
    assert_type(Counter("a").on_commit(), CounterOnCommit)
    assert_type(Flag("b").on_commit(), FlagOnCommit)
    assert_type(DRef("c", "").on_commit(), OnCommit[str])
