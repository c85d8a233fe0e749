"""`manage.py check`: what is wrong with the settings, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.checks import run_checks
from django.core.checks.messages import CheckMessage
from django.test import override_settings

from dref_django.backends import Params
from dref_django.backends.memory import MemoryBackend

ROOT = Path(__file__).parent.parent


class Complaining(MemoryBackend):
    """Says something about its server."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.asked = 0

    def check(self) -> list[CheckMessage]:
        self.asked += 1
        return [checks.Warning("The server is tired.", hint="Let it sleep.", id="dref.W999")]


def ids(*, deploy: bool = False) -> list[str]:
    """The ids of what the checks say about this app's settings."""
    messages = run_checks(tags=["dref"], include_deployment_checks=deploy)
    assert all(message.msg for message in messages)
    return [str(message.id) for message in messages]


class TestSettings:
    def test_good_settings_are_passed_over_in_silence(self) -> None:
        with override_settings(DREF_BACKEND="memory"):
            assert ids() == []

    def test_memory_by_default_in_production_is_a_warning_with_the_way_out(self) -> None:
        with override_settings(DREF_BACKEND=None):
            (message,) = run_checks(tags=["dref"])
            assert message.id == "dref.W001"
            assert message.level == checks.WARNING
            assert 'Set DREF_BACKEND to "redis" or "postgres"' in str(message.hint)
        with override_settings(DREF_BACKEND=None, DEBUG=True):
            assert ids() == []

    @pytest.mark.parametrize(
        "settings",
        [
            {"DREF_BACKEND": "no such"},
            {"DREF_BACKEND": None, "DREF_BACKENDS": {}},
            {"DREF_BACKEND": "no.such.path"},
            {"DREF_BACKEND": {"BACKEND": "memory", "CODEC": "no such"}},
            {"DREF_BACKEND": {"BACKEND": "postgres", "OPTIONS": {"DATABASE_ALIAS": "default"}}},
            {"DREF_BACKEND": {"BACKEND": "redis", "OPTIONS": {"URL": "not a url"}}},
        ],
        ids=["name", "no default", "path", "codec", "other database", "url"],
    )
    def test_unusable_settings_are_an_error(self, settings: dict[str, Any]) -> None:
        with override_settings(**settings):
            found = ids(deploy=True)
            assert found
            assert all(each.startswith("dref.E") for each in found), found

    def test_every_alias_is_looked_at(self) -> None:
        several = {"default": "memory", "a": "no such", "b": {"BACKEND": "memory", "X": 1}}
        with override_settings(DREF_BACKEND=None, DREF_BACKENDS=several):
            assert ids() == ["dref.E001", "dref.E001"]

    def test_message_is_a_sentence_that_names_the_setting(self) -> None:
        with override_settings(DREF_BACKEND={"BACKEND": "memory", "TIMEOUT": 0}):
            (message,) = run_checks(tags=["dref"])
            assert isinstance(message, checks.Error)
            assert "DREF_BACKEND['TIMEOUT'] must be a number of seconds" in str(message.msg)


class TestServers:
    def test_servers_are_asked_with_deploy_only(self) -> None:
        with override_settings(DREF_BACKEND=f"{__name__}.Complaining"):
            assert ids() == []
            assert ids(deploy=True) == ["dref.W999"]

    def test_unreachable_server_is_told_of(self) -> None:
        option = {"URL": "redis://127.0.0.1:1/0"}
        with override_settings(DREF_BACKEND={"BACKEND": "redis", "TIMEOUT": 0.5, "OPTIONS": option}):
            messages = run_checks(tags=["dref"], include_deployment_checks=True)
            assert any("127.0.0.1:1" in f"{message.msg} {message.hint}" for message in messages), messages

    def test_command_line_shows_them(self) -> None:
        program = (
            "from django.conf import settings\n"
            "settings.configure(INSTALLED_APPS=['dref_django'], DEBUG=False, SECRET_KEY='x')\n"
            "from django.core.management import execute_from_command_line\n"
            "execute_from_command_line(['manage.py', 'check', '--tag', 'dref'])\n"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert "(dref.W001) DREF_BACKEND is not set" in done.stderr
