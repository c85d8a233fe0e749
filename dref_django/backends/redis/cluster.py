"""Which node of a Redis Cluster holds a key: the map of slots, as one node after the other is asked until one answers.

redis-py's `RedisCluster` knows the map, too, but its calls do not tell a command that never left from one whose reply
was lost, and its connections outlive a client whose making failed. https://redis.io/docs/latest/commands/cluster-slots/
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from typing import Any, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from dref_django.backends.delivery import NotSent
from dref_django.exceptions import DRefError

from . import outcome
from .connections import ERRORS, open_connection
from .options import Server
from .scripts import pack
from .wire import Wire

NODE_SHARE = 0.25
"""Of the time limit, what one node gets to tell the slots: the first one asked may be the one that hangs."""
ASK = pack(b"CLUSTER", b"SLOTS")
UNKNOWN_HOST = b"?"
"""What a node answers for one whose name it has not been told yet."""

Node: TypeAlias = tuple[str, int]


class Topology:
    """The slots of one cluster. Thread-safe; blocks while it asks the nodes, so event loops call it in a thread."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._patience = timeout * NODE_SHARE
        self._lock = threading.Lock()
        self._owners: dict[int, Node] = {}  # replaced, never changed
        self._known: set[Node] = set()  # replicas, too
        self._stale = True

    @property
    def ready(self) -> bool:
        return not self._stale

    def mark_stale(self) -> None:
        """A node moved or cannot be reached: the next `load` asks again."""
        self._stale = True

    def load(self) -> None:
        """Asks the nodes for the map unless it is known. Raises `NotSent` when none of them tells it."""
        with self._lock:
            if self._stale:
                self._owners, self._known = self._ask_all()
                self._stale = False

    def _ask_all(self) -> tuple[dict[int, Node], set[Node]]:
        """A node that was cut off or has just joined may know but a part: the fullest answer counts."""
        owners: dict[int, Node] = {}
        known: set[Node] = set()
        trouble: Exception | None = None
        for node in self._in_any_order():
            try:
                told, met = parse_slots(self._ask(node), node)
            except (NotSent, DRefError) as error:
                trouble = trouble if isinstance(trouble, DRefError) else error
                continue
            known |= met
            if len(told) > len(owners):
                owners = told
            if len(owners) == REDIS_CLUSTER_HASH_SLOTS:
                break
        if owners:
            return owners, known
        if isinstance(trouble, DRefError):
            raise trouble
        raise NotSent(f"{self._server.where}: no node tells who has which slots ({trouble})") from trouble

    def _in_any_order(self) -> list[Node]:
        """Not all processes ask the same node first."""
        nodes = list(self._known | {self._server.address})
        random.shuffle(nodes)
        return nodes

    def _ask(self, node: Node) -> Any:
        wire = Wire(open_connection(self._server, node, self._patience), self._patience)
        try:
            (answer,) = wire.exchange(ASK, 1, self._patience)
        except ERRORS as error:
            raise outcome.before_sending(error, self._server.where) from error  # it asks only: nothing can be lost
        finally:
            wire.close()
        if isinstance(answer, RedisError):
            raise outcome.refused(answer, self._server.where) from answer
        return answer

    def node_of(self, key: bytes) -> Node:
        slot = key_slot(key)
        node = self._owners.get(slot)
        if node is None:
            self.mark_stale()
            raise NotSent(f"{self._server.where}: no node has slot {slot}")
        return node

    def primaries(self) -> list[Node]:
        return sorted(set(self._owners.values()))


def parse_slots(answer: Iterable[Any], asked: Node) -> tuple[dict[int, Node], set[Node]]:
    """Of the answer to CLUSTER SLOTS, the owner of each slot, and all nodes. No host means the one that was asked."""
    owners: dict[int, Node] = {}
    known: set[Node] = set()
    for first, last, *nodes in answer:
        met = [(host.decode() if host else asked[0], port) for host, port, *_ in nodes if host != UNKNOWN_HOST]
        known.update(met)
        if nodes and nodes[0][0] != UNKNOWN_HOST:
            owners.update(dict.fromkeys(range(first, last + 1), met[0]))
    return owners, known
