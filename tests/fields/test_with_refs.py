"""`with_refs`: the refs of a page of rows in one round trip, in both databases and on every back end."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db.models import F
from django.template import Context, Template

from dref_django.backends import Backend
from dref_django.fields import DRefQuerySet, prefetch_refs
from dref_django.protocol import Read
from tests.fields.counted import sent
from tests.fields.shop.models import Article, Author, Page, Topic
from tests.kinds import installed, make

pytestmark = pytest.mark.django_db(
    databases=["default", "pg"], transaction=True, available_apps=["dref_django", "tests.fields.shop"]
)
Articles = DRefQuerySet[Article]
PAGE = Template("{% for article in articles %}{{ article.views }}/{{ article.stock }} {% endfor %}")


@pytest.fixture
def hundred(articles: Articles) -> Articles:
    articles.bulk_create([Article(title=f"{number:03}", views=number) for number in range(100)])
    return articles.order_by("title")


class TestRows:
    def test_hundred_of_them_in_a_template_cost_one_round_trip(self, hundred: Articles, backend: Backend) -> None:
        with sent(backend) as batches:
            shown = PAGE.render(Context({"articles": hundred.with_refs("views", "stock")}))
        assert shown.split() == [f"{number}/10" for number in range(100)]
        assert len(batches) == 1

    def test_missing_values_show_the_default_and_are_not_written(self, hundred: Articles, backend: Backend) -> None:
        article = hundred.with_refs()[0]
        assert (article.stock.is_loaded, article.stock.loaded, article.reactions.loaded) == (True, 10, {})
        assert backend.execute([Read(article.stock.name)])[0].data is None

    def test_slices_get_and_first_have_them_too(self, hundred: Articles) -> None:
        rows = hundred.with_refs("views")
        assert [row.views.is_loaded for row in rows[3:5]] == [True, True]
        first = rows.first()
        assert first is not None
        assert first.views.is_loaded
        assert rows.get(title="007").views.loaded == 7
        assert not hundred[0].views.is_loaded

    def test_iterator_reads_them_chunk_by_chunk(self, hundred: Articles, backend: Backend) -> None:
        with sent(backend) as batches:
            shown = [row.views.loaded for row in hundred.with_refs("views").iterator(chunk_size=40)]
        assert (shown, len(batches)) == (list(range(100)), 3)

    @pytest.mark.usefixtures("asynchronous")
    async def test_async_iteration_reads_them_too(self, articles: Articles) -> None:
        await articles.abulk_create([Article(title=f"{number:03}", views=number) for number in range(5)])
        rows = articles.order_by("title").with_refs("views")
        assert [row.views.loaded async for row in rows] == list(range(5))
        assert [row.views.loaded async for row in rows.aiterator(chunk_size=2)] == list(range(5))
        first = await rows.afirst()
        assert first is not None
        assert str(first.views) == "0"

    def test_of_related_and_other_models_together(self, articles: Articles, database: str, backend: Backend) -> None:
        author = Author.objects.using(database).create(name="a")
        articles.create(title="a", author=author, views=1)
        topic = Topic.objects.using(database).create(slug="t", followers=2)
        related: Any = author.article_set
        (article,) = related.with_refs("views")
        assert article.views.is_loaded
        with sent(backend) as batches:
            prefetch_refs([topic, article, Page()])
        assert len(batches) == 1
        assert topic.followers.loaded == 2


class TestWhatIsShown:
    def test_is_what_was_loaded_while_get_asks(self, articles: Articles) -> None:
        pk = articles.create(title="a", views=5).pk
        article = articles.with_refs("views").get()
        Article.views.at(pk, using=articles.db).increment()
        assert (str(article.views), article.views.get(), str(article.views)) == ("5", 6, "6")

    def test_follows_the_own_writes_of_the_row(self, articles: Articles) -> None:
        articles.create(title="a", views=5)
        article = articles.with_refs("views").get()
        article.views.increment()
        assert f"{article.views:03d}" == "006"

    def test_staged_value_stays(self, articles: Articles) -> None:
        article = articles.create(title="a", views=5)
        article.views = 9
        prefetch_refs([article])
        assert article.views.loaded == 9

    def test_mutable_value_is_each_readers_own(self, articles: Articles) -> None:
        articles.create(title="a", reactions={"wow": 1})
        article = articles.with_refs().get()
        article.reactions.loaded["wow"] = 2
        assert article.reactions.loaded == {"wow": 1}


class TestMistakes:
    def test_unknown_field_is_refused_at_once(self, articles: Articles) -> None:
        with pytest.raises(FieldError, match=r"shop.Article has no ref field 'title'"):
            articles.with_refs("title")

    def test_values_are_refused(self, articles: Articles) -> None:
        articles.create(title="a")
        with pytest.raises(TypeError, match="does not go together with values"):
            list(articles.with_refs().values("title"))

    @pytest.mark.parametrize("query", ["filter", "order_by", "annotate"])
    def test_query_by_a_field_without_column_says_so(self, articles: Articles, query: str) -> None:
        arguments: dict[str, Any] = {"filter": {"views": 5}, "annotate": {"more": F("views") + 1}}
        names = [] if query in arguments else ["views"]
        with pytest.raises(FieldError, match="has no column"):
            list(getattr(articles, query)(*names, **arguments.get(query, {})))


def test_on_a_cluster_one_page_costs_one_round_trip_a_node(request: pytest.FixtureRequest) -> None:
    with installed(make("cluster", request)) as backend:
        articles = Article.objects.using("default")
        articles.bulk_create([Article(title=str(number), views=number) for number in range(30)])
        with sent(backend) as batches:
            shown = {row.views.loaded for row in Article.objects.with_refs("views")}
        assert shown == set(range(30))
        assert len(batches) == 1  # which the back end sends as one pipeline a node
        articles.all().delete()
