"""Locks on every back end, each test with an empty namespace of its own."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar, cast

import pytest
from pytest_django.fixtures import Settings

from dref_django import backends
from dref_django.backends import Backend
from tests.kinds import KINDS, options_of
from tests.locks.scripted import ScriptedBackend

T = TypeVar("T")
InThread: TypeAlias = Callable[..., concurrent.futures.Future[Any]]


def backend_setting(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    if kind == "scripted":
        return {"BACKEND": "tests.locks.scripted.ScriptedBackend"}
    return {"BACKEND": kind, "KEY_PREFIX": f"locks-{secrets.token_hex(6)}", "OPTIONS": options_of(kind, request)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture
def backend(kind: str, request: pytest.FixtureRequest, settings: Settings) -> Iterator[Backend]:
    """The back end behind `lock(...)` in this test."""
    settings.DREF_BACKEND = backend_setting(kind, request)
    yield backends.get_backend()
    backends.reset()


@pytest.fixture
def redis_backend(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Backend]:
    settings.DREF_BACKEND = backend_setting("redis", request)
    yield backends.get_backend()
    backends.reset()


@pytest.fixture
def scripted(settings: Settings) -> Iterator[ScriptedBackend]:
    settings.DREF_BACKEND = "tests.locks.scripted.ScriptedBackend"
    yield cast("ScriptedBackend", backends.get_backend())
    backends.reset()


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    """Runs a function in a thread of its own; the test ends after all of them have."""
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        yield pool.submit
