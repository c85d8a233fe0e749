"""One node of the clusters that `raft.py` measures: does what it is told on stdin, answers with JSON on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ours:
    """An increment is one `Add`, replicated, on disk (fsync) on a majority, with its op id and its notice."""

    def __init__(self, number: int, ports: list[int], directory: Path) -> None:
        import django
        from django.conf import settings

        settings.configure(SECRET_KEY="benchmarks-benchmarks", INSTALLED_APPS=["dref_django"])
        django.setup()
        from dref_django.backends import Params
        from dref_django.backends.raft.backend import RaftBackend
        from dref_django.backends.raft.diagnosis import leader_status
        from dref_django.protocol import Add

        nodes = [f"127.0.0.1:{port}" for port in ports]
        options = {"NODES": nodes, "PORT": ports[number], "DATA_DIR": directory / str(number)}
        self._backend = RaftBackend(Params(options=options))
        self._command = [Add("n", 1, 0, b"12345678")]
        self._is_leader: Callable[[], bool] = lambda: leader_status(self._backend)["addresses"][
            leader_status(self._backend)["node"]
        ].endswith(f":{ports[number]}")

    def is_leader(self) -> bool:
        return self._is_leader()

    def increment(self) -> None:
        self._backend.execute(self._command)

    def in_flight(self, count: int, width: int) -> None:
        async def some() -> None:
            for _ in range(count // width):
                await self._backend.aexecute(self._command)

        async def all_of_them() -> None:
            await asyncio.gather(*(some() for _ in range(width)))

        asyncio.run(all_of_them())


class PySyncObj:
    """Its journal is on, which writes and does not sync; ticks as fast as they can be set."""

    BATCHES = False
    """Its fastest setting for one call after the other: each is sent at once."""

    def __init__(self, number: int, ports: list[int], directory: Path) -> None:
        from pysyncobj import SyncObj, SyncObjConf, replicated

        class Counter(SyncObj):  # type: ignore[misc]
            value = 0

            @replicated  # type: ignore[untyped-decorator]
            def add(self) -> int:
                self.value += 1
                return self.value

        nodes = [f"127.0.0.1:{port}" for port in ports]
        journal = directory / f"{number}.journal"
        conf = SyncObjConf(
            autoTickPeriod=0.0005,
            appendEntriesPeriod=0.0005,
            appendEntriesUseBatch=self.BATCHES,
            journalFile=str(journal),
            commandsQueueSize=1_000_000,
        )
        self._me = nodes.pop(number)
        self._counter: Any = Counter(self._me, nodes, conf)

    def is_leader(self) -> bool:
        leader = self._counter.getStatus()["leader"]
        return leader is not None and str(leader) == self._me

    def increment(self) -> None:
        self._counter.add(sync=True, timeout=5)

    def in_flight(self, count: int, width: int) -> None:
        room, done = threading.Semaphore(width), threading.Semaphore(0)

        def answered(result: Any, error: Any) -> None:
            room.release()
            done.release()

        for _ in range(count):
            room.acquire()
            self._counter.add(callback=answered)
        for _ in range(count):
            done.acquire()


class PySyncObjInBatches(PySyncObj):
    BATCHES = True
    """Its fastest setting for many calls at a time, and its default: they wait for the next tick."""


SYSTEMS: dict[str, Callable[[int, list[int], Path], Ours | PySyncObj]] = {
    "ours": Ours,
    "pysyncobj": PySyncObj,
    "pysyncobj in batches": PySyncObjInBatches,
}


def main(system: str, number: str, ports: str, directory: str) -> None:
    node = SYSTEMS[system](int(number), json.loads(ports), Path(directory))
    for line in sys.stdin:
        do, *arguments = line.split()
        answer: Any = None
        try:
            if do == "leads":
                answer = node.is_leader()
            elif do == "sequence":
                answer = [timed(node.increment) for _ in range(int(arguments[0]))]
            elif do == "flight":
                count = int(arguments[0])
                answer = count / timed(lambda: node.in_flight(count, int(arguments[1])))  # noqa: B023
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
