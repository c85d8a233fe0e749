"""Processes that hold locks on one back end; each test has an empty namespace of its own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from dref_django import backends
from tests.kinds import SERVED, options_of
from tests.lock_faults.holders import Holder
from tests.proxy import TcpProxy
from tests.servers import HasUrl, RedisServer


class Site:
    """Where the processes of one test and this process find the same locks."""

    def __init__(self, stack: ExitStack, setting: dict[str, Any], environment: dict[str, str]) -> None:
        self._stack = stack
        self.setting = setting
        self.environment = environment

    def holder(self, *, clock_step: float = 0, **options: Any) -> Holder:
        """Another process, ready. `options` override those of the back end."""
        setting = {**self.setting, "OPTIONS": {**self.setting["OPTIONS"], **options}}
        environment = {
            **self.environment,
            "DJANGO_SETTINGS_MODULE": "tests.lock_faults.settings",
            "DREF_LOCK_BACKEND": json.dumps(setting),
            "DREF_CLOCK_STEP": str(clock_step),
        }
        holder = self._stack.enter_context(closing(Holder(environment)))
        holder.expect("ready")
        return holder


def _setting(kind: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"BACKEND": kind, "KEY_PREFIX": f"locks-{secrets.token_hex(6)}", "OPTIONS": options, **more}


@pytest.fixture(params=SERVED)
def site(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Site]:
    """On the servers that the test run shares."""
    options = options_of(request.param, request)
    settings.DREF_BACKEND = setting = _setting(request.param, options)
    environment: dict[str, str] = {}
    if request.param == "postgres":
        database = connections.settings[options["DATABASE_ALIAS"]]
        url = f"postgresql://postgres@{database['HOST']}:{database['PORT']}/{database['NAME']}"
        setting = {**setting, "OPTIONS": {"DATABASE_ALIAS": "pg"}}
        environment["DREF_TEST_POSTGRES_URL"] = url
    with ExitStack() as stack:
        yield Site(stack, setting, environment)
        backends.reset()


@pytest.fixture
def redis_site(redis_server: HasUrl, settings: Settings) -> Iterator[Site]:
    settings.DREF_BACKEND = setting = _setting("redis", {"URL": redis_server.url})
    with ExitStack() as stack:
        yield Site(stack, setting, {})
        backends.reset()


@pytest.fixture
def own_redis(settings: Settings) -> Iterator[tuple[RedisServer, Site]]:
    """A server that the test may stop and kill; what it acknowledged survives."""
    with RedisServer(appendonly=True, fsync="always") as server, ExitStack() as stack:
        settings.DREF_BACKEND = setting = _setting("redis", {"URL": server.url})
        yield server, Site(stack, setting, {})
        backends.reset()


@pytest.fixture
def redis_proxy(redis_server: HasUrl) -> Iterator[TcpProxy]:
    parts = urlsplit(redis_server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    with TcpProxy(parts.hostname, parts.port) as proxy:
        yield proxy


