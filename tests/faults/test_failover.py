"""A replica takes over through Sentinel: other processes follow, and what their watchers miss is announced."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.labs import RedisLab
from tests.processes import wait_until
from tests.proxy import TcpProxy
from tests.redis.test_sentinel import Sentinel
from tests.servers import RedisServer

LOAD = 50


class SentinelLab(RedisLab):
    sentinel: Sentinel

    def _options(self, url: str) -> dict[str, Any]:
        return {"URL": "redis://shop/0", "SENTINELS": [("127.0.0.1", self.sentinel.port)]}


@pytest.fixture
def sentinel_lab(tmp_path: Path) -> Iterator[SentinelLab]:
    with RedisServer(appendonly=False, extra=["--repl-diskless-sync-delay", "0"]) as primary:
        with RedisServer(appendonly=False, extra=["--replicaof", f"127.0.0.1 {primary.port}"]):
            sentinel = Sentinel(tmp_path, primary)
            with sentinel.running(), TcpProxy("127.0.0.1", primary.port) as proxy:
                wait_until(sentinel.knows_a_replica, "the Sentinel to know the replica", 30)
                lab = SentinelLab(primary, proxy)
                lab.sentinel = sentinel
                try:
                    yield lab
                finally:
                    lab.close()


@pytest.mark.timeout(90)
def test_a_fail_over_is_followed_and_announced(sentinel_lab: SentinelLab) -> None:
    lab = sentinel_lab
    writer, watcher = lab.worker(), lab.worker()
    for every in (False, True):
        watcher.ask("watch", name="counted", every=every)
    for _ in range(LOAD):
        writer.call("counted", "increment")
    for every in (False, True):
        watcher.wait_for_event("change", "the load", name="counted", value=LOAD, every=every)
    with lab.client() as client:
        replicated: int = client.wait(1, 10_000)
    assert replicated == 1, "the replica lags"
    mark = watcher.mark()
    writer.ask("load", name="counted", way="increment")
    watcher.wait_for(lambda line: line.get("value", 0) > LOAD, "changes under load", after=mark)

    lab.server.kill()

    trouble = writer.wait_for_event("trouble", "a change without a primary")
    assert trouble["error"] in ("Unavailable", "OutcomeUnknown")
    before = max((line["acked"] for line in writer.lines("progress")), default=0)
    writer.wait_for(lambda line: line.get("acked", 0) >= before + 20, "writes to the new primary", after=writer.mark())
    outcomes = writer.ask("stop", name="counted")
    final = writer.call("counted", "get")
    # What the replica had not received is lost; nothing is applied twice.
    assert LOAD <= final <= LOAD + outcomes["acked"] + outcomes.get("OutcomeUnknown", 0)
    for every in (False, True):
        watcher.wait_for_event("change", "the true last value", after=mark, name="counted", value=final, every=every)
    each = [line for line in watcher.lines("change") if line["every"]]
    for before_it, change in itertools.pairwise(each):
        assert change["gap"] or change["value"] == before_it["value"] + 1, f"missed in silence: {before_it} {change}"
    host, port = primary_of(lab.sentinel)
    assert (host, port) != ("127.0.0.1", lab.server.port)


def primary_of(sentinel: Sentinel) -> tuple[str, int]:
    with redis.Redis(port=sentinel.port, decode_responses=True) as client:
        address: Any = client.sentinel_get_master_addr_by_name("shop")
    return address[0], int(address[1])
