"""The server of `fanout`: one process under uvicorn; says its port, then what it has cost whenever it is asked.

As `storm` it is what writes to all of them instead.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
import threading
import time
from typing import Any

from benchmarks import harness
from tests.live.serving import CLOCK, allow_many_files, resident

GROUP = "fanout"
DREF = {"dref": "as Python comes", "dref-gc": "collecting seldom"}
SELDOM = (50_000, 20, 100)
"""Thresholds of the garbage collector that docs/live.md recommends for thousands of sockets."""
LAYERS = {
    "channels": "channels_redis.core.RedisChannelLayer",
    "channels-pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}


def configure(redis: str, postgres: str) -> None:
    from django.conf import settings

    harness.configure(harness.Servers(redis, postgres))
    settings.ALLOWED_HOSTS = ["*"]
    settings.DREF_POLICY = "tests.live.client.OnlyTest"
    # Recent clients of Redis give up reading after 5 s, as long as an idle layer blocks, and open 100 connections only.
    host = {"address": redis, "socket_timeout": None, "max_connections": 5000}
    config = {"hosts": [host], "capacity": 10_000}
    settings.CHANNEL_LAYERS = {name: {"BACKEND": path, "CONFIG": config} for name, path in LAYERS.items()}


def main() -> None:
    kind, redis, postgres, *count = sys.argv[1:]
    allow_many_files()
    configure(redis, postgres)
    if kind == "storm":
        return storm(int(count[0]))
    if kind == "dref-gc":
        gc.set_threshold(*SELDOM)
    import uvicorn
    from channels.routing import URLRouter
    from django.urls import path

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    application = URLRouter([path("dref/ws/", consumer(kind))])
    server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off", ws_ping_interval=None))
    threading.Thread(target=answer, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


def storm(count: int) -> None:
    """Sets the value that often, once a millisecond, and says the last one."""
    from dref_django import DRef

    clock = DRef[Any](CLOCK, using="redis")
    value: list[Any] = []
    started = time.perf_counter()
    for number in range(1, count + 1):
        value = [number, time.time(), os.urandom(250).hex()]
        clock.set(value)
        time.sleep(max(started + number / 1000 - time.perf_counter(), 0))
    print(json.dumps(value), flush=True)


def answer() -> None:
    """Each line is a question for the seconds of processor and the bytes of memory; the end of all lines ends it."""
    for _ in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([usage.ru_utime + usage.ru_stime, resident()]), flush=True)
    os._exit(0)


def consumer(kind: str) -> Any:
    from channels.generic.websocket import AsyncWebsocketConsumer

    from dref_django.live.consumers import DRefConsumer

    if kind in DREF:
        return DRefConsumer.as_asgi(using="redis")

    class Grouped(AsyncWebsocketConsumer):  # type: ignore[misc]
        """As the Channels tutorial has it, with our messages."""

        channel_layer_alias = kind
        groups = [GROUP]

        async def connect(self) -> None:
            await self.accept("dref.v1")

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.fanout_change({"text": "null"})

        async def fanout_change(self, event: dict[str, Any]) -> None:
            await self.send(json.dumps({"type": "snapshot", "name": CLOCK, "text": event["text"]}))

    return Grouped.as_asgi()


if __name__ == "__main__":
    main()
