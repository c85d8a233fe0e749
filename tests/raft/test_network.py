"""How nodes without a state find and hear each other, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dref_django.backends import Params
from dref_django.backends.raft.disk import Disk
from dref_django.backends.raft.network import ROUND, Network
from dref_django.backends.raft.options import read_options
from dref_django.backends.raft.storage import Storage
from dref_django.backends.raft.transport import Channel
from tests.listening import until
from tests.servers import free_port


class Newcomer:
    """A node that is to found a cluster of three."""

    def __init__(self, name: str, ports: list[int], directory: Path) -> None:
        options = {"NODES": [f"127.0.0.1:{port}" for port in ports], "PORT": ports["abc".index(name)]}
        params = Params(options={**options, "DATA_DIR": str(directory), "BOOTSTRAP_EXPECT": 3})
        self.network = Network(read_options(params, {}), name, self._serve)
        self.storage = Storage.open(directory / name, "dref", name)
        self.disk = Disk("test-disk")
        self.reports: list[str] = []
        self.told = 0
        send = self.network.send

        def counted(node: str, frame: bytes) -> bool:
            self.told += 1
            return send(node, frame)

        self.network.send = counted  # type: ignore[method-assign]

    async def _serve(self, channel: Channel) -> None:
        await channel.closed()

    async def found(self) -> frozenset[str]:
        await self.network.open()
        return (await self.network.found(self.storage, self.disk, self.reports.append)).voters

    async def close(self) -> None:
        await self.network.close()
        self.disk.close()
        self.storage.close()


@pytest.fixture
async def newcomers(tmp_path: Path) -> AsyncIterator[dict[str, Newcomer]]:
    ports = [free_port() for _ in "abc"]
    made = {name: Newcomer(name, ports, tmp_path) for name in "abc"}
    yield made
    for newcomer in made.values():
        await newcomer.close()


async def test_nodes_that_wait_for_another_one_do_not_talk_all_the_time(newcomers: dict[str, Newcomer]) -> None:
    """Each would answer the other's news at once, as fast as the machine can, until the third one comes."""
    a, b, c = newcomers.values()
    founding = [asyncio.ensure_future(each.found()) for each in (a, b)]
    async with asyncio.timeout(20):
        await until(lambda: all("for 1 more" in "".join(each.reports[-1:]) for each in (a, b)))
        before, began = a.told + b.told, asyncio.get_running_loop().time()
        await until(lambda: a.told + b.told >= before + 40)
        # Two nodes, each with at most two others to tell, once in a round.
        assert asyncio.get_running_loop().time() - began > 40 / 4 * ROUND / 2
        founding.append(asyncio.ensure_future(c.found()))
        assert await asyncio.gather(*founding) == [frozenset("abc")] * 3
