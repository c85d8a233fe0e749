"""The server is killed (-9) under load and comes back: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tests.faults.driver import Worker
from tests.faults.labs import Lab, RedisLab
from tests.proxy import TcpProxy
from tests.servers import RedisServer

SEED = 20240607
ROUNDS = 2


def wait_for_progress(worker: Worker, name: str, more: int) -> None:
    """Until `more` further operations were acknowledged."""
    before = max((line["acked"] for line in worker.lines("progress") if line["name"] == name), default=0)
    worker.wait_for(
        lambda line: line.get("event") == "progress" and line["name"] == name and line["acked"] >= before + more,
        f"{more} more acknowledged on {name!r} after {before}",
    )


@pytest.mark.timeout(120)
def test_acknowledged_changes_survive_a_kill_and_none_is_applied_twice(lab: Lab) -> None:
    dice = random.Random(SEED)
    writers = [lab.worker(), lab.worker()]
    watcher = lab.worker()
    ways = {"incremented": "increment", "updated": "update"}
    for name in ways:
        watcher.ask("watch", name=name)
        watcher.ask("watch", name=name, every=True)
    for name, way in ways.items():
        for writer in writers:
            writer.ask("load", name=name, way=way)
    for _ in range(ROUNDS):
        for name in ways:
            for writer in writers:
                wait_for_progress(writer, name, dice.randrange(10, 100))
        lab.server.kill()
        writers[0].wait_for_event("trouble", "a change that was refused while the server was away", after=0)
        lab.server.start()
    for name in ways:
        for writer in writers:
            wait_for_progress(writer, name, 10)

    for name in ways:
        outcomes = [writer.ask("stop", name=name) for writer in writers]
        acked = sum(each.get("acked", 0) for each in outcomes)
        unknown = sum(each.get("OutcomeUnknown", 0) for each in outcomes)
        final = writers[0].call(name, "get")
        assert acked <= final <= acked + unknown, f"{name}: {outcomes} but {final} is stored"
        for every in (False, True):
            watcher.wait_for_event("change", "the true last value", name=name, value=final, every=every)
    changes = watcher.lines("change")
    for name in ways:
        for every in (False, True):
            seen = [line for line in changes if line["name"] == name and line["every"] is every]
            versions = [line["version"] for line in seen]
            assert versions == sorted(set(versions)), f"{name} went backwards: {versions}"
            # Between two changes without a gap nothing was skipped.
            if every:
                jumps = [
                    (before, after)
                    for before, after in itertools.pairwise(seen)
                    if not after["gap"] and after["value"] != before["value"] + 1
                ]
                assert not jumps, f"{name}: changes are missing without a gap: {jumps[:3]}"


@pytest.fixture
def forgetful_lab() -> Iterator[RedisLab]:
    with RedisServer(appendonly=False) as server, TcpProxy("127.0.0.1", server.port) as proxy:
        lab = RedisLab(server, proxy)
        try:
            yield lab
        finally:
            lab.close()


def test_without_an_append_only_file_values_are_set_back_and_watchers_are_told(forgetful_lab: RedisLab) -> None:
    lab = forgetful_lab
    writer, watcher = lab.worker(), lab.worker()
    for name in ("saved", "unsaved"):
        for every in (False, True):
            watcher.ask("watch", name=name, every=every)
    assert writer.call("saved", "increment", 5) == 5
    with lab.client() as client:
        client.save()  # the last snapshot before the crash
    saved_version = writer.call("saved", "version")
    assert writer.call("saved", "increment") == 6
    assert writer.call("unsaved", "increment", 7) == 7
    for every in (False, True):
        watcher.wait_for_event("change", "the value before the crash", name="saved", value=6, every=every)
        watcher.wait_for_event("change", "the value before the crash", name="unsaved", value=7, every=every)
    mark = watcher.mark()

    lab.server.kill()
    lab.server.start()

    for every in (False, True):
        watcher.wait_for_event(
            "change",
            "the set-back value",
            after=mark,
            name="saved",
            value=5,
            version=saved_version,
            gap=True,
            every=every,
        )
        watcher.wait_for_event(
            "change", "the loss", after=mark, name="unsaved", value=0, deleted=True, gap=True, every=every
        )
    assert (writer.call("saved", "get"), writer.call("unsaved", "get")) == (5, 0)
    assert writer.call("saved", "increment") == 6
    assert writer.call("unsaved", "increment") == 1
    for every in (False, True):
        watcher.wait_for_event("change", "what follows", after=mark, name="saved", value=6, gap=False, every=every)
        watcher.wait_for_event("change", "what follows", after=mark, name="unsaved", value=1, gap=False, every=every)
