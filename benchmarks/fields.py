"""What does a value on a row cost beside a column: F(), a page of 100 rows, a hot counter, a mirrored column?"""

from __future__ import annotations

import time
from typing import Any, Final

from benchmarks import harness
from benchmarks.increments import WRITERS

ROWS: Final = 100
MIRRORED: Final = 10_000


def main() -> None:
    harness.set_up()
    from django.db import connection, models
    from django.template import Context, Engine

    from dref_django.fields import DRefCounterField, DRefManager
    from dref_django.fields.flusher import Flusher, Source

    class Article(models.Model):
        title = models.CharField(max_length=200)
        clicks = models.BigIntegerField(default=0)
        views = DRefCounterField(using="redis")
        score = DRefCounterField(using="redis", mirror=True)

        objects = DRefManager()

        class Meta:
            app_label = "bench"

        def __str__(self) -> str:
            return self.title

    with connection.schema_editor() as editor:
        editor.create_model(Article)
    rows: Any = Article._default_manager
    rows.bulk_create([Article(title=f"Article {number}", clicks=number) for number in range(ROWS)])
    article = rows.first()

    def by_f() -> None:
        rows.filter(pk=article.pk).update(clicks=models.F("clicks") + 1)

    harness.rates("Increment", {"F() on PostgreSQL": by_f, "article.views.increment(), redis": article.views.increment})
    harness.compare(
        f"{WRITERS} threads on one counter",
        {
            "F() on one row": lambda: harness.together([by_f] * WRITERS),
            "article.views.increment(), redis": lambda: harness.together([article.views.increment] * WRITERS),
        },
        rounds=9,
    )

    for row in rows.all():
        row.views.set(row.clicks)
    engine = Engine()
    plain = engine.from_string("{% for row in rows %}{{ row.title }} {{ row.clicks }}\n{% endfor %}")
    live = engine.from_string("{% for row in rows %}{{ row.title }} {{ row.views }}\n{% endfor %}")
    harness.rates(
        f"A page of {ROWS} rows",
        {
            "plain queryset with a column": lambda: plain.render(Context({"rows": rows.all()})),
            "with_refs, redis": lambda: live.render(Context({"rows": rows.with_refs("views")})),
        },
    )

    rows.bulk_create([Article(title="m", score=number) for number in range(MIRRORED)], batch_size=1000)
    flusher = Flusher("redis")
    started = time.perf_counter()
    flusher.compare([Source(Article._meta.get_field("score"), ["default"])])
    took = time.perf_counter() - started
    harness.table(
        ("Mirror", "rows", "s"), [("all versions compared, changed rows flushed", str(MIRRORED), f"{took:.2f}")]
    )
