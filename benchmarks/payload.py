"""How many bytes travel when one field of a 100 KB value changes?"""

from __future__ import annotations

import pickle
from typing import Any

from benchmarks import harness


def main() -> None:
    servers = harness.set_up()
    import redis

    from dref_django import DRef

    value = {f"field-{number:04}": f"{number:084}" for number in range(1000)}
    big: DRef[dict[str, str]] = DRef("big", default=dict, using="redis")
    big.set(value)
    client = redis.Redis.from_url(servers.redis)
    monitor: Any = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    monitor.psubscribe("*")
    monitor.get_message(timeout=5)
    before = received(client)
    big.update(lambda old: {**old, "field-0500": "changed"})
    after = received(client)
    published = monitor.get_message(timeout=5)["data"]
    whole = pickle.dumps({**value, "field-0500": "changed"})
    harness.table(
        ("one field of a 100 KB dict changed", "bytes"),
        [
            ("dref_django: published to each listener", f"{len(published):,}"),
            ("dref_django: sent to the server by the writer", f"{after - before:,}"),
            ("cache.set of the whole value, pickled", f"{len(whole):,}"),
        ],
    )


def received(client: Any) -> int:
    return int(client.info("stats")["total_net_input_bytes"])
