"""What a running example under load has counted, as Prometheus would read it, is what was done."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from example_project.demo import Demo, Visitor
from tests.processes import wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

THREADS = 8
READS = 25
"""By each thread."""
TIMEOUT = 20  # seconds


def scraped(address: str) -> Samples:
    with urllib.request.urlopen(f"{address}metrics/", timeout=TIMEOUT) as answer:  # noqa: S310
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset({"alias": "default", **labels}.items())), 0)


def adds(samples: Samples) -> tuple[float, float]:
    """Commands and exchanges. Nothing but a page that is pressed adds to a counter in the demo."""
    done = value(samples, "dref_operations_total", command="add", outcome="applied")
    return done, value(samples, "dref_operation_seconds_count", operation="add")


def read(address: str, article: int) -> None:
    visitor = Visitor(f"{address}articles/")
    visitor.load()
    for _ in range(READS):
        visitor.post(f"{article}/read/")


def watching(address: str) -> ClientConnection:
    url = address.replace("http", "ws", 1) + "dref/ws/"
    return connect(url, origin=Origin(address.removesuffix("/")), open_timeout=TIMEOUT)


def heard(socket: ClientConnection) -> dict[str, Any]:
    """The next snapshot."""
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=TIMEOUT))
        if message["type"] == "snapshot":
            return message


def test_operations_counted_equal_operations_done_and_sockets_are_seen() -> None:
    with Demo("redis") as demo:
        before = [adds(scraped(address)) for address in demo.addresses]
        with ThreadPoolExecutor(THREADS) as pool:
            addresses = (demo.addresses * THREADS)[:THREADS]
            list(pool.map(read, addresses, range(1, THREADS + 1)))
        for address, earlier in zip(demo.addresses, before, strict=True):
            counted = [now - then for now, then in zip(adds(scraped(address)), earlier, strict=True)]
            assert counted == [THREADS // len(demo.addresses) * READS] * 2

        address = demo.addresses[0]
        with watching(address) as socket:
            socket.send('{"type": "watch", "names": ["demo.article.1.views", "demo.article.2.views"]}')
            for _ in range(2):
                assert heard(socket)["text"] == str(READS)
            read(address, 1)
            while heard(socket)["text"] != str(2 * READS):
                pass
            samples = scraped(address)
            assert abs(value(samples, "dref_live_lag_seconds")) < TIMEOUT
            assert "dref_live_lag_seconds" in {name for name, _ in samples}
            assert value(samples, "dref_live_sockets") == 1
            assert value(samples, "dref_live_subscriptions") == 2
        wait_until(lambda: value(scraped(address), "dref_live_sockets") == 0, "the socket to be gone", TIMEOUT)
