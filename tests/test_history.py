"""`history=`: who changed it, when, from what to what; in the same atomic step, and bounded."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from dref_django import Counter, CounterOverflow, DRef, Flag, transaction
from dref_django.backends import Backend
from dref_django.catalog import page as catalog_page
from dref_django.history import MOST_BYTES, TOO_LARGE, acting, actor_middleware, journal
from dref_django.protocol import INT_MAX, Read
from tests.callers import Caller
from tests.kinds import installed, make

pytestmark = pytest.mark.usefixtures("any_backend")


def flags(**options: Any) -> DRef[Any]:
    return DRef("flags", None, **{"history": 100, **options})


def changes(ref: DRef[Any]) -> list[tuple[Any, Any]]:
    return [(record.old, record.new) for record in ref.history()]


class TestRecords:
    def test_every_kind_of_change(self, call: Caller) -> None:
        ref = flags()
        call(ref, "set", 1)
        call(ref, "update", lambda old: old + 1)
        assert call(ref, "compare_and_set", 2, 3)
        assert call(ref, "get_and_set", 4) == 3
        assert call(ref, "delete")
        assert call(ref, "set_if_absent", 5)
        assert changes(ref) == [(None, 5), (4, None), (3, 4), (2, 3), (1, 2), (None, 1)]

    def test_counters_and_flags(self) -> None:
        visits, closed = Counter("visits", 10, history=5), Flag("closed", history=5)
        assert visits.increment(5) == 15
        assert visits.decrement() == 14
        assert visits.get() == 14
        assert closed.toggle()
        assert changes(visits) == [(15, 14), (None, 15)]
        assert changes(closed) == [(None, True)]

    def test_when_and_who(self) -> None:
        ref = flags()
        with acting("nightly import"):
            ref.set(1)
        ref.set(2)
        second, first = ref.history()
        assert (first.actor, second.actor) == ("nightly import", "")
        assert abs(datetime.now(UTC) - first.when) < timedelta(minutes=1)

    def test_what_changes_nothing_is_not_recorded(self) -> None:
        ref, visits = flags(), Counter("visits", INT_MAX, history=5)
        assert not ref.delete()
        ref.set(1)
        assert not ref.set_if_absent(2)
        assert not ref.compare_and_set(7, 8)
        with pytest.raises(CounterOverflow):
            visits.increment()
        assert changes(ref) == [(None, 1)]
        assert changes(visits) == []

    def test_time_to_live_is_that_of_the_change(self, any_backend: Backend) -> None:
        ref = flags()
        ref.set(1, ttl=60)
        ref.update(lambda old: old + 1)
        (reply,) = any_backend.execute([Read("flags")])
        assert reply.left is not None
        assert 50e6 < reply.left <= 60e6

    def test_typed_values(self) -> None:
        due: DRef[datetime] = DRef("due", type=datetime, history=3)
        due.set(datetime(2026, 1, 2, tzinfo=UTC))
        assert due.history()[0].new == datetime(2026, 1, 2, tzinfo=UTC)

    def test_part_of_a_transaction(self) -> None:
        ref, other = flags(group="g"), DRef("other", 0, group="g")
        with transaction():
            ref.set(1)
            other.set(1)
            assert changes(ref) == [(None, 1)]

        @transaction
        def broken() -> None:
            ref.set(2)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            broken()
        assert changes(ref) == [(None, 1)]

    def test_none_unless_asked_for(self, any_backend: Backend) -> None:
        ref: DRef[Any] = DRef("plain", None)
        ref.set(1)
        assert ref.history() == []
        (reply,) = any_backend.execute([Read(journal("plain"))])
        assert reply.data is None

    def test_no_ref_of_its_own_for_operators(self) -> None:
        flags().set(1)
        assert [ref.name for ref in catalog_page()[0]] == ["flags"]


class TestAtomic:
    def test_no_change_without_its_record_from_many_threads(self) -> None:
        visits = Counter("visits", history=1000)

        def click() -> None:
            for _ in range(5):
                visits.increment()

        threads = [threading.Thread(target=click) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert visits.get() == 40
        assert changes(visits) == [(number - 1 or None, number) for number in range(40, 0, -1)]


class TestBounds:
    def test_number(self) -> None:
        ref = flags(history=3)
        for number in range(5):
            ref.set(number)
        assert [record.new for record in ref.history()] == [4, 3, 2]

    def test_large_values_are_only_mentioned(self) -> None:
        ref = flags()
        ref.set("x" * 5000)
        ref.set(1)
        assert changes(ref) == [(TOO_LARGE, 1), (None, TOO_LARGE)]

    def test_bytes(self, any_backend: Backend) -> None:
        ref = flags(history=1000)
        for number in range(25):
            ref.set(f"{number:04000}")
        (reply,) = any_backend.execute([Read(journal("flags"))])
        assert isinstance(reply.data, bytes)
        assert len(reply.data) <= MOST_BYTES
        assert ref.history()[0].new == f"{24:04000}"

    @pytest.mark.parametrize("wrong", [-1, True, "many"])
    def test_senseless_numbers_are_refused(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="history is the number"):
            DRef("a", None, history=wrong)


class TestCluster:
    def test_record_lies_in_the_slot_of_its_ref(self, request: pytest.FixtureRequest) -> None:
        with installed(make("cluster", request)) as backend:
            for number in range(5):
                for group in (None, "g"):
                    ref: DRef[Any] = DRef(f"r{number}", None, group=group, history=3)
                    ref.set(1)
                    assert changes(ref) == [(None, 1)]
                    assert backend.slot(ref.name) == backend.slot(journal(ref.name))


class _User:
    is_authenticated = True

    def get_username(self) -> str:
        return "ada"


class TestMiddleware:
    def test_names_the_user(self) -> None:
        ref = flags()

        def view(request: Any) -> HttpResponse:
            ref.set(1)
            return HttpResponse()

        request = RequestFactory().get("/")
        request.user = _User()  # type: ignore[assignment]
        actor_middleware(view)(request)
        ref.set(2)
        assert [record.actor for record in ref.history()] == ["", "ada"]

    def test_names_the_user_in_async_views(self) -> None:
        ref = flags()

        async def view(request: Any) -> HttpResponse:
            await ref.aset(1)
            return HttpResponse()

        request = RequestFactory().get("/")
        request.user = _User()  # type: ignore[assignment]
        asyncio.run(actor_middleware(view)(request))
        assert [record.actor for record in ref.history()] == ["ada"]

    def test_nobody_known_is_no_reason_to_fail(self) -> None:
        ref = flags()

        def broken() -> str:
            raise RuntimeError

        with acting(broken):
            ref.set(1)
        assert ref.history()[0].actor == ""
