"""Primary keys of every kind: composite ones name refs, those that could not are refused by a check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.core import checks
from django.db import connections, models
from django.test.utils import isolate_apps

from dref_django import InvalidName
from dref_django.backends import Backend
from dref_django.fields import DRefCounterField
from dref_django.fields.checks import check_fields
from dref_django.fields.notes import UnsavedRow
from dref_django.protocol import Read
from tests.commandline.conftest import dref
from tests.fields.counted import sent
from tests.fields.shop.models import Article, Seat, Topic

in_databases = pytest.mark.django_db(
    databases=["default", "pg"], transaction=True, available_apps=["dref_django", "tests.fields.shop"]
)


@in_databases
class TestCompositeKey:
    @pytest.fixture
    def seats(self, database: str) -> models.QuerySet[Seat]:
        rows = Seat.objects.using(database)
        for hall, number in (("a", 1), ("a,1", 2), ("a", 12)):
            rows.create(hall=hall, number=number, bookings=number * 10)
        return rows

    def test_names_the_refs_of_its_row_and_of_no_other(self, seats: models.QuerySet[Seat]) -> None:
        found = {seat.bookings.name: seat.bookings.get() for seat in seats}
        assert sorted(found.values()) == [10, 20, 120]
        assert Seat.bookings.at(pk=("a", 1), using=seats.db).get() == 10
        assert Seat.bookings.at(pk=("a,1", "2"), using=seats.db).increment() == 21

    def test_page_of_rows_is_read_in_one_round_trip(self, seats: models.QuerySet[Seat], backend: Backend) -> None:
        with sent(backend) as batches:
            rows = list(Seat.objects.using(seats.db).with_refs().order_by("hall", "number"))
        assert [(row.bookings.loaded, row.free.loaded) for row in rows] == [(10, True), (120, True), (20, True)]
        assert len(batches) == 1

    def test_refs_go_with_their_row(self, seats: models.QuerySet[Seat], backend: Backend) -> None:
        seat = seats.get(hall="a", number=12)
        name = seat.bookings.name
        seat.delete()
        assert backend.execute([Read(name)])[0].data is None
        with pytest.raises(UnsavedRow):
            seat.bookings.get()
        assert Seat.bookings.at(pk=("a", 1), using=seats.db).get() == 10

    def test_orphans_are_found(self, seats: models.QuerySet[Seat]) -> None:
        with connections[seats.db].cursor() as cursor:
            cursor.execute("DELETE FROM shop_seat WHERE hall = 'a,1'")
        (record,) = dref("prune", "shop.Seat", "--json", "--older-than=0", f"--database={seats.db}").records
        assert record["pk"] == "('a,1', 2)"


@pytest.mark.usefixtures("memory")
class TestNames:
    @pytest.mark.parametrize("pk", [("a",), ("a", 1, 2), ("a", None), ("a", "x"), "a,1", None])
    def test_what_is_no_composite_key_is_refused(self, pk: Any) -> None:
        with pytest.raises(InvalidName, match=r"is no primary key of shop.Seat"):
            assert Seat.bookings.at(pk=pk).name

    @pytest.mark.parametrize("pk", [None, 1.5])
    def test_what_stands_for_no_row_is_refused(self, pk: Any) -> None:
        with pytest.raises(InvalidName, match=r"is no primary key of shop.Article"):
            assert Article.views.at(pk=pk).name

    def test_lead_back_to_the_key_whatever_text_it_is(self) -> None:
        texts = ["", ".", ",", "%", "%2C;", "%252C;", "a,b", "a%2C;b", "\x1f", ".hits", "None", "/", " ", "日本"]
        for text in texts:
            assert Topic.hits.field.pattern.pk(Topic.hits.at(pk=text).name, "default") == text
        keys = [(text, number) for text in texts for number in (1, -12)]
        names = [Seat.bookings.at(pk=key).name for key in keys]
        assert len({*names}) == len(keys)
        assert [Seat.bookings.field.pattern.pk(name, "default") for name in names] == keys


def declare(label: str, **fields: Any) -> Any:
    """A model of the test's own in the app `shop`."""
    return type(label, (models.Model,), {"__module__": "tests.fields.shop.models", **fields})


def text_key() -> models.SlugField[str, str]:
    return models.SlugField(primary_key=True)


class TestChecks:
    @pytest.fixture(autouse=True)
    def _only_what_the_test_declares(self) -> Iterator[None]:
        with isolate_apps("tests.fields.shop") as isolated, pytest.MonkeyPatch.context() as patch:
            patch.setattr("dref_django.fields.checks.apps", isolated)
            yield

    def ids(self) -> list[str | None]:
        return [message.id for message in check_fields()]

    @pytest.mark.parametrize(
        "key",
        [
            models.DecimalField(primary_key=True, max_digits=9, decimal_places=2),
            models.DateTimeField(primary_key=True),
            models.FloatField(primary_key=True),
        ],
    )
    def test_key_that_may_be_written_in_several_ways_is_an_error(self, key: models.Field[Any, Any]) -> None:
        price = declare("Price", key=key.clone(), views=DRefCounterField())
        (message,) = check_fields()
        assert (message.id, message.obj) == ("dref.E080", price)
        assert f"a key of the type {type(key).__name__} may" in message.msg

    def test_part_of_a_composite_key_and_the_key_of_a_parent_count_too(self) -> None:
        moment = declare("Moment", at=models.DateTimeField(primary_key=True))
        declare(
            "Note",
            pk=models.CompositePrimaryKey("moment", "place"),
            moment=models.ForeignKey(moment, models.CASCADE),
            place=models.CharField(max_length=9),
            views=DRefCounterField(),
        )
        assert self.ids() == ["dref.E080"]

    @pytest.mark.parametrize(
        "key",
        [
            models.DateField(primary_key=True),
            models.UUIDField(primary_key=True),
            models.SlugField(primary_key=True),
            models.AutoField(primary_key=True),
        ],
    )
    def test_key_that_is_written_in_one_way_is_fine(self, key: models.Field[Any, Any]) -> None:
        declare("Day", key=key.clone(), views=DRefCounterField(mirror=True))
        assert self.ids() == []

    def test_mirrored_row_with_a_composite_key_is_an_error(self) -> None:
        declare(
            "Place",
            pk=models.CompositePrimaryKey("x", "y"),
            x=models.IntegerField(),
            y=models.IntegerField(),
            views=DRefCounterField(mirror=True),
        )
        assert self.ids() == ["dref.E082"]

    @pytest.mark.parametrize(
        ("name", "other"),
        [("views:{pk}", "views:{pk}"), ("views:{pk}", "views:1{pk}"), ("{pk}:views", "{pk}{pk}:views")],
    )
    def test_patterns_under_which_two_rows_may_share_a_ref_are_an_error(self, name: str, other: str) -> None:
        one = declare("One", views=DRefCounterField(name=name))
        declare("Other", views=DRefCounterField(name=other))
        (message,) = check_fields()
        assert (message.id, message.obj) == ("dref.E081", one)
        assert (
            f"A ref of shop.One.views may have the name of one of shop.Other.views: {name} and {other}" in message.msg
        )

    def test_text_keys_meet_where_numbers_do_not(self) -> None:
        fields = {"views": DRefCounterField(name="views:{pk}"), "daily": DRefCounterField(name="views:{pk}:daily")}
        declare("Numbered", **fields)
        assert self.ids() == []
        fields = {"views": DRefCounterField(name="named:{pk}"), "daily": DRefCounterField(name="named:{pk}:daily")}
        declare("Named", slug=text_key(), **fields)
        assert self.ids() == ["dref.E081"]

    def test_own_names_groups_and_other_back_ends_keep_refs_apart(self) -> None:
        declare(
            "Apart",
            slug=text_key(),
            views=DRefCounterField(),
            likes=DRefCounterField(group="{model}.{pk}"),
            shares=DRefCounterField(group="{model}.{pk}"),
            here=DRefCounterField(name="x:{pk}"),
            there=DRefCounterField(name="x:{pk}", using="other"),
        )
        assert self.ids() == []


def test_django_runs_the_check_for_the_apps_that_it_is_asked_for() -> None:
    assert checks.run_checks([apps.get_app_config("shop")], tags=["dref"]) == []
