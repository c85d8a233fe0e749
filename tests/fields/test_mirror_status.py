"""`manage.py dref mirror --status`: who flushes, how far behind, and what is in its way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connections
from prometheus_client import CollectorRegistry

from dref_django import metrics
from dref_django.fields import DRefQuerySet
from dref_django.fields.columns import Columns
from dref_django.fields.flusher import Flusher
from dref_django.waiting import Waker
from tests.commandline.conftest import Outcome, dref
from tests.fields.shop.models import Article
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(
    databases=["default", "pg"], transaction=True, available_apps=["dref_django", "tests.fields.shop"]
)
everywhere = pytest.mark.parametrize("pair", [("pg", "redis"), ("pg", "postgres")], indirect=True, ids="-".join)
Articles = DRefQuerySet[Article]


def status(*arguments: str) -> Outcome:
    return dref("mirror", "--status", "--database=pg", *arguments)


def of_score(*arguments: str) -> dict[str, Any]:
    """What it says of `shop.Article.score`."""
    (record,) = [each for each in status("--json", *arguments).records if each["field"] == "shop.Article.score"]
    return record


@pytest.fixture
def article(articles: Articles) -> Article:
    article = articles.create(title="a", score=5)
    Flusher("default", databases=["pg"]).compare()
    return article


@pytest.fixture
def following(article: Article) -> Iterator[None]:
    """A flusher works in this process."""
    stop = Waker()
    flusher = Flusher("default", lag=0.1, databases=["pg"], ttl=10)

    def run() -> None:
        flusher.run(stop)
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: flusher.leads, "the flusher to lead", 20)
        yield
    finally:
        stop.set()
        thread.join()


@everywhere
class TestNobodyFlushes:
    def test_is_told_by_the_exit_code_and_a_word(self, article: Article) -> None:
        said = status()
        assert (said.code, "nobody" in said.out) == (1, True)
        assert of_score() == {
            "field": "shop.Article.score", "using": "default", "databases": ["pg"], "holder": None, "lag": None,
            "waiting": None, "flushed": None, "last_flush": None, "reported": None, "trouble": "", "behind": None,
        }  # fmt: skip

    def test_rows_behind_are_counted_and_not_written(self, article: Article) -> None:
        article.score.increment()
        for _ in range(2):
            assert of_score("--count")["behind"] == 1
        assert "ROWS BEHIND" in status("--count").out
        Flusher("default", databases=["pg"]).compare()
        assert of_score("--count")["behind"] == 0


@everywhere
@pytest.mark.usefixtures("following")
class TestSomebodyFlushes:
    def test_its_process_tells_the_lag_to_prometheus(self) -> None:
        registry = CollectorRegistry()
        metrics.enable(registry)
        try:
            lag = "dref_mirror_lag_seconds", {"alias": "default"}
            wait_until(lambda: registry.get_sample_value(*lag) == 0, "nothing to wait", 20)
        finally:
            metrics.disable()

    def test_says_who_and_what_it_has_written(self, article: Article) -> None:
        before = of_score()["flushed"] or 0
        article.score.increment()
        wait_until(lambda: (of_score()["flushed"] or 0) > before, "a report of the flush", 20)
        record = of_score()
        assert record["holder"]["pid"] == os.getpid()
        assert (record["lag"], record["waiting"], record["trouble"]) == (0, 0, "")
        assert record["last_flush"] <= record["reported"]
        said = status()
        assert (said.code, f"pid {os.getpid()}" in said.out) == (0, True)

    def test_says_what_is_in_its_way_and_for_how_long_until_it_is_gone(
        self, article: Article, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise DatabaseError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Columns, "update", refuse)
            article.score.increment()
            wait_until(lambda: "disk is full" in of_score()["trouble"], "a report of the trouble", 20)
            record = of_score()
            assert record["waiting"] == 1
            wait_until(lambda: of_score()["lag"] > record["lag"] > 0, "the lag to grow", 20)
            assert "cannot flush: DatabaseError: the disk is full" in status().out
        wait_until(lambda: of_score()["trouble"] == "", "the trouble to be over", 20)
        assert of_score("--count")["behind"] == 0


@pytest.mark.parametrize("arguments", [["--json"], ["--count"], ["--once", "--status"]])
@pytest.mark.usefixtures("memory")
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    refused = dref("mirror", *arguments)
    assert (refused.code != 0, refused.out) == (True, "")
    assert "--status" in refused.err
