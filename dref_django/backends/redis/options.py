"""`OPTIONS` of the Redis back end: checked, and turned into what a connection needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis.connection
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from dref_django.backends.base import Params

DEFAULT_MAX_CONNECTIONS = 100
PARSE_URL: Any = redis.connection.parse_url  # without types
KNOWN = (
    "URL",
    "CACHE_ALIAS",
    "DB",
    "CLUSTER",
    "SENTINELS",
    "SENTINEL_KWARGS",
    "MAX_CONNECTIONS",
    "WAIT_REPLICAS",
    "CLIENT_KWARGS",
)
# What the back end decides itself: timeouts, and that nothing is ever sent twice.
OWN_CONNECTION_ARGUMENTS = frozenset(
    (
        "url",
        "parser_class",
        "protocol",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "max_connections",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_timeout",
        "socket_connect_timeout",
        "timeout",
    )
)


@dataclass(frozen=True)
class Server:
    """Where Redis is and how to introduce oneself. `arguments` are redis-py's for one connection."""

    arguments: Mapping[str, Any]
    tls: bool = False
    cluster: bool = False
    service: str = ""
    """With Sentinel: the name of the primary."""
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def database(self) -> int:
        return int(self.arguments.get("db") or 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the URL."""
        return self.arguments.get("host", "localhost"), int(self.arguments.get("port", 6379))

    @property
    def where(self) -> str:
        """For messages; never with a password."""
        if self.sentinels:
            return f"the Redis primary {self.service!r} of the Sentinels {self.sentinels}"
        kind = "Redis Cluster" if self.cluster else "Redis"
        if path := self.arguments.get("path"):
            return f"{kind} at unix://{path}?db={self.database}"
        scheme = "rediss" if self.tls else "redis"
        host, port = self.address
        return f"{kind} at {scheme}://{host}:{port}/{self.database}"


@dataclass(frozen=True)
class Options:
    server: Server
    max_connections: int
    wait_replicas: int
    cache_alias: str | None


def read_options(params: Params) -> Options:
    """Raises ImproperlyConfigured with a sentence that says what to change."""
    given = params.options
    where = f"DREF_BACKENDS[{params.alias!r}]['OPTIONS']"
    if unknown := sorted(set(given) - set(KNOWN)):
        raise ImproperlyConfigured(f"{where} has no option {unknown[0]!r} on redis; there are {', '.join(KNOWN)}.")
    alias = None if given.get("URL") else given.get("CACHE_ALIAS", "default")
    server = _from_url(given, where) if alias is None else _from_cache(alias, where)
    server = _adjusted(server, given, where)
    if server.cluster and (given.get("SENTINELS") or "path" in server.arguments or server.database):
        raise ImproperlyConfigured(f"{where}: a cluster has no Sentinels, no unix socket and only database 0.")
    wait = _number(given, "WAIT_REPLICAS", 0, where)
    if wait and server.cluster:
        raise ImproperlyConfigured(
            f"{where}: WAIT_REPLICAS works on one primary (also with Sentinel), not on a cluster."
        )
    return Options(server, _number(given, "MAX_CONNECTIONS", DEFAULT_MAX_CONNECTIONS, where), wait, alias)


def _number(given: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = given.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < min(default, 1):
        raise ImproperlyConfigured(f"{where}[{name!r}] is a whole number from {min(default, 1)}, not {value!r}.")
    return value


def _from_url(given: Mapping[str, Any], where: str) -> Server:
    if "CACHE_ALIAS" in given:
        raise ImproperlyConfigured(f"{where} has both URL and CACHE_ALIAS; give one.")
    arguments, tls = _parsed(given["URL"], where)
    cluster = bool(given.get("CLUSTER", False))
    sentinels = given.get("SENTINELS", ())
    return _with_sentinels(arguments, tls, cluster, sentinels, given.get("SENTINEL_KWARGS"), where)


def _from_cache(alias: str, where: str) -> Server:
    try:
        cache: Mapping[str, Any] = settings.CACHES[alias]
    except KeyError:
        raise ImproperlyConfigured(
            f"{where}: CACHES has no {alias!r}. Set URL, or CACHE_ALIAS to a django-redis one."
        ) from None
    if not cache["BACKEND"].startswith("django_redis."):
        raise ImproperlyConfigured(
            f"{where}: CACHES[{alias!r}] is {cache['BACKEND']}, no django-redis cache. "
            "Set CACHE_ALIAS to a django-redis cache, or URL (redis://host:6379/1)."
        )
    try:
        from django_redis.pool import get_connection_factory
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f"{where} takes its connection from the cache {alias!r}, which needs the package django-redis: "
            "pip install 'dref-django[redis]'."
        ) from error
    options: dict[str, Any] = dict(cache.get("OPTIONS") or {})
    location = cache.get("LOCATION", "")
    url = location.split(",")[0] if isinstance(location, str) else location[0]  # the first one is the primary
    factory = get_connection_factory(options=options)  # asked for parameters only: its pool is the cache's
    parameters = dict(factory.make_connection_params(url))
    parsed, tls = _parsed(parameters.get("url", url), where)
    arguments = {**parameters, **factory.pool_cls_kwargs, **parsed}
    return _with_sentinels(arguments, tls, False, options.get("SENTINELS", ()), options.get("SENTINEL_KWARGS"), where)


def _with_sentinels(
    arguments: dict[str, Any], tls: bool, cluster: bool, sentinels: Any, sentinel_arguments: Any, where: str
) -> Server:
    arguments = {name: value for name, value in arguments.items() if name not in OWN_CONNECTION_ARGUMENTS}
    tls = bool(arguments.pop("ssl", tls))
    arguments.pop("is_master", None)
    if not sentinels:
        return Server(arguments, tls, cluster)
    try:
        addresses = tuple((str(host), int(port)) for host, port in sentinels)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(f"{where}: SENTINELS is a list of (host, port), not {sentinels!r}.") from None
    service = arguments.pop("host", "")
    arguments.pop("port", None)
    return Server(arguments, tls, False, service, addresses, dict(sentinel_arguments or {}))


def _parsed(url: str, where: str) -> tuple[dict[str, Any], bool]:
    try:
        arguments = dict(PARSE_URL(url))
    except (ValueError, AttributeError, TypeError) as error:
        raise ImproperlyConfigured(
            f"{where}: {url!r} is no Redis URL ({error}). Write redis://host:6379/1, rediss://... or unix:///path?db=1."
        ) from None
    connection_class = arguments.pop("connection_class", None)
    return arguments, connection_class is redis.connection.SSLConnection


def _adjusted(server: Server, given: Mapping[str, Any], where: str) -> Server:
    extra = dict(given.get("CLIENT_KWARGS", {}))
    if mine := sorted(OWN_CONNECTION_ARGUMENTS & set(extra)):
        raise ImproperlyConfigured(
            f"{where}['CLIENT_KWARGS'] may not set {mine[0]!r}: the back end decides it (TIMEOUT)."
        )
    arguments = {**server.arguments, **extra}
    if "DB" in given:
        arguments["db"] = _number(given, "DB", 0, where)
    values = {**vars(server), "arguments": arguments}
    return Server(**values)
