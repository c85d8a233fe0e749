"""Fixtures for the live protocol: an isolated memory back end, and hosts and limits that tests choose."""

from collections.abc import Iterator
from typing import Any

import pytest

from dref_django import backends
from dref_django.hub import Hub
from dref_django.streams import get_hub
from dref_django.testing import isolate


@pytest.fixture(autouse=True)
def _isolated(settings: Any, django_db_blocker: Any) -> Iterator[None]:
    settings.ALLOWED_HOSTS = ["testserver", ".shop.example"]
    settings.DREF_POLICY = "tests.live.client.OnlyTest"
    # A consumer looks after the database connections of its thread with every message, also when there are none.
    with django_db_blocker.unblock(), isolate():
        yield


@pytest.fixture
def default_policy(settings: Any) -> None:
    del settings.DREF_POLICY


@pytest.fixture
def limits(settings: Any) -> Any:
    """Sets entries of DREF_LIVE: `limits(HEARTBEAT=0.1)`."""

    def set_(**values: object) -> None:
        settings.DREF_LIVE = values

    return set_


@pytest.fixture
def hub() -> Hub:
    return get_hub(backends.get_backend())
