"""What operators want to know of the Redis server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from dref_django.backends.delivery import NotSent, ReplyLost

from .conversation import parse_info

if TYPE_CHECKING:
    from .backend import RedisBackend

_SHOWN: Final = {
    "redis_version": "version",
    "role": "role",
    "connected_slaves": "replicas",
    "maxmemory_policy": "memory policy",
    "used_memory_human": "memory in use",
    "maxmemory_human": "memory limit",
    "evicted_keys": "evicted keys",
    "aof_enabled": "append-only file",
    "connected_clients": "clients",
    "uptime_in_seconds": "uptime in seconds",
}


def facts(backend: RedisBackend) -> dict[str, Any]:
    """Of the first primary."""
    timeout = backend.params.timeout
    try:
        backend.hold(backend.talk.layout(), timeout)
        (answer,) = backend.hold(backend.talk.information((b"INFO",)), timeout)
    except (NotSent, ReplyLost) as error:
        raise backend.unreachable(backend.server.where, error) from error
    found: dict[str, Any] = {"server": backend.server.where}
    if isinstance(answer, RedisError):
        return found | {"INFO": f"refused: {answer}"}
    info = parse_info(answer)
    return found | {name: info[key] for key, name in _SHOWN.items() if key in info}
