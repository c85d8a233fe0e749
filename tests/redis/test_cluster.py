"""Redis Cluster: slots, groups, moved slots, lost nodes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from dref_django.backends.base import Params
from dref_django.backends.redis import RedisBackend
from dref_django.exceptions import DRefError, Unavailable
from dref_django.protocol import Acquire, Add, Check, Command, Inspect, Read, Reply, Scan, ScanLeases, Status, Write
from tests.listening import Listening
from tests.processes import wait_until
from tests.servers import RedisCluster, RedisClusterNode

NAMES = [f"n{number}" for number in range(50)]


@pytest.fixture
def backend(redis_cluster: RedisCluster) -> Iterator[RedisBackend]:
    prefix = f"test-{secrets.token_hex(6)}"
    made = RedisBackend(Params(key_prefix=prefix, options={"URL": redis_cluster.url, "CLUSTER": True}))
    yield made
    made.close()


def ask(node: RedisClusterNode, *parts: Any) -> Any:
    with redis.Redis(port=node.port, decode_responses=True) as client:
        return client.execute_command(*parts)


def test_step_over_several_slots_is_refused_with_the_way_out(backend: RedisBackend) -> None:
    steps: list[list[Command]] = [[Write("a", b"x"), Write("b", b"x")], [Check("a", 0), Add("b", 1)]]
    for step in steps:
        with pytest.raises(DRefError, match="group="):
            backend.execute(step)
    assert [reply.existed for reply in backend.execute([Read("a"), Read("b")])] == [False, False]


def test_group_is_changed_in_one_step(backend: RedisBackend) -> None:
    a, b = "cart\x1fa", "cart\x1fb"
    assert backend.slot(a) == backend.slot(b) == backend.slot("cart") != backend.slot("a")
    (first, second) = backend.execute([Add(a, 1), Add(b, 2)])
    assert (first.data, second.data) == (1, 2)
    refused = backend.execute([Add(a, 1), Check(b, 7)])
    assert [reply.status for reply in refused] == [Status.ABORTED, Status.CONFLICT]
    assert backend.execute([Read(a)])[0].data == 1


async def test_reads_and_leases_over_all_nodes_are_answered_in_order(
    backend: RedisBackend, redis_cluster: RedisCluster
) -> None:
    for number, name in enumerate(NAMES):
        backend.execute([Add(name, number)])
    holders = {backend.talk.keys.entry(name) for name in NAMES}
    assert len({slot * len(redis_cluster.nodes) // redis_cluster.SLOTS for slot in map(key_slot, holders)}) == 3
    reads = [Read(name) for name in NAMES]
    assert [reply.data for reply in backend.execute(reads)] == list(range(len(NAMES)))
    assert await backend.aexecute(reads) == backend.execute(reads)
    assert all(reply.token for reply in backend.execute([Acquire(name, "n/1", 10**9) for name in NAMES]))
    infos = [reply.lease for reply in await backend.aexecute([Inspect(name) for name in NAMES])]
    assert [info and info.name for info in infos] == NAMES


def test_scan_goes_over_all_nodes_in_order(backend: RedisBackend) -> None:
    for name in (*NAMES, "other", "n1\x1fa", "n1\x1fb{}"):
        backend.execute([Write(name, b"xyz")])
        backend.execute([Acquire(name, "n/1", 10**9)])
    wanted = sorted(name for name in (*NAMES, "n1\x1fa", "n1\x1fb{}") if name.startswith("n1"))
    for command in (Scan, ScanLeases):
        names, after = [], ""
        while True:
            (reply,) = backend.execute([command("n1", after, 4)])
            names += [row.name for row in reply.page]
            after = reply.cursor
            if not after:
                break
        assert names == wanted
    (page,) = backend.execute([Scan("n1\x1f", values=True)])
    assert [(row.name, row.data) for row in page.page] == [("n1\x1fa", b"xyz"), ("n1\x1fb{}", b"xyz")]  # type: ignore[union-attr]


class Migration:
    """A slot on its way from the node that has it to another one."""

    def __init__(self, cluster: RedisCluster, slot: int) -> None:
        self.slot = slot
        owner = next(index for index, node in enumerate(cluster.nodes) if self._has(node))
        self.source, self.target = cluster.nodes[owner], cluster.nodes[(owner + 1) % len(cluster.nodes)]
        self.nodes = cluster.nodes

    def _has(self, node: RedisClusterNode) -> bool:
        mine = next(line for line in ask(node, "CLUSTER", "NODES").splitlines() if "myself" in line)
        ranges = (part.partition("-") for part in mine.split()[8:] if not part.startswith("["))
        return any(int(first) <= self.slot <= int(last or first) for first, _, last in ranges)

    def start(self) -> None:
        ask(self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", ask(self.source, "CLUSTER", "MYID"))
        ask(self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", ask(self.target, "CLUSTER", "MYID"))

    def move_keys(self) -> None:
        keys = ask(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, 100)
        if keys:
            ask(self.source, "MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys)

    def finish(self) -> None:
        """Until all know in which epoch: a node that has older news gives no newer number to the slot's way back, and
        then drops its keys when the news comes."""
        for node in (self.target, self.source, *self.nodes):
            ask(node, "CLUSTER", "SETSLOT", self.slot, "NODE", ask(self.target, "CLUSTER", "MYID"))
        wait_until(lambda: len({self._epoch(node) for node in self.nodes}) == 1, "one epoch of the slot's node", 20)

    def _epoch(self, node: RedisClusterNode) -> str:
        """Of the target, as that node knows it."""
        me = ask(self.target, "CLUSTER", "MYID")
        (epoch,) = (line.split()[6] for line in ask(node, "CLUSTER", "NODES").splitlines() if line.startswith(me))
        return str(epoch)

    def undo(self) -> None:
        back = Migration.__new__(Migration)
        back.slot, back.source, back.target, back.nodes = self.slot, self.target, self.source, self.nodes
        back.start()
        back.move_keys()
        back.finish()


async def test_moving_slot_is_followed(backend: RedisBackend, redis_cluster: RedisCluster) -> None:
    assert backend.execute([Add("n", 1)])[0].data == 1
    assert (await backend.aexecute([Add("n", 1)]))[0].data == 2
    migration = Migration(redis_cluster, key_slot(backend.keys.entry("n")))
    migration.start()
    migration.move_keys()  # the source answers ASK now
    assert backend.execute([Add("n", 1)])[0].data == 3
    assert (await backend.aexecute([Add("n", 1)]))[0].data == 4
    migration.finish()  # and now MOVED
    assert backend.execute([Add("n", 1)])[0].data == 5
    assert (await backend.aexecute([Add("n", 1)]))[0].data == 6
    migration.undo()
    assert backend.execute([Read("n")])[0].data == 6


async def test_lost_node_is_said_and_found_again(backend: RedisBackend) -> None:
    with RedisCluster(appendonly=True) as cluster:
        options = {"URL": cluster.url, "CLUSTER": True}
        backend = RedisBackend(Params(options=options, timeout=1))
        for name in NAMES:
            backend.execute([Add(name, 1)])
        await asyncio.to_thread(cluster.nodes[2].kill)
        outcomes = [attempt(backend, name) for name in NAMES]
        assert Unavailable in outcomes
        await asyncio.to_thread(cluster.nodes[2].start)
        await asyncio.to_thread(cluster.wait_until_ok)
        patient = RedisBackend(Params(options=options))
        for each in (patient, backend):
            assert [reply.data for reply in each.execute([Read(name) for name in NAMES], timeout=5)] == [1] * len(NAMES)
            each.close()


def attempt(backend: RedisBackend, name: str) -> object:
    try:
        return backend.execute([Read(name)], timeout=0.05)[0].status
    except DRefError as error:
        return type(error)


async def test_changes_on_every_node_are_heard_on_one_connection(backend: RedisBackend) -> None:
    async with Listening(backend) as listening:
        await listening.feed.subscribe(NAMES[:25], ["n"])
        replies: list[Reply] = []
        for name in NAMES:
            replies += await backend.aexecute([Add(name, 1)])
        async with asyncio.timeout(5):
            while len(listening.heard.notices) < len(NAMES):  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.001)
        # Each name's own notices come in order; those of two nodes may overtake each other.
        assert sorted(listening.heard.names()) == sorted(NAMES)
        assert {notice.version for notice in listening.heard.notices} == {reply.version for reply in replies}
