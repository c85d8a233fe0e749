"""How long until a change has reached the last of 1,000 websockets, and what does it cost?

One server process a contender, the same ASGI server and clients for all, measured where the clients read. The change is
made in this process: `ref.aset`, or `group_send` into a group that all consumers are in.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from benchmarks import harness, sockets
from tests.live.serving import CLOCK, LeanClient, allow_many_files, connect, until

CLIENTS: Final = 1000
ROUNDS: Final = 30
PATIENCE: Final = 30.0
IDLE: Final = b"\n"


class Contender:
    """A server process and its clients."""

    def __init__(self, kind: str, servers: tuple[str, str]) -> None:
        self.kind = kind
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
        while len(self.clients) < CLIENTS:
            client = await connect(self._port, [CLOCK])
            await until(client, lambda: CLOCK in client.texts, PATIENCE)  # noqa: B023
            self.clients.append(client)
        return (self.cost()[1] - before) / CLIENTS

    async def round(self, number: int) -> None:
        before, _ = self.cost()
        started = time.perf_counter()
        value = [number, time.time(), "x" * 100]
        await self._change(value)
        text = json.dumps(value, separators=(",", ":"))
        for client in self.clients:
            await until(client, lambda: client.texts[CLOCK] == text, PATIENCE)  # noqa: B023
        self.last.append(time.perf_counter() - started)
        self.processor += self.cost()[0] - before

    async def _change(self, value: list[Any]) -> None:
        from channels.layers import get_channel_layer

        from dref_django import DRef

        if self.kind == "dref":
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


def main() -> None:
    from tests.servers import RedisServer

    allow_many_files()
    with RedisServer(appendonly=False) as redis:
        servers = (redis.url, "postgresql://postgres@127.0.0.1:1/none")  # the second one is not used
        sockets.configure(*servers)
        asyncio.run(measure(servers))


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
    main()
