"""A Redis back end with a key prefix of its own, closed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import redis

from dref_django.backends.base import Params
from dref_django.backends.redis import RedisBackend
from tests.servers import HasUrl


def command(server: HasUrl, *parts: str | bytes) -> Any:
    """What a server answers to one command of a plain client."""
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*parts)


MakeBackend: TypeAlias = Callable[..., RedisBackend]


@pytest.fixture
def make_backend(redis_server: HasUrl) -> Iterator[MakeBackend]:
    """Makes back ends on the shared server; keywords are options, but for those of Params."""
    made: list[RedisBackend] = []
    shared_prefix = f"test-{secrets.token_hex(6)}"

    def make(
        *, key_prefix: str = shared_prefix, timeout: float = 5.0, heartbeat: float = 15.0, **options: Any
    ) -> RedisBackend:
        if "CACHE_ALIAS" not in options:
            options.setdefault("URL", redis_server.url)
        params = Params(key_prefix=key_prefix, timeout=timeout, heartbeat=heartbeat, options=options)
        made.append(RedisBackend(params))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend(make_backend: MakeBackend) -> RedisBackend:
    return make_backend()
