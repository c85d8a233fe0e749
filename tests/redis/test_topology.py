"""Which node has which slot, as a cluster's nodes tell it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis

from dref_django.backends.base import Params
from dref_django.backends.delivery import NotSent
from dref_django.backends.redis.cluster import Topology, parse_slots
from dref_django.backends.redis.options import read_options
from dref_django.backends.redis.scripts import pack
from dref_django.exceptions import DRefError
from tests.processes import wait_until
from tests.servers import HasUrl, RedisCluster

ASKED = ("asked", 1)


def slots(*parts: tuple[int, int, int]) -> bytes:
    """The answer to CLUSTER SLOTS: from slot, to slot, port of the owner."""
    lines = [b"*%d\r\n" % len(parts)]
    for first, last, port in parts:
        lines.append(b"*3\r\n:%d\r\n:%d\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n" % (first, last, port))
    return b"".join(lines)


def whole_map(port: int) -> bytes:
    return slots((0, RedisCluster.SLOTS - 1, port))


class Node:
    """Answers `answer`; without one it hangs."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while request := connection.recv(1000):
                    connection.sendall(b"+OK\r\n" * request.count(b"SETINFO"))  # redis-py introduces itself
                    if b"SLOTS" in request:
                        self.asked.append(request)
                        connection.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def node() -> Iterator[Callable[[bytes], Node]]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(closing(Node(answer)))


def topology_of(place: HasUrl, timeout: float = 5) -> Topology:
    options = {"URL": place.url, "CLUSTER": True}
    return Topology(read_options(Params(options=options)).server, timeout)


def test_answer_is_read() -> None:
    answer: list[Any] = [
        [0, 1, [b"one", 7, b"id", []], [b"replica", 8, b"id", []]],
        [2, 2, [b"", 9, b"id"]],
        [3, 3, [None, 10, b"id"]],
        [4, 4, [b"?", 11, b"id"], [b"replica", 12, b"id"]],
        [5, 5],
    ]
    owners, known = parse_slots(answer, ASKED)
    assert owners == {0: ("one", 7), 1: ("one", 7), 2: ("asked", 9), 3: ("asked", 10)}
    assert known == {("one", 7), ("replica", 8), ("asked", 9), ("asked", 10), ("replica", 12)}


def test_fullest_answer_counts_whoever_is_asked_first(node: Callable[[bytes], Node]) -> None:
    whole = node(b"")
    whole.answer = whole_map(whole.port)
    part = node(slots((0, 5, whole.port)))
    topology = topology_of(part)
    topology.load()
    with pytest.raises(NotSent, match="no node has slot 12182"):
        topology.node_of(b"foo")
    assert not topology.ready  # a node that has it may be known soon
    for _ in range(10):  # asked in any order
        topology.mark_stale()
        topology.load()
        assert topology.node_of(b"foo") == ("127.0.0.1", whole.port)
    assert topology.primaries() == [("127.0.0.1", whole.port)]


def test_map_is_asked_for_only_when_it_may_be_wrong(node: Callable[[bytes], Node]) -> None:
    only = node(whole_map(1))
    topology = topology_of(only)
    for _ in range(3):
        topology.load()
    assert only.asked == [pack(b"CLUSTER", b"SLOTS")]


def test_node_that_hangs_leaves_time_for_the_others(node: Callable[[bytes], Node]) -> None:
    hanging = node(b"")
    well = node(whole_map(hanging.port))
    topology = topology_of(well, timeout=0.4)
    topology.load()
    for _ in range(10):
        topology.mark_stale()
        topology.load()
    assert hanging.asked


def test_nobody_answers(node: Callable[[bytes], Node]) -> None:
    hanging = node(b"")
    topology = topology_of(hanging, timeout=0.4)
    with pytest.raises(NotSent, match=f"127.0.0.1:{hanging.port}/0: no node tells"):
        topology.load()
    assert not topology.ready


def test_server_that_is_no_cluster_says_so(redis_server: HasUrl) -> None:
    with pytest.raises(DRefError, match="cluster support disabled"):
        topology_of(redis_server).load()


def test_real_cluster_tells_all_and_keeps_no_connection(redis_cluster: RedisCluster) -> None:
    ports = [node.port for node in redis_cluster.nodes]
    topology = topology_of(redis_cluster)
    with redis.Redis(port=ports[0], decode_responses=True) as client:
        before = client.info("clients")["connected_clients"]
        topology.load()
        wait_until(lambda: client.info("clients")["connected_clients"] <= before, "the connection to be closed", 5)
    assert {port for _, port in topology.primaries()} == set(ports)
    assert {topology.node_of(b"%d" % number)[1] for number in range(100)} == set(ports)
