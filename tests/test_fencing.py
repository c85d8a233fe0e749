"""Rows under a fence, on SQLite and PostgreSQL: an old token touches nothing, a newer one stamps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core import checks
from django.db import IntegrityError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test.utils import isolate_apps

from dref_django import FencedModel, LockLost, fence, lock
from dref_django.fenced_models import FencedQuerySet
from dref_django.testing import isolate
from tests.app.models import Order, Rush
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(databases=["default", "pg"])
COMMITTED = pytest.mark.django_db(databases=["default", "pg"], transaction=True)

OLD, NOW, NEWER = 10, 20, 30


@pytest.fixture(params=["default", "pg"])
def orders(request: pytest.FixtureRequest) -> models.QuerySet[Order]:
    """Three orders that were last changed under the token NOW, in either database."""
    rows = Order.objects.using(request.param)
    with fence(NOW):
        for name in ("a", "b", "c"):
            rows.create(name=name)
    return rows


def contents(orders: models.QuerySet[Order]) -> list[tuple[str, str, int]]:
    return list(orders.order_by("name").values_list("name", "state", "fence_token"))


CHANGES: dict[str, Callable[[models.QuerySet[Order]], Any]] = {
    "save": lambda orders: _set(orders.get(name="a")).save(),
    "save of some fields": lambda orders: _set(orders.get(name="a")).save(update_fields=["state"]),
    "update": lambda orders: orders.filter(name="a").update(state="done"),
    "update of all": lambda orders: orders.update(state="done"),
    "update by what it changes": lambda orders: orders.filter(state="new").update(state="done"),
    "bulk_update": lambda orders: orders.bulk_update([_set(order) for order in orders.all()], ["state"]),
    "update_or_create": lambda orders: orders.update_or_create({"state": "done"}, name="a"),
    "delete": lambda orders: orders.get(name="a").delete(),
    "delete of all": lambda orders: orders.all().delete(),
}


def _set(order: Order) -> Order:
    order.state = "done"
    return order


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
class TestChanges:
    def test_under_an_old_token_touch_nothing_and_raise(
        self, orders: models.QuerySet[Order], change: Callable[[Any], Any]
    ) -> None:
        before = contents(orders)
        with fence(OLD), pytest.raises(LockLost, match=r"newer token than 10"):
            change(orders)
        assert contents(orders) == before

    def test_under_a_newer_token_happen_and_stamp_the_row(
        self, orders: models.QuerySet[Order], change: Callable[[Any], Any]
    ) -> None:
        with fence(NEWER):
            change(orders)
        assert not [row for row in contents(orders) if row[0] == "a" and row[1:] != ("done", NEWER)]

    def test_under_the_same_token_happen(self, orders: models.QuerySet[Order], change: Callable[[Any], Any]) -> None:
        with fence(NOW):
            change(orders)
        assert ("a", "new", NOW) not in contents(orders)

    def test_without_a_fence_happen_and_leave_the_token(
        self, orders: models.QuerySet[Order], change: Callable[[Any], Any]
    ) -> None:
        change(orders)
        assert not [row for row in contents(orders) if row[0] == "a" and row[1:] != ("done", NOW)]

    def test_one_newer_row_among_many_keeps_all_of_them(
        self, orders: models.QuerySet[Order], change: Callable[[Any], Any]
    ) -> None:
        with fence(NEWER):
            orders.filter(name="a").update(state="new")
        before = contents(orders)
        with fence(NOW + 1), pytest.raises(LockLost):
            change(orders)
        assert contents(orders) == before


class TestFence:
    def test_a_save_without_fence_of_an_instance_read_long_ago_does_not_lower_the_token(
        self, orders: models.QuerySet[Order]
    ) -> None:
        order = orders.get(name="a")
        with fence(NEWER):
            orders.filter(name="a").update(state="billed")
        order.save()
        assert contents(orders)[0] == ("a", "new", NEWER)

    def test_new_rows_are_stamped_also_in_bulk(self, orders: models.QuerySet[Order]) -> None:
        with fence(NEWER):
            orders.bulk_create([Order(name="d"), Order(name="e")])
            created = orders.create(name="f")
        assert created.fence_token == NEWER
        assert [token for _, _, token in contents(orders)[3:]] == [NEWER] * 3

    def test_bulk_create_that_updates_is_refused(self, orders: models.QuerySet[Order]) -> None:
        conflicting: dict[str, Any] = {
            "update_conflicts": True, "update_fields": ["state"], "unique_fields": ["name"]
        }  # fmt: skip
        with fence(NEWER), pytest.raises(ValueError, match="cannot be fenced"):
            orders.bulk_create([Order(name="a")], **conflicting)
        orders.bulk_create([Order(name="a", state="merged")], **conflicting)
        assert contents(orders)[0] == ("a", "merged", NOW)

    def test_the_instance_keeps_its_token_when_its_save_is_refused(self, orders: models.QuerySet[Order]) -> None:
        order = orders.get(name="a")
        with fence(OLD), pytest.raises(LockLost):
            order.save()
        assert order.fence_token == NOW

    def test_rows_of_a_child_table_are_fenced_by_the_parents_column(self, orders: models.QuerySet[Order]) -> None:
        rushes = Rush.objects.using(orders.db)
        with fence(NOW):
            rush = rushes.create(name="r")
        rush.courier = "x"
        with fence(OLD):
            with pytest.raises(LockLost):
                rushes.update(courier="x")
            with pytest.raises(LockLost):
                rush.save()
            with pytest.raises(LockLost):
                rushes.all().delete()
        assert rushes.get().courier == ""
        with fence(NEWER):
            rush.save()
            rushes.filter(courier="x").update(courier="y", state="done")
        assert list(rushes.values_list("courier", "state", "fence_token")) == [("y", "done", NEWER)]

    def test_inside_a_transaction_only_the_refused_change_is_undone(self, orders: models.QuerySet[Order]) -> None:
        with transaction.atomic(using=orders.db):
            with fence(NEWER):
                orders.filter(name="a").update(state="done")
            with fence(OLD), pytest.raises(LockLost):
                orders.update(state="lost")
        assert [state for _, state, _ in contents(orders)] == ["done", "new", "new"]

    def test_nested_blocks_the_inner_token_counts(self, orders: models.QuerySet[Order]) -> None:
        with fence(NEWER):
            with fence(OLD), pytest.raises(LockLost):
                orders.update(state="done")
            assert orders.update(state="done") == 3

    def test_a_row_that_a_newer_holder_makes_meanwhile_is_not_overwritten(
        self, orders: models.QuerySet[Order], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The claim finds no row; before the save reaches it there is one."""
        late = Order(pk=1_000, name="late", state="old")
        original = Order._do_update

        def inserted_first(self: Order, *args: Any, **kwargs: Any) -> Any:
            if self is late:
                with connections[orders.db].cursor() as cursor:
                    cursor.execute("INSERT INTO app_order VALUES (1000, 30, 'newer', 'newer')")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Order, "_do_update", inserted_first)
        with fence(NOW), pytest.raises(IntegrityError):
            late.save(using=orders.db)

    def test_a_row_of_a_newer_holder_that_joins_the_set_meanwhile_is_left_alone(
        self, orders: models.QuerySet[Order]
    ) -> None:
        """It comes between the claim and the change."""

        def joined_first(execute: Callable[..., Any], statement: str, *rest: Any) -> Any:
            result = execute(statement, *rest)
            if statement.startswith("SELECT"):
                with connections[orders.db].cursor() as cursor:
                    cursor.cursor.execute("INSERT INTO app_order VALUES (1000, 30, 'd', 'newer')")
            return result

        with fence(NOW), connections[orders.db].execute_wrapper(joined_first):
            assert orders.update(state="done") == 3
        assert contents(orders)[3] == ("d", "newer", NEWER)

    @COMMITTED
    async def test_follows_into_async_orm_calls_and_threads_of_sync_to_async(self) -> None:
        with fence(NOW):
            order = await Order.objects.acreate(name="z")
            await sync_to_async(Order.objects.update)(state="done")
        with fence(OLD):
            with pytest.raises(LockLost):
                await Order.objects.filter(name="z").aupdate(state="lost")
            with pytest.raises(LockLost):
                await order.asave()
        assert [row async for row in Order.objects.values_list("state", "fence_token")] == [("done", NOW)]


class TestFenceOfALock:
    def test_takes_the_token_of_what_is_held(self, orders: models.QuerySet[Order]) -> None:
        with isolate(), lock("orders") as held, fence(held):
            orders.update(state="done")
            assert {token for _, _, token in contents(orders)} == {held.token}

    def test_a_lost_lock_raises_before_any_statement(self, orders: models.QuerySet[Order]) -> None:
        with isolate():
            handle = lock("orders")
            held = handle.acquire()
            with fence(held):
                handle.release(held)
                with pytest.raises(LockLost, match="released"):
                    orders.update(state="done")
            with pytest.raises(LockLost, match="released"), fence(held):
                pytest.fail("the block ran")
        assert {state for _, state, _ in contents(orders)} == {"new"}

    def test_several_locks_at_once_have_no_one_token(self) -> None:
        with isolate(), lock("a", "b") as held, pytest.raises(TypeError, match="one lock"), fence(held):
            pytest.fail("the block ran")


@COMMITTED
class TestRaces:
    @pytest.mark.parametrize("orders", ["pg"], indirect=True)
    def test_the_older_of_two_holders_at_work_at_once_is_refused(self, orders: models.QuerySet[Order]) -> None:
        """Its statement waits for the row, then sees the newer token."""
        waiting = threading.Event()
        outcome: list[object] = []

        def older() -> None:
            try:
                with fence(NOW + 1), connections["pg"].execute_wrapper(_announce(waiting)):
                    outcome.append(orders.filter(name="a").update(state="older"))
            except LockLost as error:
                outcome.append(error)
            finally:
                connections["pg"].close()

        thread = threading.Thread(target=older)
        with transaction.atomic(using="pg"), fence(NEWER):
            orders.filter(name="a").update(state="newer")
            thread.start()
            assert waiting.wait(10)
            _until_blocked(connections["pg"])
        thread.join(10)
        assert isinstance(outcome[0], LockLost)
        assert contents(orders)[0] == ("a", "newer", NEWER)


def _announce(event: threading.Event) -> Callable[..., Any]:
    def wrapper(execute: Callable[..., Any], statement: str, *rest: Any) -> Any:
        if statement.startswith("UPDATE"):
            event.set()
        return execute(statement, *rest)

    return wrapper


def _until_blocked(connection: BaseDatabaseWrapper) -> None:
    def blocked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return bool(cursor.fetchone()[0])

    wait_until(blocked, "the older holder to wait for the row", 10)


class TestChecks:
    @isolate_apps("tests.app")
    def test_a_manager_that_no_fence_holds_is_an_error(self) -> None:
        class Unfenced(FencedModel):
            objects = models.Manager()  # type: ignore[assignment]

            class Meta:
                app_label = "app"

        (found,) = Unfenced.check()
        assert isinstance(found, checks.Error)
        assert found.id == "dref.E050"

    @isolate_apps("tests.app")
    def test_a_manager_made_of_the_fenced_query_set_is_none(self) -> None:
        class Fenced(FencedModel):
            objects = models.Manager.from_queryset(FencedQuerySet)()  # type: ignore[assignment]

            class Meta:
                app_label = "app"

        assert Fenced.check() == []

    def test_migrations_know_the_column_as_a_plain_integer(self) -> None:
        assert Order._meta.get_field("fence_token").deconstruct()[1] == "django.db.models.BigIntegerField"
