"""`manage.py dref prune`: refs whose row is gone are found, and no others."""

from __future__ import annotations

import pytest
from django.db import connections

from dref_django.backends import Backend
from dref_django.fields import DRefQuerySet
from dref_django.protocol import Read, Write
from tests.children import Child
from tests.commandline.conftest import dref
from tests.fields.shop.models import Article, Topic
from tests.processes import running, wait_until

pytestmark = pytest.mark.django_db(
    databases=["default", "pg"], transaction=True, available_apps=["dref_django", "tests.fields.shop"]
)
Articles = DRefQuerySet[Article]


def names(*arguments: str, database: str) -> list[str]:
    return sorted(r["name"] for r in dref("prune", "--json", f"--database={database}", *arguments).records)


def leave_orphans(database: str) -> tuple[Article, Article]:
    """A row, and one that raw SQL removes behind Django's back."""
    rows = Article.objects.using(database)
    kept, gone = rows.create(title="a", views=1), rows.create(title="b", views=2, featured=True)
    with connections[database].cursor() as cursor:
        cursor.execute("DELETE FROM shop_article WHERE id = %s", [gone.pk])
    return kept, gone


class TestPrune:
    def test_lists_what_has_no_row_and_deletes_nothing(self, database: str) -> None:
        kept, gone = leave_orphans(database)
        for _ in range(2):
            assert names("--older-than=0", database=database) == [gone.featured.name, gone.views.name]
        assert kept.views.get() == 1

    def test_deletes_when_it_is_told_to(self, database: str) -> None:
        kept, gone = leave_orphans(database)
        done = dref("prune", "--older-than=0", "--delete", f"--database={database}")
        assert done.out.count(" deleted") == 2
        assert (kept.views.get(), gone.views.get()) == (1, 0)
        assert names("--older-than=0", database=database) == []

    def test_leaves_young_ones_alone(self, database: str) -> None:
        leave_orphans(database)
        assert names(database=database) == []

    def test_leaves_refs_of_others_alone(self, database: str, backend: Backend) -> None:
        prefix = "" if database == "default" else f"{database}/"
        others = [f"{prefix}{name}" for name in ("shop.article.total.views", "shop.article.7", "shop.x.7.views")]
        for name in others:
            backend.execute([Write(name, 1)])
        assert names("--older-than=0", database=database) == []

    def test_finds_those_of_groups_and_patterns(self, database: str) -> None:
        topics = Topic.objects.using(database)
        topics.create(slug="a.b", hits=1, followers=2)
        assert names("--older-than=0", database=database) == []
        with connections[database].cursor() as cursor:
            cursor.execute("DELETE FROM shop_topic")
        assert len(names("shop.Topic", "--older-than=0", database=database)) == 2

    def test_looks_at_chosen_models_only(self, database: str) -> None:
        leave_orphans(database)
        assert names("shop.Topic", "--older-than=0", database=database) == []
        assert len(names("shop", "--older-than=0", database=database)) == 2

    def test_does_not_delete_what_changes_meanwhile(self, database: str, backend: Backend) -> None:
        from dref_django.fields import orphans

        _, gone = leave_orphans(database)
        field = Article.views.field
        (found,) = orphans.orphans(field, [database], 0)
        gone.views.increment()
        assert not found.delete()
        assert gone.views.get() == 3

    @pytest.mark.parametrize("arguments", [["shop.Nothing"], ["nothing"], ["--delete", "--dry-run"], ["--database=x"]])
    def test_refuses_what_makes_no_sense(self, arguments: list[str]) -> None:
        assert dref("prune", *arguments).code != 0


DELETES = """
import os, signal
from django.db import connections, transaction
connections.settings["pg"]["NAME"] = os.environ["DREF_TEST_PG_NAME"]
from tests.fields.shop.models import Article
with transaction.atomic(using="pg"):
    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL), using="pg")
    Article.objects.using("pg").all().delete()
"""


@pytest.mark.parametrize("pair", [("pg", "redis"), ("pg", "postgres")], indirect=True, ids="-".join)
def test_killed_between_the_commit_and_the_deletion_of_the_refs_leaves_what_prune_finds(backend: Backend) -> None:
    article = Article.objects.using("pg").create(title="a", views=5)
    name = article.views.name
    environment = {"DREF_TEST_PG_NAME": str(connections["pg"].settings_dict["NAME"])}
    with Child(DELETES, backend, environment) as child:
        wait_until(lambda: not running(child.pid), "the child to be killed", 30)
    assert not Article.objects.using("pg").exists()
    assert backend.execute([Read(name)])[0].data == 5
    assert names("--older-than=0", database="pg") == [name]
