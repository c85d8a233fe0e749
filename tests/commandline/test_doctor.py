"""status and doctor, on healthy and on sick set-ups, and the exit codes of what cannot work."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from dref_django.backends import Backend
from tests.commandline.conftest import dref
from tests.kinds import installed, make
from tests.settings import NOWHERE_REDIS

NOWHERE = {"BACKEND": "redis", "TIMEOUT": 0.3, "OPTIONS": {"URL": NOWHERE_REDIS}}


def ids(*arguments: str) -> set[str]:
    return {record["id"] for record in dref("doctor", "--json", *arguments).records}


class TestStatus:
    def test_ready(self, any_backend: Backend) -> None:
        outcome = dref("status", "--json")
        assert outcome.code == 0
        (record,) = outcome.records
        assert (record["state"], record["alias"]) == ("READY", "default")
        assert record["latency"] > 0

    def test_tells_facts_of_the_server(self, served_backend: Backend) -> None:
        (record,) = dref("status", "--json").records
        assert set(record["facts"]) == set(served_backend.facts())

    @override_settings(DREF_BACKEND=NOWHERE)
    def test_down_is_code_69(self) -> None:
        outcome = dref("status")
        assert outcome.code == 69
        assert "DOWN" in outcome.out


class TestUnreachable:
    @pytest.mark.parametrize("arguments", [["get", "a"], ["set", "a", "1"], ["list"], ["locks"], ["break", "a"]])
    @override_settings(DREF_BACKEND=NOWHERE)
    def test_is_code_69(self, arguments: list[str]) -> None:
        outcome = dref(*arguments)
        assert outcome.code == 69
        assert "cannot be reached" in outcome.err

    def test_unknown_alias_is_code_2(self) -> None:
        outcome = dref("get", "a", "--using", "nowhere")
        assert outcome.code == 2
        assert "no such alias" in outcome.err


class TestDoctor:
    def test_finds_nothing_wrong_with_a_healthy_postgres(self, request: pytest.FixtureRequest) -> None:
        with installed(make("postgres", request)):
            assert ids() <= {"dref.W001", "dref.W031"}  # the test server does not flush, on purpose

    @override_settings(DREF_BACKEND=NOWHERE)
    def test_unreachable_server(self) -> None:
        outcome = dref("doctor")
        assert outcome.code == 1
        assert "dref.E020" in outcome.out

    @override_settings(DREF_BACKEND="memory")
    def test_memory_in_several_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ids() == {"dref.W070"}
        assert dref("doctor").code == 0
        monkeypatch.setenv("WEB_CONCURRENCY", "4")
        assert dref("doctor").code == 1

    @override_settings(DREF_BACKEND="nonsense")
    def test_wrong_settings_are_told_and_no_server_is_tried(self) -> None:
        assert ids() == {"dref.E001"}

    def test_clock_of_the_server_that_is_off(self, request: pytest.FixtureRequest, monkeypatch: Any) -> None:
        with installed(make("redis", request)) as backend:
            assert "dref.W071" not in ids()
            import time

            real = time.time
            monkeypatch.setattr("dref_django.commandline.probes.time.time", lambda: real() - 30)
            assert "dref.W071" in ids()
        del backend

    def test_changes_that_are_never_heard(self, request: pytest.FixtureRequest, monkeypatch: Any) -> None:
        class Deaf:
            def __init__(self, sink: Any) -> None:
                self._sink = sink

            async def run(self) -> None:
                self._sink.up("deaf")

            async def subscribe(self, names: Any, prefixes: Any) -> None: ...

            async def unsubscribe(self, names: Any, prefixes: Any) -> None: ...

        monkeypatch.setattr("dref_django.commandline.probes.PATIENCE", 0.2)
        with installed(make("redis", request)) as backend:
            assert "dref.E072" not in ids()
        with installed(make("redis", request)) as backend:
            monkeypatch.setattr(backend, "feed", Deaf)
            assert "dref.E072" in ids()
