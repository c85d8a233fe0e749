"""Flushers are killed at any moment, or frozen in the midst of a flush: no column goes back, and none stays behind."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db import connections

from dref_django.fields.reports import LOCK
from dref_django.fields.rows import RowCounter
from dref_django.inspection import lock_info
from tests.children import Child
from tests.fields.shop.models import Article
from tests.kinds import installed, make
from tests.processes import send, wait_until

ROWS = 12
PATIENCE = 30.0
FLUSHERS = """
import json, os, signal
from django.db import connections
given = json.loads(os.environ["DREF_TEST_ROWS"])
connections.settings["rows"] = connections.settings[given["like"]] | {"NAME": given["name"]}
from dref_django.fields.columns import Columns
from dref_django.fields.flusher import Flusher
from dref_django.waiting import Waker
from tests.fields.shop.models import Article, Author

def freeze_when_about_to_write(value, update=Columns.update):
    def frozen(self, using, targets):
        if all(target.data != value for target in targets):
            return update(self, using, targets)
        say("frozen")
        os.kill(os.getpid(), signal.SIGSTOP)
        update(self, using, targets)
        say("wrote")
    Columns.update = frozen

with connections["rows"].schema_editor() as editor:
    editor.create_model(Author)
    editor.create_model(Article)
Article.objects.using("rows").bulk_create([Article(title="a") for _ in range(given["rows"])])
connections.close_all()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
say("ready")
for order in orders():
    pid = os.fork()
    if not pid:
        if order.isdigit():
            freeze_when_about_to_write(int(order))
        Flusher("default", lag=0.1, databases=["rows"], ttl=1).run(Waker())
    say("started", pid)
"""


class Site(NamedTuple):
    """Rows in a database, and flushers that are forks of one process."""

    flushers: Child
    rows: Callable[[], list[tuple[int, int, int]]]
    """Key, column and version, in order of the key, as a plain client of the database sees them."""

    def start(self, freezes_at: str = "never") -> int:
        """One more flusher; returns its process id."""
        self.flushers.tell(freezes_at)
        pid: int = self.flushers.hears("started")[0]
        return pid

    def columns(self) -> list[int]:
        return [value for _, value, _ in self.rows()]


SELECT = "SELECT id, score_mirror, score_version FROM shop_article ORDER BY id"


@pytest.fixture(params=["sqlite-redis", "pg-redis", "pg-postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path, postgres_tables: str) -> Iterator[Site]:
    database, _, kind = request.param.partition("-")
    given: dict[str, Any] = {"like": "pg", "name": postgres_tables, "rows": ROWS}
    if database == "sqlite":
        given |= {"like": "default", "name": str(tmp_path / "rows.sqlite3")}
    server = connections.settings["pg"]
    url = f"postgresql://{server['USER']}@{server['HOST']}:{server['PORT']}/{postgres_tables}"

    def rows() -> list[tuple[int, int, int]]:
        if database == "sqlite":
            with sqlite3.connect(given["name"], timeout=PATIENCE) as file:
                found: list[Any] = file.execute(SELECT).fetchall()
            file.close()
            return found
        with psycopg.connect(url) as connection:
            return connection.execute(SELECT).fetchall()

    with installed(make(kind, request)) as backend:
        with Child(FLUSHERS, backend, {"DREF_TEST_ROWS": json.dumps(given)}) as flushers:
            flushers.hears("ready")
            yield Site(flushers, rows)
        if database == "pg":
            with psycopg.connect(url) as connection:
                connection.execute("DROP TABLE shop_article, shop_author")


def refs() -> list[RowCounter]:
    return [Article.score.at(pk=number, using="rows") for number in range(1, ROWS + 1)]


def holder() -> int | None:
    """The process that holds the flusher's lock."""
    info = lock_info(LOCK)
    return info.pid if info is not None and info.held else None


def successor_of(pid: int) -> int:
    """Waits until another process holds the flusher's lock."""
    found: list[int | None] = []

    def changed() -> bool:
        found.append(holder())
        return found[-1] not in (None, pid)

    wait_until(changed, "another flusher to take over", PATIENCE)
    assert found[-1] is not None
    return found[-1]


class Writer:
    """Changes refs all the time, in a thread."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._refs = refs()

    def work(self, over: threading.Event) -> None:
        while not over.wait(0.003):
            ref = self._chance.choice(self._refs)
            if self._chance.random() < 0.1:
                ref.delete()
            else:
                ref.increment(self._chance.randint(1, 9))


def watch(site: Site, over: threading.Event) -> int:
    """How many changes of columns it saw; fails when a version goes back."""
    changes, before = 0, [(0, 0, 0)] * ROWS
    while not over.wait(0.01):
        now = site.rows()
        assert all(new[2] >= old[2] for new, old in zip(now, before, strict=True)), (before, now)
        changes += sum(new != old for new, old in zip(now, before, strict=True))
        before = now
    return changes


def test_killed_flushers_leave_no_column_behind_and_set_none_back(site: Site, request: pytest.FixtureRequest) -> None:
    rounds = 15 if "pg-postgres" in request.node.name else 5  # there the next one follows at once, else after the lease
    chance, over, victim = random.Random(rounds), threading.Event(), 0
    site.start()
    with ThreadPoolExecutor(2) as pool:
        writes, watches = pool.submit(Writer(rounds).work, over), pool.submit(watch, site, over)
        try:
            for _ in range(rounds):
                site.start()
                victim = successor_of(victim)
                time.sleep(chance.uniform(0, 0.3))  # no wait: the random moment at which it dies
                send(signal.SIGKILL, victim)
        finally:
            over.set()
    writes.result()
    assert watches.result() > ROWS
    site.start()
    expected = [ref.get() for ref in refs()]
    wait_until(lambda: site.columns() == expected, "the columns to show what the refs hold", PATIENCE)


def test_flusher_that_thaws_in_the_midst_of_a_flush_sets_nothing_back(site: Site) -> None:
    first, *_ = refs()
    frozen = site.start("111")
    wait_until(lambda: holder() == frozen, "the first flusher to hold the lock", PATIENCE)
    first.set(111)
    site.flushers.hears("frozen")
    site.start()
    first.set(222)
    wait_until(lambda: site.columns()[0] == 222, "another flusher to take over", PATIENCE)
    before = site.rows()
    send(signal.SIGCONT, frozen)
    site.flushers.hears("wrote")
    assert site.rows() == before
    first.set(333)
    wait_until(lambda: site.columns()[0] == 333, "the other flusher to go on", PATIENCE)
