"""Rows and their refs through the life of a row, in both databases and on every back end."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from django.db.models import F

from dref_django import InvalidValue, Unavailable, join_transaction
from dref_django.backends import Backend
from dref_django.fields import DRefQuerySet, UnsavedRow
from dref_django.protocol import Read
from tests.fields.counted import sent
from tests.fields.shop.models import Article, Author, Mood, Pinned, Review, Topic

# Only the tables of these apps are emptied after each test, which is what takes the time.
pytestmark = pytest.mark.django_db(
    databases=["default", "pg"], transaction=True, available_apps=["dref_django", "tests.fields.shop"]
)
Articles = DRefQuerySet[Article]


def stored(backend: Backend, *names: str) -> list[Any]:
    return [backend.execute([Read(name)])[0].data for name in names]


def _unavailable(*_: Any, **__: Any) -> Any:
    raise Unavailable("nobody is there")


def refs_of(article: Article) -> list[str]:
    return [article.views.name, article.featured.name, article.reactions.name]


class TestAttribute:
    def test_is_a_ref_with_the_whole_api(self, articles: Articles) -> None:
        article = articles.create(title="a")
        assert article.views.increment(5) == 5
        assert article.featured.toggle() is True
        article.reactions.update(lambda old: {**old, "wow": 1})
        same = articles.get()
        assert (same.views.get(), same.featured.value, same.reactions.get()) == (5, True, {"wow": 1})
        assert Article.views.at(pk=article.pk, using=articles.db).increment() == 6

    @pytest.mark.usefixtures("asynchronous")
    async def test_has_a_twins(self, articles: Articles) -> None:
        article = await articles.acreate(title="a", views=3)
        assert await article.views.aincrement() == 4
        assert await (await articles.aget()).views.aget() == 4

    def test_atomic_operation_does_not_wait_for_the_commit(self, articles: Articles) -> None:
        article = articles.create(title="a")
        with transaction.atomic(using=articles.db):
            article.views.increment()
            transaction.set_rollback(True, using=articles.db)
        assert article.views.get() == 1

    def test_watchers_hear(self, articles: Articles) -> None:
        article = articles.create(title="a")
        with article.views.changes(timeout=5) as changes:
            assert next(changes).value == 0
            article.views.increment()
            assert next(changes).value == 1

    def test_on_commit_is_that_of_the_rows_database(self, articles: Articles) -> None:
        article = articles.create(title="a")
        with transaction.atomic(using=articles.db):
            article.views.on_commit().increment()
            assert article.views.get() == 0
        assert article.views.get() == 1

    def test_of_an_unsaved_row_is_a_clear_error(self, articles: Articles) -> None:
        for row in (Article(title="a", views=5), Article(pk=5), Topic(slug="a")):
            ref = row.hits if isinstance(row, Topic) else row.views
            with pytest.raises(UnsavedRow, match="Save it first"):
                ref.increment()

    def test_of_an_unsaved_row_shows_what_is_staged_or_the_default(self) -> None:
        assert [f"{Article(views=5).views}", str(Article().stock), str(Article().mood.loaded)] == [
            "5", "10", "Mood(happy=0, note='')",
        ]  # fmt: skip


class TestStaged:
    def test_constructor_writes_when_save_commits(self, articles: Articles) -> None:
        with transaction.atomic(using=articles.db):
            article = articles.create(title="a", views=5, mood=Mood(happy=1))
            assert Article.views.at(article.pk, using=articles.db).get() == 0
        assert (article.views.get(), article.mood.get()) == (5, Mood(happy=1))

    def test_assignment_is_written_by_save(self, articles: Articles) -> None:
        article = articles.create(title="a")
        article.views = 7
        assert (str(article.views), article.views.get()) == ("7", 0)
        article.save()
        assert (str(article.views), article.views.get()) == ("7", 7)
        article.views.increment()
        article.save()
        assert article.views.get() == 8

    def test_rollback_drops_it(self, articles: Articles) -> None:
        with transaction.atomic(using=articles.db):
            article = articles.create(title="a", views=5)
            transaction.set_rollback(True, using=articles.db)
        assert Article.views.at(article.pk, using=articles.db).get() == 0

    def test_savepoint_that_rolls_back_drops_its_own_only(self, articles: Articles) -> None:
        with transaction.atomic(using=articles.db):
            kept = articles.create(title="a", views=1)
            with transaction.atomic(using=articles.db):
                dropped = articles.create(title="b", views=2)
                transaction.set_rollback(True, using=articles.db)
            also = articles.create(title="c", views=3)
        views = [Article.views.at(row.pk, using=articles.db).get() for row in (kept, also)]
        assert views == [1, 3]
        assert dropped.pk in (also.pk, also.pk - 1)  # SQLite gives the key again

    def test_update_fields_leave_it_staged(self, articles: Articles) -> None:
        article = articles.create(title="a")
        article.views = 7
        article.save(update_fields=["title"])
        assert (article.views.get(), article.views.loaded) == (0, 7)
        article.save()
        assert article.views.get() == 7

    def test_of_a_wrong_type_is_refused_at_once(self, articles: Articles) -> None:
        article = articles.create(title="a")
        for wrong in ("7", None, True, F("views"), article.stock):
            with pytest.raises(InvalidValue, match=r"shop.Article.views"):
                article.views = wrong  # type: ignore[assignment]
        with pytest.raises(InvalidValue, match=r"shop.Article.mood"):
            Article(mood="good")

    def test_refresh_forgets_it(self, articles: Articles) -> None:
        article = articles.create(title="a")
        article.views, article.stock = 7, 8
        article.refresh_from_db(fields=["views"])
        assert (article.views.loaded, article.stock.loaded) == (0, 8)
        article.refresh_from_db()
        assert article.stock.loaded == 10

    def test_get_or_create_and_update_or_create_write_it(self, articles: Articles) -> None:
        article, _ = articles.get_or_create(title="a", defaults={"views": 5})
        assert article.views.get() == 5
        article, created = articles.update_or_create(title="a", defaults={"views": 6, "featured": True})
        assert (created, article.views.get(), article.featured.get()) == (False, 6, True)

    def test_stays_when_the_back_end_is_away(self, articles: Articles, backend: Backend) -> None:
        article = articles.create(title="a")
        article.views = 7
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "execute", _unavailable)
            with pytest.raises(Unavailable):
                article.save()
        assert (article.views.loaded, article.views.get()) == (7, 0)
        article.save()
        assert article.views.get() == 7

    def test_deletion_goes_on_when_the_back_end_is_away(self, articles: Articles, backend: Backend) -> None:
        article = articles.create(title="a", views=7)
        name = article.views.name
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "execute", _unavailable)
            article.delete()
        assert not articles.exists()
        assert stored(backend, name) == [7]

    def test_bulk_create_writes_it_in_one_batch(self, articles: Articles, backend: Backend) -> None:
        with sent(backend) as batches:
            rows = articles.bulk_create([Article(title=str(number), views=number) for number in range(30)])
        assert len(batches) == 1
        assert [row.views.get() for row in rows] == list(range(30))

    def test_bulk_create_that_knows_no_keys_refuses_it(self, articles: Articles) -> None:
        with pytest.raises(ValueError, match="assign no ref values"):
            articles.bulk_create([Article(title="a", views=1)], ignore_conflicts=True)
        assert len(articles.bulk_create([Article(title="a")], ignore_conflicts=True)) == 1


class TestDeletion:
    def test_takes_the_refs_along_when_it_commits(self, articles: Articles, backend: Backend) -> None:
        article = articles.create(title="a", views=5, featured=True, reactions={"wow": 1})
        names = refs_of(article)
        with transaction.atomic(using=articles.db):
            article.delete()
            assert None not in stored(backend, *names)
        assert stored(backend, *names) == [None] * 3

    def test_rollback_keeps_them(self, articles: Articles) -> None:
        article = articles.create(title="a", views=5)
        with transaction.atomic(using=articles.db):
            articles.all().delete()
            transaction.set_rollback(True, using=articles.db)
        assert articles.get().views.get() == article.views.get() == 5

    def test_of_a_queryset_costs_few_round_trips(self, articles: Articles, backend: Backend) -> None:
        rows = articles.bulk_create([Article(title=str(number), views=1) for number in range(40)])
        names = [row.views.name for row in rows]
        with sent(backend) as batches:
            articles.all().delete()
        assert len(batches) <= 2
        assert stored(backend, *names) == [None] * 40

    def test_by_cascade_takes_the_refs_along(self, articles: Articles, backend: Backend) -> None:
        author = Author.objects.using(articles.db).create(name="a")
        article = articles.create(title="a", author=author, views=5)
        names = refs_of(article)
        author.delete()
        assert stored(backend, *names) == [None] * 3

    def test_of_a_child_takes_the_refs_of_both_tables(self, database: str, backend: Backend) -> None:
        review = Review.objects.using(database).create(title="a", views=1, stars=5)
        names = [review.views.name, review.stars.name]
        review.delete()
        assert stored(backend, *names) == [None] * 2

    def test_of_a_child_that_keeps_its_parent_keeps_the_refs_of_the_parent(
        self, database: str, backend: Backend
    ) -> None:
        review = Review.objects.using(database).create(title="a", views=1, stars=5)
        names = [review.views.name, review.stars.name]
        review.delete(keep_parents=True)
        assert stored(backend, *names) == [1, None]

    def test_of_a_proxy_takes_the_refs_of_the_row(self, articles: Articles, backend: Backend) -> None:
        article = articles.create(title="a", views=5)
        name = article.views.name
        Pinned.objects.using(articles.db).get(pk=article.pk).delete()
        assert stored(backend, name) == [None]

    def test_row_that_is_made_again_in_the_same_transaction_has_its_new_value(self, database: str) -> None:
        topics = Topic.objects.using(database)
        topics.create(slug="a", hits=1)
        with transaction.atomic(using=database):
            topics.all().delete()
            again = topics.create(slug="a", hits=2)
        assert again.hits.get() == 2


class TestJoined:
    @pytest.mark.parametrize("pair", [("pg", "postgres")], indirect=True, ids=["pg-postgres"])
    def test_staged_values_and_deletions_are_part_of_the_transaction(self, database: str, backend: Backend) -> None:
        articles = Article.objects.using(database)
        gone = articles.create(title="a", views=1)
        name = gone.views.name
        with transaction.atomic(using=database), join_transaction():
            article = articles.create(title="b", views=5)
            gone.delete()
            assert (article.views.get(), stored(backend, name)) == (5, [None])
            transaction.set_rollback(True, using=database)
        assert stored(backend, name) == [1]
        assert Article.views.at(article.pk, using=database).get() == 0


class TestCopies:
    def test_copy_of_the_instance_stages_for_itself(self, articles: Articles) -> None:
        article = articles.create(title="a", views=1)
        other = copy.copy(article)
        other.views = 9
        article.save()
        assert article.views.get() == 1
        assert copy.deepcopy(other).views.loaded == 9

    def test_copy_of_the_row_has_refs_of_its_own(self, articles: Articles) -> None:
        article = articles.with_refs().get(pk=articles.create(title="a", views=5).pk)
        article.pk = None
        article._state.adding = True
        article.save()
        assert (article.views.get(), str(article.views)) == (0, "0")

    def test_pickled_instance_keeps_what_it_knew(self, articles: Articles) -> None:
        articles.create(title="a", views=5)
        article = articles.with_refs("views").get()
        article.stock = 3
        again = pickle.loads(pickle.dumps(article))  # noqa: S301
        assert (again.views.is_loaded, again.views.loaded, again.stock.loaded) == (True, 5, 3)

    def test_ref_itself_is_not_pickled(self, articles: Articles) -> None:
        with pytest.raises(TypeError, match="take its value, or its row"):
            pickle.dumps(articles.create(title="a").views)


class TestInheritance:
    def test_child_and_parent_share_the_refs_of_the_parents_row(self, database: str) -> None:
        review = Review.objects.using(database).create(title="a", views=1, stars=5)
        article = Article.objects.using(database).get(pk=review.pk)
        article.views.increment()
        assert (review.views.get(), review.stars.get()) == (2, 5)

    def test_deferred_row_has_its_refs(self, articles: Articles, django_assert_num_queries: Callable[..., Any]) -> None:
        articles.create(title="a", views=5)
        with django_assert_num_queries(1, using=articles.db):
            assert articles.only("pk").get().views.get() == 5

    @pytest.mark.usefixtures("asynchronous")
    async def test_async_save_writes_what_is_staged(self, articles: Articles) -> None:
        article = await articles.acreate(title="a")
        article.views = 4
        await article.asave()
        assert await article.views.aget() == 4
        await sync_to_async(article.delete)()
