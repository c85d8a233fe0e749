"""Django's edges: serializers, model forms, the admin, migrations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.core import serializers
from django.core.management import call_command
from django.db import connections, models
from django.test import Client
from django.urls import path

from dref_django import Conflict, backends
from dref_django.fields import DRefCounterField, prefetch_refs
from dref_django.fields.admin import DRefAdminMixin
from dref_django.testing import isolate
from tests.fields.counted import sent
from tests.fields.shop.models import Article, Mood, Page, Pinned, Review, Topic

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Article]
    _ModelAdmin = admin.ModelAdmin[Article]
else:
    _ModelForm = forms.ModelForm
    _ModelAdmin = admin.ModelAdmin

pytestmark = [pytest.mark.django_db(databases=["default", "pg"]), pytest.mark.usefixtures("memory")]
FORMATS = ["json", "jsonl", "python", "xml", "yaml"]


@pytest.fixture(autouse=True)
def commits(memory: None) -> Iterator[None]:
    """What waits for a commit happens at once: here no test looks at transactions."""
    with pytest.MonkeyPatch.context() as patch:
        for alias in ("default", "pg"):
            patch.setattr(connections[alias], "on_commit", lambda function, robust=False: function())
        yield


class TestFixtures:
    @pytest.mark.parametrize("format_", FORMATS)
    def test_carry_the_values_of_refs(self, format_: str) -> None:
        Article.objects.create(title="a", views=5, featured=True, reactions={"é": 1}, mood=Mood(2, "so"), label="x y")
        Topic.objects.create(slug="t", hits=3)
        dumped = serializers.serialize(format_, [*Article.objects.all(), *Topic.objects.all()])
        with isolate():
            for loaded in serializers.deserialize(format_, dumped):
                loaded.save()
            article = Article.objects.get()
            assert (article.views.get(), article.featured.get(), article.stock.get()) == (5, True, 10)
            assert (article.reactions.get(), article.mood.get()) == ({"é": 1}, Mood(2, "so"))
            assert (article.label.get(), Topic.objects.get().hits.get()) == ("x y", 3)

    def test_of_a_child_have_the_parents_refs_in_the_parents_object(self) -> None:
        Review.objects.create(title="a", views=1, stars=5)
        (review,) = json.loads(serializers.serialize("json", Review.objects.all()))
        (article,) = json.loads(serializers.serialize("json", Pinned.objects.all()))
        assert review["fields"] == {"stars": 5}
        assert article["fields"]["views"] == 1

    def test_dumpdata_reads_the_refs_of_many_rows_together(self, tmp_path: Path) -> None:
        Article.objects.bulk_create([Article(title=str(number), views=number) for number in range(30)])
        file = tmp_path / "articles.json"
        with sent(backends.get_backend()) as batches:
            call_command("dumpdata", "shop.Article", output=str(file), verbosity=0)
        assert len(batches) == 1
        with isolate():
            call_command("loaddata", str(file), verbosity=0)
            assert sorted(row.views.get() for row in Article.objects.all()) == list(range(30))

    def test_chosen_fields_are_all_that_is_written(self) -> None:
        Article.objects.create(title="a", views=5)
        (found,) = json.loads(serializers.serialize("json", Article.objects.all(), fields=["views"]))
        assert found["fields"] == {"views": 5}

    def test_value_of_a_wrong_type_is_refused(self) -> None:
        wrong = json.dumps([{"model": "shop.article", "pk": 1, "fields": {"title": "a", "mood": {"happy": "very"}}}])
        with pytest.raises(serializers.base.DeserializationError, match=r"shop.Article.mood"):
            list(serializers.deserialize("json", wrong))


class ArticleForm(_ModelForm):
    class Meta:
        model = Article
        fields = ("title", "views", "featured", "mood", "label")


def shown(form: forms.BaseForm) -> dict[str, str]:
    """What a browser sends back from the form unchanged."""
    data: dict[str, str] = {}
    for bound in form:
        for name, value in ((bound.html_name, bound.value()), (bound.html_initial_name, bound.value())):
            if bound.field.__class__.__name__ == "FlagFormField" and name == bound.html_name:
                data |= {name: "on"} if value else {}
            else:
                data[name] = "" if value is None else str(value)
    return data


class TestForms:
    def test_shows_the_values(self) -> None:
        article = Article.objects.create(title="a", views=5, mood=Mood(1))
        html = str(ArticleForm(instance=article))
        assert '<input type="hidden" name="initial-views" value="5" id="initial-id_views">' in html
        assert "{&quot;happy&quot;: 1, &quot;note&quot;: &quot;&quot;}" in html

    def test_of_a_new_row_stages_what_was_entered(self) -> None:
        data = {"title": "a", "views": "7", "featured": "on", "mood": '{"happy": 2}', "label": " b "}
        form = ArticleForm(data)
        assert form.is_valid(), form.errors
        article = form.save()
        assert (article.views.get(), article.featured.get(), article.mood.get()) == (7, True, Mood(2))
        assert article.label.get() == " b "

    def test_edits_only_what_was_changed_in_it(self) -> None:
        article = Article.objects.create(title="a", views=5, label="x")
        data = {**shown(ArticleForm(instance=article)), "featured": "on", "title": "b"}
        article.views.increment()
        form = ArticleForm(data, instance=Article.objects.get())
        assert form.is_valid(), form.errors
        assert form.changed_data == ["title", "featured"]
        saved = form.save()
        assert (saved.title, saved.views.get(), saved.featured.get(), saved.label.get()) == ("b", 6, True, "x")

    def test_edit_of_a_value_that_was_changed_meanwhile_is_refused(self) -> None:
        article = Article.objects.create(title="a", views=5)
        data = {**shown(ArticleForm(instance=article)), "views": "9"}
        article.views.increment()
        form = ArticleForm(data, instance=Article.objects.get())
        assert form.errors == {
            "views": ["Somebody has changed this meanwhile: it is 6 now, not 5. Load the form again."]
        }
        assert 'name="initial-views" value="5"' in str(form)

    def test_change_between_validation_and_saving_is_a_conflict(self) -> None:
        article = Article.objects.create(title="a", views=5)
        form = ArticleForm({**shown(ArticleForm(instance=article)), "views": "9"}, instance=article)
        assert form.is_valid()
        article.views.increment()
        with pytest.raises(Conflict, match="edited in a form"):
            form.save()
        assert article.views.get() == 6

    def test_form_without_what_it_had_shown_is_refused(self) -> None:
        article = Article.objects.create(title="a", views=5)
        form = ArticleForm({"title": "a", "views": "9", "mood": "{}", "label": ""}, instance=article)
        assert "views" in form.errors

    @pytest.mark.parametrize(
        ("field", "entered"), [("views", "many"), ("views", str(2**63)), ("mood", "{"), ("mood", '{"happy": "x"}')]
    )
    def test_what_is_no_value_of_the_field_is_refused(self, field: str, entered: str) -> None:
        article = Article.objects.create(title="a")
        form = ArticleForm({**shown(ArticleForm(instance=article)), field: entered}, instance=article)
        assert list(form.errors) == [field]
        assert entered in str(form).replace("&quot;", '"')


class ArticleAdmin(DRefAdminMixin, _ModelAdmin):
    list_display = ("title", "views", "featured")
    fields = ("title", "views", "featured", "label", "stock")
    readonly_fields = ("stock",)


site = admin.AdminSite()
site.register(Article, ArticleAdmin)
urlpatterns = [path("admin/", site.urls)]


@pytest.mark.urls("tests.fields.test_edges")
class TestAdmin:
    @pytest.fixture
    def browser(self, client: Client) -> Client:
        client.force_login(User.objects.create_superuser("a"))
        return client

    def test_list_shows_the_values_in_one_round_trip(self, browser: Client) -> None:
        Article.objects.bulk_create([Article(title=str(number), views=1000 + number) for number in range(20)])
        with sent(backends.get_backend()) as batches:
            page = browser.get("/admin/shop/article/").content.decode()
        assert '<td class="field-views">1019</td>' in page
        assert '<td class="field-featured">False</td>' in page
        assert len(batches) == 1
        assert "column-views" in page
        assert "sortable column-views" not in page

    def test_edits_by_comparing(self, browser: Client) -> None:
        article = Article.objects.create(title="a", views=5)
        url = f"/admin/shop/article/{article.pk}/change/"
        page = browser.get(url)
        assert '<div class="readonly">10</div>' in page.content.decode()
        data = {**shown(page.context["adminform"].form), "views": "9"}
        assert browser.post(url, data).status_code == 302
        assert article.views.get() == 9
        refused = browser.post(url, {**data, "views": "7"})
        assert "it is 9 now, not 5" in refused.content.decode()
        assert article.views.get() == 9


class TestMigrations:
    def test_know_nothing_of_the_fields(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from django.db.migrations.state import ModelState

        for model in (Article, Review, Page, Topic):
            assert not {"views", "stars", "hits", "followers"} & set(ModelState.from_model(model).fields)

    def test_field_is_cloned_with_its_options(self) -> None:
        field = DRefCounterField("hits", default=3, name="x:{pk}", group="{model}")
        again = field.clone()
        assert again.deconstruct() == field.deconstruct()
        assert again.ref_default == 3


def test_manager_that_django_makes_is_ours_and_the_projects_stays() -> None:
    assert hasattr(Topic.objects, "with_refs")
    assert type(Topic._base_manager) is models.Manager


def test_rows_of_no_model_with_refs_are_no_trouble() -> None:
    prefetch_refs([User(username="a")])
