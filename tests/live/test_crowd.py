"""A thousand real websockets on one server process, and clients that abuse it, while the others are served on."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, TypeAlias

import pytest

from dref_django.backends import Params
from dref_django.backends.memory import MemoryBackend
from tests.children import Child
from tests.live.serving import CLOCK, PROGRAM, LeanClient, allow_many_files, connect, until

Dial: TypeAlias = Callable[[int], Awaitable[list[LeanClient]]]

pytestmark = pytest.mark.asyncio

CLIENTS: Final = 1000
CHANGES: Final = 3000
"""One a millisecond."""
STALLED: Final = 10
"""Each tenth client reads nothing while they are made."""
AT_ONCE: Final = 50
PATIENCE: Final = 40.0
LAG: Final = 2.0
"""Seconds within which half of what the others hear is heard, also where the machine has other work."""
GROWTH: Final = 64 * 2**20


@pytest.fixture
def server() -> Iterator[Child]:
    allow_many_files()
    with Child(PROGRAM, MemoryBackend(Params(key_prefix="test-crowd"))) as child:
        yield child


@pytest.fixture
def port(server: Child) -> int:
    return int(server.hears("listens")[0])


@pytest.fixture
async def dial(port: int) -> AsyncIterator[Dial]:
    """Connects clients that watch the clock, and closes them at the end."""
    clients: list[LeanClient] = []

    async def dial_many(count: int) -> list[LeanClient]:
        some = []
        for _ in range(count):
            some.append(await connect(port, [CLOCK]))
            clients.append(some[-1])
        for client in some:
            await holds(client, "null")
        return some

    yield dial_many
    for client in clients:
        await client.close()


@pytest.fixture
async def witness(dial: Dial) -> LeanClient:
    """Somebody who behaves, and has to be served whatever the others do."""
    return (await dial(1))[0]


async def holds(client: LeanClient, text: str) -> None:
    await until(client, lambda: client.texts.get(CLOCK) == text, PATIENCE)


async def is_served(witness: LeanClient, server: Child) -> None:
    server.tell("write 1")
    written = await asyncio.to_thread(server.hears, "written")
    await holds(witness, json.dumps(written[0], separators=(",", ":")))


async def test_thousand_sockets_are_on_time_in_bounded_memory_while_one_in_ten_is_stalled(
    server: Child, dial: Dial
) -> None:
    clients: list[LeanClient] = []
    for _ in range(0, CLIENTS, AT_ONCE):
        clients += await dial(AT_ONCE)
    stalled, prompt = clients[::STALLED], [client for index, client in enumerate(clients) if index % STALLED]
    server.tell("memory")
    before = (await asyncio.to_thread(server.hears, "memory"))[0]
    for client in stalled:
        client.stall()
    heard = [client.messages for client in clients]
    server.tell(f"write {CHANGES}")
    last = (await asyncio.to_thread(server.hears, "written", PATIENCE))[0]
    assert last[0] == CHANGES
    newest = json.dumps(last, separators=(",", ":"))
    for client in prompt:
        await holds(client, newest)
    server.tell("memory")
    after = (await asyncio.to_thread(server.hears, "memory"))[0]
    assert after - before < GROWTH
    assert statistics.median(lag for client in prompt for lag in client.lags) < LAG
    assert all(client.messages > count for client, count in zip(clients, heard, strict=True) if client in prompt)
    for client in stalled:
        client.go_on()
    for client in stalled:
        await holds(client, newest)
    assert not any(client.errors or client.close_code for client in clients)


async def test_ten_megabytes_are_refused_and_the_others_served(server: Child, dial: Dial, witness: LeanClient) -> None:
    (abuser,) = await dial(1)
    abuser.say("watch", names=["n" * 10_000_000])
    await until(abuser, lambda: abuser.close_code != 0, PATIENCE)
    assert (abuser.errors, abuser.close_code) == (["too-large"], 1009)
    await is_served(witness, server)


async def test_ten_thousand_subscriptions_are_refused_and_the_first_ones_and_the_others_served(
    server: Child, dial: Dial, witness: LeanClient
) -> None:
    (abuser,) = await dial(1)
    for start in range(0, 10_000, 333):
        abuser.say("watch", names=[f"test.many.{number}" for number in range(start, start + 333)])
    await until(abuser, lambda: len(abuser.errors) >= 28, PATIENCE)
    assert set(abuser.errors) == {"too-many"}
    await is_served(witness, server)
    await holds(abuser, witness.texts[CLOCK])


async def test_flood_of_nonsense_is_cut_off_and_the_others_served(
    server: Child, dial: Dial, witness: LeanClient
) -> None:
    (abuser,) = await dial(1)
    for _ in range(5000):
        abuser.say_text("{")
    await until(abuser, lambda: abuser.close_code != 0, PATIENCE)
    assert set(abuser.errors) == {"malformed", "rate"}
    await is_served(witness, server)
