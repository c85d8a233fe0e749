"""What `manage.py check --deploy` says about the Redis back end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import RedisError

from dref_django.backends.base import Params
from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.exceptions import DRefError

from .conversation import parse_info
from .options import Server, read_options

if TYPE_CHECKING:
    from .backend import RedisBackend

UNREACHABLE = "dref.E020"
SHARED_WITH_CACHE = "dref.W021"
EVICTING = "dref.W022"
NO_APPEND_ONLY_FILE = "dref.I023"
TOO_OLD = "dref.E024"
OLDEST = (6, 2)


def check(backend: RedisBackend) -> list[CheckMessage]:
    return [*_shared_with_cache(backend), *_server(backend)]


def _shared_with_cache(backend: RedisBackend) -> Iterator[CheckMessage]:
    mine = _place(backend.server)
    for alias, cache in settings.CACHES.items():
        place = _place_of_cache(alias, cache)
        if place is not None and place == mine:
            yield Warning(
                f"The refs of DREF_BACKENDS[{backend.params.alias!r}] share a database with the cache {alias!r}, "
                "whose clear() empties the whole database (FLUSHDB).",
                hint="Give the refs a database of their own: OPTIONS = {'DB': 1}, or a URL that ends with /1. "
                "Where there is only one database, use a server of their own.",
                id=SHARED_WITH_CACHE,
            )


def _place_of_cache(alias: str, cache: Mapping[str, Any]) -> object:
    backend = cache.get("BACKEND", "")
    try:
        if backend.startswith("django_redis."):
            return _place(read_options(Params(options={"CACHE_ALIAS": alias})).server)
        if backend.startswith("django.core.cache.backends.redis."):
            location = cache["LOCATION"]
            url = location.split(",")[0] if isinstance(location, str) else location[0]
            db = cache.get("OPTIONS", {}).get("db")
            options = {"URL": url} if db is None else {"URL": url, "DB": int(db)}
            return _place(read_options(Params(options=options)).server)
    except (ImproperlyConfigured, KeyError, ValueError):
        return None  # the cache's own problem
    return None


def _place(server: Server) -> object:
    arguments = server.arguments
    if server.sentinels:
        return frozenset(server.sentinels), server.service, server.database
    if path := arguments.get("path"):
        return path, server.database
    host = arguments.get("host", "localhost")
    return "localhost" if host in ("127.0.0.1", "::1") else host, arguments.get("port", 6379), server.database


def _server(backend: RedisBackend) -> Iterator[CheckMessage]:
    where = backend.server.where
    try:
        answers = backend.hold(
            backend.talk.information((b"INFO",), (b"CONFIG", b"GET", b"maxmemory-policy")), backend.params.timeout
        )
        backend.hold(backend.talk.layout(), backend.params.timeout)
        if isinstance(answers[0], RedisError):
            raise answers[0]
    except (NotSent, ReplyLost, DRefError, RedisError) as error:
        yield Error(
            f"{where} cannot be used: {error}",
            hint="Start the server, or correct OPTIONS of the back end (URL, or CACHE_ALIAS of a django-redis cache).",
            id=UNREACHABLE,
        )
        return
    info = parse_info(answers[0])
    version = info.get("redis_version", "")
    if version and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield Error(f"{where} is Redis {version}; 6.2 or newer is needed.", id=TOO_OLD)
    policy = info.get("maxmemory_policy") or _configured(answers[1])
    if policy and policy != "noeviction":
        yield Warning(
            f"{where} evicts keys when memory is short (maxmemory-policy {policy}): refs and locks may vanish.",
            hint="Use a server with maxmemory-policy noeviction; a cache and refs want different servers.",
            id=EVICTING,
        )
    if info.get("aof_enabled") == "0":
        yield Info(
            f"{where} keeps no append-only file: a crash takes refs back to the last snapshot, or loses all of them.",
            hint="appendonly yes; with appendfsync always an acknowledged write survives a crash.",
            id=NO_APPEND_ONLY_FILE,
        )


def _configured(answer: Any) -> str:
    """Managed servers often forbid CONFIG; INFO tells the same on most."""
    return "" if isinstance(answer, RedisError) or len(answer) < 2 else bytes(answer[1]).decode()
