"""How long until a change has reached the last of 1,000 websockets, and what does it cost?

One server process a contender, the same ASGI server and clients for all, measured where the clients read. The change is
made in this process: `ref.aset`, or `group_send` into a group that all consumers are in.

`python -m benchmarks.fanout 10000` asks what becomes of one process with that many sockets: what each costs while it is
idle, when a change has reached all of them, and then, under a change a millisecond while one in ten reads nothing, how
far the memory grows, when the others have the last value, and whether the stalled ones get it as soon as they read. It
asks twice, as Python's garbage collector, left as it is, walks through all of these sockets' objects again and again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any, Final

from benchmarks import harness, sockets
from tests.live.serving import CLOCK, LeanClient, allow_many_files, connect, until

CLIENTS: Final = 1000
ROUNDS: Final = 30
PATIENCE: Final = 60.0
AT_ONCE: Final = 50
"""Clients that shake hands at the same time."""
STORM: Final = 3000
"""Changes, one a millisecond, of some 500 characters that no splice makes shorter."""
IDLE: Final = b"\n"


class Contender:
    """A server process and its clients."""

    def __init__(self, kind: str, servers: tuple[str, str], size: int = CLIENTS) -> None:
        self.kind = kind
        self.servers = servers
        self.size = size
        self.clients: list[LeanClient] = []
        self.last: list[float] = []
        self.processor = 0.0
        command = [sys.executable, "-m", "benchmarks.sockets", kind, *servers]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)
        self._port = int(self._line())

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def cost(self) -> tuple[float, int]:
        """(seconds of processor, bytes of memory) of the server so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(IDLE)
        self._process.stdin.flush()
        seconds, size = json.loads(self._line())
        return seconds, size

    async def fill(self) -> float:
        """Connects the clients; returns the bytes that each costs the server while it is idle."""
        _, before = self.cost()
        while len(self.clients) < self.size:
            batch = min(AT_ONCE, self.size - len(self.clients))
            self.clients += await asyncio.gather(*[self._client() for _ in range(batch)])
        gc.freeze()  # a crowd in one process must not be slow of itself
        return (self.cost()[1] - before) / self.size

    async def _client(self) -> LeanClient:
        client = await connect(self._port, [CLOCK])
        await until(client, lambda: CLOCK in client.texts, PATIENCE)
        return client

    async def round(self, number: int) -> None:
        before, _ = self.cost()
        started = time.perf_counter()
        value = [number, time.time(), "x" * 100]
        await self.change(value)
        await self.reached(self.clients, value)
        self.last.append(time.perf_counter() - started)
        self.processor += self.cost()[0] - before

    async def reached(self, clients: list[LeanClient], value: list[Any]) -> None:
        """Returns when all of them hold the value."""
        text = json.dumps(value, separators=(",", ":"))
        for client in clients:
            await until(client, lambda: client.texts[CLOCK] == text or client.close_code, PATIENCE)  # noqa: B023
        if dropped := Counter(client.close_code for client in clients if client.close_code):
            raise RuntimeError(f"the server has dropped clients, by code: {dict(dropped)}")

    async def change(self, value: list[Any]) -> None:
        from channels.layers import get_channel_layer

        from dref_django import DRef

        if self.kind in sockets.DREF:
            await DRef[Any](CLOCK, using="redis").aset(value)
        else:
            text = json.dumps(value, separators=(",", ":"))
            message = {"type": "fanout.change", "text": text}
            await get_channel_layer(self.kind).group_send(sockets.GROUP, message)

    async def close(self) -> None:
        self._process.kill()  # first, so that it does not have to say goodbye to each of them
        self._process.communicate()
        for client in self.clients:
            await client.close()


def main(count: int = 0) -> None:
    from tests.servers import RedisServer

    allow_many_files()
    with RedisServer(appendonly=False) as redis:
        servers = (redis.url, "postgresql://postgres@127.0.0.1:1/none")  # the second one is not used
        sockets.configure(*servers)
        asyncio.run(crowds(servers, count) if count else measure(servers))


def write(servers: tuple[str, str]) -> list[Any]:
    """The storm, made by a process of its own; returns its last value."""
    command = [sys.executable, "-m", "benchmarks.sockets", "storm", *servers]
    said = subprocess.run([*command, str(STORM)], stdout=subprocess.PIPE, env=os.environ, check=True).stdout
    value: list[Any] = json.loads(said)
    return value


async def crowds(servers: tuple[str, str], count: int) -> None:
    columns = [await crowd(Contender(kind, servers, count)) for kind in sockets.DREF]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    harness.table((f"{count:,} sockets in one process", *sockets.DREF.values()), rows)


async def crowd(contender: Contender) -> dict[str, str]:
    """What a process with that many sockets does, idle and in a storm."""
    try:
        idle = await contender.fill()
        for number in range(ROUNDS // 3):
            await contender.round(number)
        stalled, others = contender.clients[::10], [c for index, c in enumerate(contender.clients) if index % 10]
        for client in stalled:
            client.stall()
        before, messages = contender.cost()[1], sum(client.messages for client in others)
        started = time.perf_counter()
        value = await asyncio.to_thread(write, contender.servers)
        storm = time.perf_counter() - started
        await contender.reached(others, value)
        late = time.perf_counter() - started - storm
        grown = contender.cost()[1] - before
        for client in stalled:
            client.go_on()
        resumed = time.perf_counter()
        await contender.reached(stalled, value)
        caught_up = time.perf_counter() - resumed
        messages = sum(client.messages for client in others) - messages
    finally:
        await contender.close()
    each = contender.processor / len(contender.last) / contender.size
    return {
        "memory of an idle socket, KiB": f"{idle / 1024:,.1f}",
        "a change reaches the last socket, ms (median)": f"{statistics.median(contender.last) * 1000:,.0f}",
        "processor for one message of it, µs": f"{each * 1e6:,.1f}",
        f"storm: {STORM:,} changes, one in ten stalled, s": f"{storm:,.1f}",
        "messages to each of the others (the rest conflated)": f"{messages / len(others):,.1f}",
        "the others have the last value after, ms": f"{late * 1000:,.0f}",
        "memory grown by, MiB": f"{grown / 2**20:,.1f}",
        "the stalled have it after they read again, ms": f"{caught_up * 1000:,.0f}",
    }


async def measure(servers: tuple[str, str]) -> None:
    contenders: list[Contender] = []
    rows = []
    try:
        memory = {}
        for kind in ("dref", *sockets.LAYERS):
            contenders.append(Contender(kind, servers))
            memory[kind] = await contenders[-1].fill()
        for number in range(ROUNDS):
            for contender in contenders:
                await contender.round(number)
        first = statistics.median(contenders[0].last)
        for contender in contenders:
            median = statistics.median(contender.last)
            each = contender.processor / ROUNDS / CLIENTS
            cells = (
                median * 1000,
                min(contender.last) * 1000,
                median / first,
                each * 1e6,
                memory[contender.kind] / 1024,
            )
            rows.append((contender.kind, *(f"{cell:,.1f}" for cell in cells)))
    finally:
        for contender in contenders:
            await contender.close()
    head = ("last socket reached", "ms (median)", "best ms", "times dref", "µs processor a message", "KiB a socket")
    harness.table(head, rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
