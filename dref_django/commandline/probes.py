"""What `manage.py dref doctor` tries out, beyond the system checks. Leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from typing import Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning  # noqa: A004 (Django's own names)

from dref_django import backends
from dref_django.backends import Backend
from dref_django.backends.memory import MemoryBackend
from dref_django.exceptions import DRefError, Unavailable
from dref_django.naming import grouped
from dref_django.protocol import Acquire, Delete, Inspect, Release, Write
from dref_django.streams import Stream

GROUP: Final = "dref.doctor"
MEMORY_IN_MANY: Final = "dref.W070"
CLOCK_SKEW: Final = "dref.W071"
DEAF: Final = "dref.E072"
SLOW: Final = "dref.W073"
FAILED: Final = "dref.E074"
MOST_SKEW: Final = 1.0
"""Seconds by which the clocks of this host and of the server may differ."""
SLOW_AFTER: Final = 0.1
"""Seconds of one exchange with the server."""
PATIENCE: Final = 5.0
"""Seconds that a change may take to be heard."""
TTL: Final = 10_000_000
"""Microseconds after which the probes vanish though this process be killed."""


def examine(alias: str) -> Iterator[CheckMessage]:
    """Takes a lease, and writes a value that it listens for. Nothing is said of what is well."""
    backend = backends.get_backend(alias)
    where = f"DREF_BACKENDS[{alias!r}]"
    if isinstance(backend, MemoryBackend):
        yield from _memory(where)
        return
    try:
        yield from _clock(backend, where)
        yield from _listener(alias, backend, where)
    except DRefError as error:
        message = str(error) if where in str(error) else f"{where}: {error}"
        yield Error(message, hint="Does the user of the settings have all its rights?", id=FAILED)


def _memory(where: str) -> Iterator[CheckMessage]:
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "1"):
        yield Warning(
            f"{where} is memory, and WEB_CONCURRENCY says that {os.environ['WEB_CONCURRENCY']} processes serve: each "
            "has refs and locks of its own.",
            hint='Set DREF_BACKEND to "redis", "postgres" or "raft", or serve with one process.',
            id=MEMORY_IN_MANY,
        )
    elif not settings.DEBUG:
        yield Info(
            f"{where} is memory: this process sees nothing of what the serving process holds.",
            hint="Fine for a single process that needs no management commands.",
            id=MEMORY_IN_MANY,
        )


def _clock(backend: Backend, where: str) -> Iterator[CheckMessage]:
    """The server stamps a lease with its time; that moment lies between our sending and our hearing of it."""
    lease, owner = f"lock:{GROUP}.{secrets.token_hex(8)}", f"{backend.node_id()}/doctor"
    before, started = time.time(), time.monotonic()
    try:
        backend.execute([Acquire(lease, owner, TTL)])
        after, took = time.time(), time.monotonic() - started
        (inspected,) = backend.execute([Inspect(lease)])
    finally:
        backend.execute([Release(lease, owner)])
    if inspected.lease is not None:
        server = inspected.lease.since / 1e6
        skew = server - after if server > after else server - before if server < before else 0.0
        if abs(skew) > MOST_SKEW:
            yield Warning(
                f"{where}: the server's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's.",
                hint="Let both keep time by NTP. Leases do not depend on it; times on pages and in logs do.",
                id=CLOCK_SKEW,
            )
    if took > SLOW_AFTER:
        message = f"{where}: taking a lock took {took * 1000:.0f} ms."
        yield Warning(message, hint="Is the server far away, or busy? Connecting is part of it.", id=SLOW)


def _listener(alias: str, backend: Backend, where: str) -> Iterator[CheckMessage]:
    """Writing was tried before this: what does not work now is listening."""
    name, mark = grouped(secrets.token_hex(8), GROUP), secrets.randbits(50)
    trouble = ""
    try:
        with Stream(alias, lambda _, data: data, name=name, timeout=PATIENCE) as stream:
            backend.execute([Write(name, mark, ttl=TTL, op=os.urandom(8))])
            try:
                heard = any(change.value == mark for change in stream if not change.deleted or change.version)
            finally:
                backend.execute([Delete(name, op=os.urandom(8))])
    except Unavailable as error:
        heard, trouble = False, f" {error}"
    if not heard:
        yield Error(
            f"{where}: a change was not heard of within {PATIENCE:g} s.{trouble}",
            hint="A pooler in transaction mode swallows LISTEN: set OPTIONS['LISTEN_DSN']. On Redis, may the user "
            "SUBSCRIBE to these channels?",
            id=DEAF,
        )
