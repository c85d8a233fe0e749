"""Names of the refs of rows, and back to the row."""

from __future__ import annotations

import uuid

import pytest
from django.db import models
from django.test import override_settings

from dref_django import InvalidName
from dref_django.fields import DRefCounterField, DRefField
from tests.fields.shop.models import Article, Page, Pinned, Review, Topic

KEY = uuid.UUID("12345678-1234-5678-1234-567812345678")


def tenant(model: type[models.Model], alias: str) -> str:
    return f"tenant-of-{alias}"


def bad_tenant(model: type[models.Model], alias: str) -> str:
    return "a/b"


class TestNames:
    def test_say_app_model_key_and_field(self) -> None:
        assert Article.views.at(pk=7).name == "shop.article.7.views"

    def test_are_the_same_however_the_key_is_written(self) -> None:
        assert Article.views.at(pk="7").name == Article.views.at(pk=7).name
        assert Page.hits.at(pk=KEY.hex).name == Page.hits.at(pk=str(KEY)).name == Page.hits.at(pk=KEY).name

    def test_of_proxies_and_children_are_those_of_the_row_of_the_parent(self) -> None:
        assert Pinned.views.at(pk=7).name == Review.views.at(pk=7).name == Article.views.at(pk=7).name
        assert Review.stars.at(pk=7).name == "shop.review.7.stars"

    def test_of_an_abstract_parent_are_those_of_the_child(self) -> None:
        assert Topic.hits.at(pk="a").name == "topic.a\x1fshop.topic.a.hits"

    def test_follow_a_pattern(self) -> None:
        assert Topic.followers.at(pk="a b").name == "follow:a b"

    def test_keep_keys_apart_that_have_no_place_in_a_name(self) -> None:
        keys = ["a\nb", "a%0A;b", "a%b", "a.b", "\x7f", "é/{}"]
        names = [Topic.followers.at(pk=key).name for key in keys]
        assert len({*names}) == len(keys)
        assert [Topic.followers.field.pattern.pk(name, "default") for name in names] == keys

    @pytest.mark.parametrize("name", ["shop.article.x.views", "shop.article.07.views", "shop.article..views", "x.7"])
    def test_that_no_row_could_have_lead_to_no_key(self, name: str) -> None:
        assert Article.views.field.pattern.pk(name, "default") is None

    def test_with_a_group_lead_back_to_the_key(self) -> None:
        name = Topic.hits.at(pk="a.b").name
        assert Topic.hits.field.pattern.pk(name, "default") == "a.b"
        assert Topic.hits.field.pattern.pk(name.replace("topic.a", "topic.c", 1), "default") is None

    def test_key_of_another_type_is_refused(self) -> None:
        with pytest.raises(InvalidName, match=r"'seven' is no primary key of shop.Article"):
            assert Article.views.at(pk="seven").name

    def test_that_get_too_long_are_refused(self) -> None:
        with pytest.raises(InvalidName, match="1 to 200 characters"):
            assert Topic.followers.at(pk="x" * 200).name

    def test_pattern_without_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match="all rows would share"):
            DRefCounterField(name="views")

    def test_pattern_with_an_unknown_placeholder_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"there is no \{id\}"):
            DRefField(name="{pk}.{id}")


class TestNamespaces:
    def test_two_databases_never_share_a_ref(self) -> None:
        assert Article.views.at(pk=7, using="pg").name == "pg/shop.article.7.views"

    def test_function_of_the_project_decides(self) -> None:
        with override_settings(DREF_FIELD_NAMESPACE="tests.fields.test_names.tenant"):
            assert Article.views.at(pk=7).name == "tenant-of-default/shop.article.7.views"
            assert Topic.hits.at(pk="a").name == "tenant-of-default/topic.a\x1fshop.topic.a.hits"
            assert Topic.hits.field.pattern.pk("tenant-of-default/topic.a\x1fshop.topic.a.hits", "default") == "a"
        assert Article.views.at(pk=7).name == "shop.article.7.views"

    def test_namespace_that_could_run_into_the_name_is_refused(self) -> None:
        with override_settings(DREF_FIELD_NAMESPACE="tests.fields.test_names.bad_tenant"):
            with pytest.raises(InvalidName, match="has no '/' in it"):
                assert Article.views.at(pk=7).name
