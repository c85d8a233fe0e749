"""The back ends that tests run on, each on a key prefix of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest

from dref_django import backends, conf
from dref_django.backends import Backend, Params

KINDS: Final = ("memory", "raft", "redis", "postgres")
SERVED: Final = ("redis", "postgres", "nodes")
"""Those that several processes share. "nodes" is a Raft cluster of three processes, and who uses it is its client."""
SHORT_NAMES: Final = {"cluster": "redis", "nodes": "raft"}
"""Of the back ends of those kinds that are not called like them."""


def options_of(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """OPTIONS with which a back end finds the test run's server, which runs from now on."""
    match kind:
        case "redis":
            return {"URL": request.getfixturevalue("redis_server").url}
        case "cluster":
            return {"URL": request.getfixturevalue("redis_cluster").url, "CLUSTER": True}
        case "postgres":
            return {"DATABASE_ALIAS": request.getfixturevalue("postgres_tables")}
        case "raft":
            return {"DATA_DIR": request.getfixturevalue("raft_node")}
        case "nodes":
            options: dict[str, Any] = request.getfixturevalue("raft_cluster").options()
            return options
        case _:
            return {}


def make(
    kind: str,
    request: pytest.FixtureRequest,
    *,
    prefix: str = "",
    alias: str = "default",
    options: Mapping[str, Any] | None = None,
    **params: Any,
) -> Backend:
    """A back end of its own unless it shares the `prefix`; the caller closes it. `options` go beyond the server's."""
    name = SHORT_NAMES.get(kind, kind)
    given = Params(
        alias,
        prefix or f"test-{secrets.token_hex(8)}",
        options={**options_of(kind, request), **(options or {})},
        **params,
    )
    return backends.make_backend(conf.Configuration(conf.SHORT_NAMES[name], given))


@contextmanager
def installed(backend: Backend, alias: str = "default") -> Iterator[Backend]:
    """The back end in the place of an alias, closed at the end."""
    before = backends.install(alias, backend)
    try:
        yield backend
    finally:
        backends.install(alias, before)
        backend.close()
