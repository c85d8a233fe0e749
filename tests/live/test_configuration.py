"""DREF_LIVE and DREF_POLICY: what they may say, and what is said when they are wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from dref_django.live import limits, policy
from tests.live.client import OnlyTest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_defaults_are_the_constants(settings: Any) -> None:
    del settings.DREF_POLICY
    assert limits.configured() == limits.Limits()
    assert limits.configured().heartbeat == limits.HEARTBEAT
    assert type(policy.configured()) is policy.Policy


def test_entries_replace_constants(settings: Any) -> None:
    settings.DREF_LIVE = {"HEARTBEAT": 5, "URL": "/ws/", "ORIGINS": ["https://a.example"]}
    configured = limits.configured()
    assert (configured.heartbeat, configured.url, configured.origins) == (5, "/ws/", ("https://a.example",))
    assert configured.burst == limits.BURST


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"HEARTBEATS": 5}, "unknown keys 'HEARTBEATS'; known are BURST, "),
        ([], "must be a dict"),
        ({"HEARTBEAT": 0}, r"'HEARTBEAT'\] must be a number, 0.05 or more; it is 0"),
        ({"BURST": 1.5}, "must be a whole number, 1 or more"),
        ({"BURST": True}, "must be a whole number"),
        ({"WINDOW": "big"}, "must be a whole number"),
        ({"URL": "ws/"}, "starts with a slash"),
        ({"ORIGINS": "https://a.example"}, "list of origins"),
        ({"ORIGINS": ["a.example"]}, "list of origins"),
    ],
)
def test_wrong_entries_are_named_and_checked(settings: Any, given: object, words: str) -> None:
    settings.DREF_LIVE = given
    with pytest.raises(ImproperlyConfigured, match=words):
        limits.configured()
    assert [message.id for message in run_checks(tags=["dref"])] == ["dref.E040"]


@pytest.mark.parametrize(
    "given", ["tests.live.nowhere.Policy", "tests.live.client.Client", "tests.live.client.Person", 7]
)
def test_wrong_policy_is_named_and_checked(settings: Any, given: object) -> None:
    settings.DREF_POLICY = given
    with pytest.raises(ImproperlyConfigured, match="DREF_POLICY"):
        policy.configured()
    assert [message.id for message in run_checks(tags=["dref"])] == ["dref.E041"]


def test_policy_may_be_a_path_a_class_or_an_instance(settings: Any) -> None:
    for given in ("tests.live.client.OnlyTest", OnlyTest, OnlyTest()):
        settings.DREF_POLICY = given
        assert isinstance(policy.configured(), OnlyTest)


def test_missing_channels_is_said_in_one_sentence() -> None:
    program = (
        "import sys; sys.modules['channels'] = None\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django.contrib.auth', 'django.contrib.contenttypes', 'dref_django'])\n"
        "import django; django.setup()\n"
        "import dref_django.live.fanout, dref_django.live.connection\n"
        "try:\n"
        "    import dref_django.live.routing\n"
        "except ImportError as error:\n"
        "    assert 'pip install' in str(error) and 'dref-django[channels]' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('imported')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)


def test_migrations_match_the_models() -> None:
    command = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
