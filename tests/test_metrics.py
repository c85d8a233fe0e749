"""Metrics add up to what was done; spans tell it; both cost nothing when they are off."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from django.test import RequestFactory
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from dref_django import Counter, DRef, Election, LockLost, Unavailable, WrongKind, lock, metrics, tracing
from dref_django.backends import Backend
from dref_django.backends.base import Backend as Base
from dref_django.inspection import break_lock
from dref_django.live.counting import tally_of
from tests.kinds import installed, make
from tests.settings import NOWHERE_REDIS

Registry = CollectorRegistry


@pytest.fixture
def registry() -> Iterator[Registry]:
    own = CollectorRegistry()
    metrics.enable(own)
    yield own
    metrics.disable()


def value(registry: Registry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, {"alias": "default", **labels}) or 0.0


def done(registry: Registry, command: str, outcome: str = "applied") -> float:
    return value(registry, "dref_operations_total", command=command, outcome=outcome)


class TestOperations:
    def test_counted_equal_done_from_many_threads(self, any_backend: Backend, registry: Registry) -> None:
        visits, before = Counter("visits"), done(registry, "add")

        def click() -> None:
            for _ in range(25):
                visits.increment()

        threads = [threading.Thread(target=click) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done(registry, "add") - before == visits.get() == 200
        assert value(registry, "dref_operation_seconds_count", operation="add") == 200

    async def test_async_operations_count_too(self, any_backend: Backend, registry: Registry) -> None:
        for _ in range(5):
            await Counter("visits").aincrement()
        assert done(registry, "add") == 5

    def test_conflicts_are_an_outcome(self, any_backend: Backend, registry: Registry) -> None:
        ref = DRef("a", 0)
        assert ref.set_if_absent(1)
        assert not ref.set_if_absent(2)
        assert (done(registry, "write"), done(registry, "write", "conflict")) == (1, 1)

    def test_failures_are_an_outcome(self, request: pytest.FixtureRequest, registry: Registry) -> None:
        request.getfixturevalue("redis_server")
        with installed(make("redis", request, options={"URL": NOWHERE_REDIS}, timeout=0.2)):
            with pytest.raises(Unavailable):
                Counter("visits").increment()
        assert done(registry, "add", "unavailable") == 1

    def test_no_label_holds_a_name(self, any_backend: Backend, registry: Registry) -> None:
        Counter("secret-name").increment()
        with lock("secret-name"):
            pass
        assert "secret-name" not in scraped(registry)


class TestLocks:
    def test_wait_and_hold_are_measured_once(self, any_backend: Backend, registry: Registry) -> None:
        for _ in range(3):
            with lock("a"):
                pass
        with Election("boss").lead():
            pass
        assert value(registry, "dref_lock_wait_seconds_count", kind="lock") == 3
        assert value(registry, "dref_lock_hold_seconds_count", kind="lock") == 3
        assert value(registry, "dref_lock_wait_seconds_count", kind="election") == 1

    def test_broken_and_lost(self, any_backend: Backend, registry: Registry) -> None:
        held = lock("a").acquire()
        assert value(registry, "dref_locks_held") == 1
        break_lock("a")
        with pytest.raises(LockLost):
            lock("a").release(held)
        assert value(registry, "dref_locks_broken_total", kind="lock") == 1
        assert value(registry, "dref_locks_lost_total", kind="lock") == 1
        assert value(registry, "dref_lock_hold_seconds_count", kind="lock") == 0
        assert value(registry, "dref_locks_held") == 0


class TestScrape:
    def test_listener_and_copies(self, any_backend: Backend, registry: Registry) -> None:
        visits = Counter("visits")
        visits.set(1)
        visits.peek()
        assert value(registry, "dref_watched_names") == 1
        assert "dref_gaps_total" in scraped(registry)
        assert "dref_listener_ready" in scraped(registry)

    def test_pages_that_were_disconnected(self, any_backend: Backend, registry: Registry) -> None:
        Counter("visits").increment()  # the back end is in use
        before = value(registry, "dref_live_dropped_total", reason="rate")
        tally_of("default").drop("rate")
        assert value(registry, "dref_live_dropped_total", reason="rate") == before + 1
        assert registry.get_sample_value("dref_live_sockets", {"alias": "default"}) is not None

    def test_node_of_a_cluster(self, request: pytest.FixtureRequest, registry: Registry) -> None:
        with installed(make("raft", request)):
            Counter("visits").increment()
            assert value(registry, "dref_raft_leads") == 1
            assert value(registry, "dref_raft_term") >= 1
            assert value(registry, "dref_raft_lag") == 0

    def test_view(self, registry: Registry) -> None:
        answer = metrics.scrape(RequestFactory().get("/metrics/"))
        assert answer.status_code == 200
        assert answer["Content-Type"].startswith("text/plain")


def scraped(registry: Registry) -> str:
    return metrics.scrape(RequestFactory().get("/")).content.decode()


class TestSpans:
    def test_one_for_each_exchange(self, any_backend: Backend) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracing.enable(provider)
        try:
            Counter("visits").increment()
            DRef("text", "").set("x")
            with pytest.raises(WrongKind):
                Counter("text").increment()
        finally:
            tracing.disable()
        Counter("visits").increment()
        spans = exporter.get_finished_spans()
        assert [span.name for span in spans] == ["dref add", "dref write", "dref add"]
        first = dict(spans[0].attributes or {})
        assert first["dref.names"] == ("visits",)
        assert first["dref.outcome"] == ("applied",)
        assert dict(spans[2].attributes or {})["dref.outcome"] == ("wrong_kind",)


class TestOff:
    def test_nobody_observes(self) -> None:
        assert Base.observer is None

    def test_neither_library_is_imported_unless_asked_for(self) -> None:
        assert run("") == "False False"

    def test_settings_turn_them_on(self) -> None:
        assert run("DREF_METRICS=True, DREF_TRACING=True") == "True True"


def run(settings: str) -> str:
    program = (
        "import sys\n"
        "from django.conf import settings\n"
        f"settings.configure(INSTALLED_APPS=['dref_django'], {settings})\n"
        "import django; django.setup()\n"
        "from dref_django import Counter\n"
        "Counter('a').increment()\n"
        "print('prometheus_client' in sys.modules, 'opentelemetry' in sys.modules)\n"
    )
    done_ = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    return done_.stdout.strip()
