"""Strangers, fuzzers and wrong keys at the ports of a running cluster: it serves on, under the same leader."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

import pytest

from dref_django.backends.raft.frames import CODE_SIZE, plain, sealed_length
from dref_django.backends.raft.handshake import NONCE_SIZE, HandshakeError, dialer
from dref_django.backends.raft.options import DEFAULT_CLUSTER
from dref_django.backends.raft.transport import Secrets, dial
from tests.processes import wait_until
from tests.raft.clusters import Cluster
from tests.raft.crews import Crew
from tests.raft.test_transport import Relay, dialled, stranger
from tests.settings import SECRET_KEY

pytestmark = pytest.mark.alone

SEED: Final = 8082
BURST: Final = 30
PATIENCE: Final = 30.0
SECRETS: Final = Secrets([SECRET_KEY], DEFAULT_CLUSTER)
Attack = Callable[[str], Awaitable[None]]


async def hear_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the node hangs up."""
    with suppress(OSError):
        while await reader.read(1000):
            pass
    writer.close()


async def fuzz_handshakes(address: str) -> None:
    dice = random.Random(SEED)
    for _ in range(150):
        said = bytearray(plain(next(dialer(SECRETS, {"role": "node"}, dice.randbytes(NONCE_SIZE)))))
        for _ in range(dice.randrange(1, 5)):
            said[dice.randrange(len(said))] ^= dice.randrange(1, 256)
        said += dice.randbytes(dice.randrange(2000))
        reader, writer = await stranger(address)
        writer.write(said)
        with suppress(OSError):
            writer.write_eof()
        await hear_out(reader, writer)


async def fuzz_frames(address: str) -> None:
    """On connections that were good until then."""
    dice = random.Random(SEED)
    for _ in range(40):
        async with Relay(address) as relay, dialled(relay.address, SECRETS) as channel:
            body = dice.randbytes(dice.randrange(1, 200))
            relay.inject(sealed_length(len(body)) + dice.randbytes(CODE_SIZE) + body)
            await channel.closed()


async def talk_nonsense(address: str) -> None:
    """In genuine frames, as a client that knows the secret."""
    dice = random.Random(SEED)
    for _ in range(40):
        channel = await dial(address, SECRETS, {"role": "client"})
        channel.send(dice.randbytes(dice.randrange(1, 200)))
        await channel.closed()


async def scan(address: str) -> None:
    for _ in range(300):
        _, writer = await stranger(address)
        writer.close()


async def crawl(address: str) -> None:
    """A slow-loris: byte by byte, and never done."""

    async def one() -> None:
        reader, writer = await stranger(address)
        hearing = asyncio.ensure_future(hear_out(reader, writer))
        for byte in plain(bytes(1000)):
            if hearing.done():
                return
            writer.write(bytes((byte,)))
            await asyncio.wait([hearing], timeout=0.2)
        raise AssertionError("the node heard it out")

    await asyncio.gather(*(one() for _ in range(50)))


async def crowd(address: str) -> None:
    """A thousand connections at a time that say nothing."""
    connections = [await stranger(address) for _ in range(1000)]
    for _, writer in connections:
        writer.transport.abort()


async def try_keys(address: str) -> None:
    for number in range(50):
        with pytest.raises(HandshakeError, match="another secret"):
            await dial(address, Secrets([f"not the secret {number}"], DEFAULT_CLUSTER), {"role": "node", "node": "me"})


async def come_from_elsewhere(address: str) -> None:
    for _ in range(50):
        with pytest.raises(HandshakeError, match="another cluster"):
            await dial(address, Secrets([SECRET_KEY], "elsewhere"), {"role": "node", "node": "me"})


ATTACKS: Final[dict[str, tuple[Attack, str]]] = {
    "fuzzed handshakes": (fuzz_handshakes, "garbage"),
    "fuzzed frames": (fuzz_frames, "frame"),
    "nonsense": (talk_nonsense, ""),
    "port scanner": (scan, "closed"),
    "slow-loris": (crawl, "timeout"),
    "crowd": (crowd, "crowded"),
    "wrong keys": (try_keys, "secret"),
    "another cluster": (come_from_elsewhere, "cluster"),
}
"""What is done to each node, and as what it is counted there."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("attacked"), bare=True) as cluster:
        cluster.start_all()
        wait_until(lambda: cluster.has_caught_up(3), "all to follow", PATIENCE)
        yield cluster


@contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("attack", ATTACKS)
def test_cluster_serves_on_under_the_same_leader(cluster: Cluster, attack: str) -> None:
    act, reason = ATTACKS[attack]
    before = cluster.status()

    async def attack_all() -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(act(address) for address in cluster.addresses))

    with (
        Crew(cluster, [cluster.addresses, cluster.addresses[::-1]]) as crew,
        many_files(),
        ThreadPoolExecutor(1) as pool,
    ):
        attacking = pool.submit(lambda: asyncio.run(attack_all()))
        crew.wait_for_more(BURST, 0, 1)
        attacking.result()
        crew.wait_for_more(BURST, 0, 1)
        crew.stop_and_check()
    after = cluster.status()
    assert (after["node"], after["term"]) == (before["node"], before["term"])
    if reason:
        wait_until(
            lambda: cluster.status()["refused"].get(reason, 0) > before["refused"].get(reason, 0), "the count", PATIENCE
        )
    assert len(cluster.alive) == 3
    assert len(after["voters"]) == 3
    assert not after["learners"]
