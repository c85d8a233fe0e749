"""Mirrored columns: the database filters and sorts by values that live elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import serializers
from django.db import connections
from django.db.migrations.state import ModelState
from django.db.models import Avg, F, Max, Sum

from dref_django.backends import Backend
from dref_django.fields import DRefCounterField, DRefField, DRefQuerySet
from dref_django.fields.columns import Target
from dref_django.fields.flusher import Flusher
from tests.children import Child
from tests.commandline.conftest import dref
from tests.fields.shop.models import Article, Author, Pinned, Review
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(
    databases=["default", "pg"], transaction=True, available_apps=["dref_django", "tests.fields.shop"]
)
Articles = DRefQuerySet[Article]


@pytest.fixture
def flusher(database: str) -> Flusher:
    return Flusher("default", databases=[database])


@pytest.fixture
def three(articles: Articles, flusher: Flusher) -> Articles:
    for title, score in (("a", 5), ("b", 300), ("c", 70)):
        articles.create(title=title, score=score, hot=score > 100)
    articles.create(title="d")
    flusher.compare()
    return articles


def titles(rows: Any) -> str:
    return "".join(row.title for row in rows)


def columns(articles: Articles) -> list[int]:
    return list(articles.order_by("title").values_list("score", flat=True))


class TestQueries:
    def test_filter_and_sort_by_it(self, three: Articles) -> None:
        assert titles(three.filter(score__gt=60).order_by("-score")) == "bc"
        assert titles(three.order_by("score")) == "dacb"
        assert titles(three.filter(hot=True)) == "b"
        assert titles(three.exclude(score__in=[5, 300]).order_by("title")) == "cd"

    def test_aggregate_and_calculate_with_it(self, three: Articles) -> None:
        assert three.aggregate(Sum("score"), Max("score"), Avg("score")) == {
            "score__sum": 376, "score__max": 300, "score__avg": 94,
        }  # fmt: skip
        assert titles(three.filter(score__lt=F("score_mirror") + 1, score__gte=F("score")).order_by("title")) == "abcd"
        assert three.annotate(twice=F("score") * 2).get(title="a").twice == 10
        three.filter(title="a").update(title=F("score"))
        assert three.filter(title="5").exists()

    def test_works_through_relations_children_and_proxies(self, three: Articles, flusher: Flusher) -> None:
        author = Author.objects.using(three.db).create(name="z")
        three.filter(title="b").update(author=author)
        assert Author.objects.using(three.db).filter(article__score__gt=100).get() == author
        Review.objects.using(three.db).create(title="r", score=1000)
        flusher.compare()
        assert titles(Review.objects.using(three.db).filter(score__gt=500).order_by("score")) == "r"
        assert titles(Pinned.objects.using(three.db).order_by("-score")[:2]) == "rb"

    def test_row_says_what_is_mirrored_beside_what_is_true(self, three: Articles) -> None:
        article = three.get(title="a")
        article.score.increment()
        assert (article.score.get(), article.score_mirror) == (6, 5)  # type: ignore[attr-defined]


class TestSave:
    def test_never_writes_the_column(self, three: Articles, flusher: Flusher) -> None:
        stale = three.get(title="a")
        stale.score.increment(1000)
        flusher.compare()
        stale.save()
        stale.save(update_fields=["title", "score_mirror", "score_version"])
        stale.score = 7
        stale.save()
        assert columns(three)[0] == 1005
        flusher.compare()
        assert columns(three)[0] == 7

    def test_loaddata_leaves_the_column(self, three: Articles) -> None:
        dumped = serializers.serialize("json", three.filter(title="b"))
        assert "score_mirror" not in dumped
        for loaded in serializers.deserialize("json", dumped, using=three.db):
            loaded.save(using=three.db)
        assert columns(three)[1] == 300

    def test_new_row_begins_with_the_default(self, articles: Articles) -> None:
        articles.bulk_create([Article(title="a")])
        articles.create(title="b", score=9)
        assert columns(articles) == [1, 1]


class TestFlusher:
    def test_older_value_never_goes_over_a_newer_one(self, three: Articles) -> None:
        article = three.get(title="a")
        version = article.score.version()
        found = Article.score.field.columns
        assert found is not None
        found.update(three.db, [Target(article.pk, 1, version - 1), Target(-1, 8, version)])
        assert columns(three)[0] == 5
        found.update(three.db, [Target(article.pk, 8, version + 1)])
        assert columns(three)[0] == 8

    def test_deleted_ref_shows_as_the_default(self, three: Articles, flusher: Flusher) -> None:
        three.get(title="b").score.delete()
        flusher.compare()
        assert columns(three)[1] == 1

    def test_ref_whose_last_version_is_forgotten_shows_as_the_default(self, three: Articles, flusher: Flusher) -> None:
        found = Article.score.field.columns
        assert found is not None
        (row,) = three.filter(title="d")
        found.update(three.db, [Target(row.pk, 99, 10)])  # of a ref that the back end knows nothing of
        flusher.compare()
        assert columns(three)[3] == 1

    def test_ref_that_a_fail_over_has_set_back_takes_its_column_along(self, three: Articles, flusher: Flusher) -> None:
        article = three.get(title="a")
        found = Article.score.field.columns
        assert found is not None
        found.update(three.db, [Target(article.pk, 6, article.score.version() + 1)])
        flusher.compare()
        assert columns(three)[0] == 5

    def test_comparing_twice_writes_nothing_more(self, three: Articles, flusher: Flusher) -> None:
        before = flusher.flushed
        flusher.compare()
        assert flusher.flushed == before > 0

    def test_many_rows_cost_few_statements(
        self, articles: Articles, flusher: Flusher, django_assert_max_num_queries: Any
    ) -> None:
        articles.bulk_create([Article(title=f"{n:03}", score=n) for n in range(1, 301)])
        with django_assert_max_num_queries(8, using=articles.db):
            flusher.compare()
        assert columns(articles) == list(range(1, 301))

    def test_command_compares_once(self, articles: Articles) -> None:
        articles.create(title="a", score=9)
        assert dref("mirror", "--once", f"--database={articles.db}").out == "1 values flushed\n"
        assert columns(articles) == [9]
        assert dref("mirror", "--once", "--using=nowhere").code != 0


class TestDeclaration:
    def test_migrations_know_two_plain_columns(self) -> None:
        fields = ModelState.from_model(Article).fields
        assert {"score_mirror", "score_version", "hot_mirror", "hot_version"} <= set(fields)
        assert fields["score_mirror"].deconstruct()[1] == "django.db.models.BigIntegerField"
        assert fields["hot_mirror"].deconstruct()[3]["db_index"]
        assert not {"score", "hot"} & set(fields)

    def test_value_of_any_type_is_not_mirrored(self) -> None:
        with pytest.raises(ValueError, match="counters and flags only"):
            DRefField(mirror=True)
        assert DRefCounterField(mirror=True).clone().deconstruct()[3] == {"default": 0, "mirror": True}


FLUSHES = """
import os
from django.db import connections
connections.settings["pg"]["NAME"] = os.environ["DREF_TEST_PG_NAME"]
from dref_django.fields.flusher import Flusher
from dref_django.waiting import Waker
import threading
flusher, stop = Flusher("default", lag=0.2, databases=["pg"], ttl=1), Waker()
thread = threading.Thread(target=flusher.run, args=(stop,))
thread.start()
while not flusher.leads and not stop.wait(0.01): pass
say("leads")
for order in orders(): break
stop.set()
thread.join()
connections.close_all()
"""


@pytest.mark.parametrize("pair", [("pg", "redis"), ("pg", "postgres")], indirect=True, ids="-".join)
class TestProcesses:
    @pytest.fixture
    def environment(self) -> dict[str, str]:
        return {"DREF_TEST_PG_NAME": str(connections["pg"].settings_dict["NAME"])}

    def test_flusher_follows_and_a_killed_one_is_succeeded(
        self, articles: Articles, backend: Backend, environment: dict[str, str]
    ) -> None:
        rows = articles.bulk_create([Article(title=f"{n:02}", score=n) for n in range(20)])

        def shows(scores: list[int]) -> None:
            wait_until(lambda: columns(articles) == scores, f"{scores}", 30)

        with Child(FLUSHES, backend, environment) as first:
            first.hears("leads")
            assert columns(articles) == list(range(20))
            with Child(FLUSHES, backend, environment) as second:
                for row in rows:
                    row.score.increment(100)
                shows([100 + n for n in range(20)])
                for row in rows[:10]:
                    row.score.increment(1000)
                first.kill()
                rows[19].score.delete()
                second.hears("leads")
                shows([1100 + n for n in range(10)] + [100 + n for n in range(10, 19)] + [1])
                rows[0].score.set(4, ttl=0.3)
                shows([1] + [1100 + n for n in range(1, 10)] + [100 + n for n in range(10, 19)] + [1])
                second.tell("stop")
