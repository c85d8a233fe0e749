"""Which node of a Redis Cluster holds a key. The map of slots is redis-py's; the exchanges are our own.

redis-py's `RedisCluster` finds the nodes and keeps the map, but its calls do not tell a command that never left from
one whose reply was lost. So a command goes out on a pool of ours to the node that the map names.
"""

from __future__ import annotations

import threading
from typing import Any

import redis.cluster
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from dref_django.backends.delivery import NotSent

from . import outcome
from .connections import connection_arguments
from .options import Server

NODE_SHARE = 0.25
"""Of the time limit, what one node gets to tell the slots: the first one asked may be the one that hangs."""


class Topology:
    """The slots of one cluster. Thread-safe; blocks while it asks the nodes, so event loops call it in a thread."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None  # redis-py's; only half of it is typed
        self._stale = False

    @property
    def ready(self) -> bool:
        return self._client is not None and not self._stale

    def mark_stale(self) -> None:
        """A node moved or cannot be reached: the next `load` asks again."""
        self._stale = True

    def load(self) -> None:
        """Asks the nodes for the map unless it is known. Raises NotSent when none of them answers."""
        with self._lock:
            if self.ready:
                return
            try:
                if self._client is None:
                    self._client = redis.cluster.RedisCluster(**self._arguments())
                else:
                    self._client.nodes_manager.initialize()
            except (RedisError, RedisClusterException, OSError) as error:
                raise outcome.before_sending(error, self._server.where) from error
            self._stale = False

    def _arguments(self) -> dict[str, Any]:
        patience = self._timeout * NODE_SHARE
        arguments = connection_arguments(self._server, None, patience)
        arguments.pop("db", None)
        return {**arguments, "ssl": self._server.tls, "socket_timeout": patience, "retry": Retry(NoBackoff(), 0)}

    def node_of(self, key: bytes) -> tuple[str, int]:
        client = self._loaded()
        try:
            node = client.nodes_manager.get_node_from_slot(client.keyslot(key))
        except (RedisError, RedisClusterException) as error:
            self.mark_stale()
            raise NotSent(f"{self._server.where}: {error}") from error
        return str(node.host), int(node.port)

    def primaries(self) -> list[tuple[str, int]]:
        return sorted((str(node.host), int(node.port)) for node in self._loaded().get_primaries())

    def _loaded(self) -> Any:
        client = self._client
        if client is None:
            raise NotSent(f"{self._server.where}: its nodes are not known yet")
        return client

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            if client is not None:
                client.close()
