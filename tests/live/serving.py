"""A real server with one worker, and a client that is lean enough for a thousand of them in one process."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

CLOCK: Final = "test.clock"
"""What the server writes: [number, the moment in seconds since 1970, noise, so that no change is small]."""
NOISE: Final = 400  # characters
WINDOW: Final = 16_384
PROGRAM: Final = "from tests.live.serving import serve\nserve(say, orders())\n"
FILES: Final = 16_384
"""Open files for ten thousand sockets at either end."""


def serve(say: Callable[..., None], orders: Iterator[str]) -> None:
    """In the child: serves websockets until the orders end. `write N` writes that often, once a millisecond."""
    warnings.simplefilter("ignore")  # of the server's own libraries
    import uvicorn
    from channels.routing import URLRouter
    from django.conf import settings
    from django.urls import path

    from dref_django.live.consumers import DRefConsumer

    allow_many_files()
    settings.DREF_LIVE = {"WINDOW": WINDOW}
    settings.DREF_POLICY = "tests.live.client.OnlyTest"
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    application = URLRouter([path("dref/ws/", DRefConsumer.as_asgi())])
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off", backlog=2048))

    def obey() -> None:
        for order in orders:
            match order.split():
                case ["memory"]:
                    say("memory", resident())
                case ["write", count]:
                    say("written", _write(int(count)))
        server.should_exit = True

    threading.Thread(target=obey, daemon=True).start()
    say("listens", listener.getsockname()[1])
    server.run(sockets=[listener])


def _write(count: int) -> list[Any]:
    from dref_django import DRef

    clock = DRef[Any](CLOCK)
    value: list[Any] = []
    started = time.monotonic()
    for number in range(1, count + 1):
        value = [number, time.time(), os.urandom(NOISE // 2).hex()]
        clock.set(value)
        time.sleep(max(started + number / 1000 - time.monotonic(), 0))
    return value


def resident() -> int:
    """Bytes of memory that this process has now."""
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if hard == resource.RLIM_INFINITY else min(FILES, hard), hard))


class LeanClient(asyncio.Protocol):
    """One websocket: shakes hands, watches `names`, answers pings, keeps the texts. `messages` counts what came."""

    def __init__(self, names: list[str], host: str) -> None:
        self._names, self._host = names, host
        self._buffer = b""
        self._open = False
        self._transport: asyncio.Transport | None = None
        self.texts: dict[str, str] = {}
        self.messages = 0
        self.lags: list[float] = []
        self.errors: list[str] = []
        self.close_code = 0
        self.news = asyncio.Event()
        self._closed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /dref/ws/ HTTP/1.1\r\nHost: {self._host}\r\nOrigin: http://{self._host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: dref.v1\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self.close_code = self.close_code or 1006
        self._closed.set()
        self.news.set()

    def say(self, type_: str, **message: Any) -> None:
        self.say_text(json.dumps({"type": type_, **message}))

    def say_text(self, text: str) -> None:
        self._write(0x81, text.encode())

    def _write(self, kind: int, payload: bytes) -> None:
        assert self._transport is not None
        size = len(payload)
        header = struct.pack("!BB", kind, 0x80 | size) if size < 126 else struct.pack("!BBH", kind, 0xFE, size % 65536)
        if size >= 65536:
            header = struct.pack("!BBQ", kind, 0xFF, size)
        self._transport.write(header + bytes(4) + payload)  # masked with zeros

    def stall(self) -> None:
        """Reads nothing any more, so that the server's buffers fill up."""
        assert self._transport is not None
        self._transport.pause_reading()

    def go_on(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()

    async def close(self) -> None:
        assert self._transport is not None
        self._transport.abort()
        await self._closed.wait()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            assert b" 101 " in head, head
            self._open, self._buffer = True, rest
            self.say("watch", names=self._names)
        while (frame := self._frame()) is not None:
            opcode, payload = frame
            if opcode == 1:
                self._hear(json.loads(payload))
            elif opcode == 9:  # the server's own ping, besides those of the protocol
                self._write(0x8A, payload)
            elif opcode == 8:
                self.close_code = struct.unpack("!H", payload[:2])[0]
        self.news.set()

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start])
        if len(buffer) < start + size:
            return None
        self._buffer = buffer[start + size :]
        return buffer[0] & 0x0F, buffer[start : start + size]

    def _hear(self, message: dict[str, Any]) -> None:
        name = message.get("name", "")
        match message["type"]:
            case "ping":
                return self.say("pong", ping=message["ping"])
            case "error":
                return self.errors.append(message["code"])
            case "snapshot":
                self.texts[name] = message["text"]
            case "splice":
                text = self.texts[name]
                self.texts[name] = text[: message["start"]] + message["insert"] + text[message["end"] :]
            case _:
                return
        self.messages += 1
        if name == CLOCK and (value := json.loads(self.texts[name])):
            self.lags.append(time.time() - value[1])


async def connect(port: int, names: list[str]) -> LeanClient:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: LeanClient(names, f"127.0.0.1:{port}"), "127.0.0.1", port)
    return client


async def until(client: LeanClient, condition: Callable[[], object], timeout: float) -> None:
    """Returns when what the client has heard makes `condition` true."""
    async with asyncio.timeout(timeout):
        while not condition():
            client.news.clear()
            await client.news.wait()
