"""Sentinel: the primary is asked for, and found again after a fail-over."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from dref_django.backends.base import Params
from dref_django.backends.redis import RedisBackend
from dref_django.exceptions import Unavailable
from dref_django.protocol import Add, Read
from tests.listening import Listening
from tests.processes import wait_until
from tests.servers import RedisServer, free_port, janitor, redis_program


class Sentinel:
    """One Sentinel that is a quorum alone, watching `primary` under the name "shop"."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        self.port = free_port()
        self._config = directory / "sentinel.conf"
        self._config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor shop 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds shop 300\nsentinel failover-timeout shop 2000\n"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        program = [redis_program(), str(self._config), "--sentinel"]
        with subprocess.Popen(program, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            janitor().watch_process(process.pid)
            try:
                yield
            finally:
                process.kill()
                process.wait()
                janitor().forget_process(process.pid)

    def knows_a_replica(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                replicas: Any = client.sentinel_slaves("shop")
                return any(not replica["is_disconnected"] and replica["flags"] == "slave" for replica in replicas)
        except redis.ConnectionError:
            return False


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[Sentinel, RedisServer]]:
    with RedisServer(appendonly=False, extra=["--repl-diskless-sync-delay", "0"]) as primary:
        with RedisServer(appendonly=False, extra=["--replicaof", f"127.0.0.1 {primary.port}"]):
            watching = Sentinel(tmp_path, primary)
            with watching.running():
                wait_until(watching.knows_a_replica, "the Sentinel to know the replica", 30)
                yield watching, primary


async def test_primary_is_found_again_after_a_fail_over(sentinel: tuple[Sentinel, RedisServer]) -> None:
    watching, primary = sentinel
    options = {"URL": "redis://shop/0", "SENTINELS": [("127.0.0.1", watching.port)], "WAIT_REPLICAS": 1}
    backend = RedisBackend(Params(options=options, timeout=20, heartbeat=0.5))
    async with Listening(backend) as listening:
        await listening.feed.subscribe(["n"], [])
        assert backend.execute([Add("n", 1)])[0].data == 1
        assert (await backend.aexecute([Add("n", 1)]))[0].data == 2
        await asyncio.to_thread(primary.kill)
        # No replica is left that could confirm anything.
        alone = RedisBackend(Params(options={**options, "WAIT_REPLICAS": 0}, timeout=20))
        assert (await alone.aexecute([Add("n", 1, op=b"12345678")]))[0].data == 3
        assert (await asyncio.to_thread(alone.execute, [Read("n")]))[0].data == 3
        await listening.ups(2)
        assert len(set(listening.heard.epochs)) == 2
        await alone.aexecute([Add("n", 1)])
        async with asyncio.timeout(10):
            while not listening.heard.notices or listening.heard.notices[-1].data != 4:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    alone.close()
    backend.close()


def test_unknown_primary_is_said_in_time(sentinel: tuple[Sentinel, RedisServer]) -> None:
    watching, _ = sentinel
    options = {"URL": "redis://other/0", "SENTINELS": [("127.0.0.1", watching.port)]}
    backend = RedisBackend(Params(options=options, timeout=0.3))
    with pytest.raises(Unavailable, match="No master found for 'other'"):
        backend.execute([Add("n", 1)])
