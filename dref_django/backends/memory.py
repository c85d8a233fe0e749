"""The truth lives in this process: the store behind a mutex. For unit tests and single-process projects."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from dref_django.protocol import Command, Reply, Wake
from dref_django.store import Event, Store

from .base import Backend, Params, Sink, hand_over


class MemoryBackend(Backend):
    """Linearizable within the process; nothing survives it. A forked child starts with an empty store."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self._start_anew()

    def _start_anew(self) -> None:
        self._mutex = threading.Lock()
        self._store = Store()
        self._feeds: list[MemoryFeed] = []
        self.epoch = secrets.token_hex(8)
        # The wall clock of the start, and from there a clock that nobody sets: a step must not end a lease.
        self._began = time.time_ns() - time.monotonic_ns()

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        with self._mutex:
            replies, events = self._store.apply(commands, self._clock_us() if now is None else now)
            if events:
                for feed in self._feeds:
                    feed.publish(events)
        return replies

    def _clock_us(self) -> int:
        return (self._began + time.monotonic_ns()) // 1000

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        return self.send(commands, now, timeout)

    def feed(self, sink: Sink) -> MemoryFeed:
        return MemoryFeed(self, sink)

    def attach(self, feed: MemoryFeed) -> None:
        with self._mutex:
            self._feeds.append(feed)

    def detach(self, feed: MemoryFeed) -> None:
        with self._mutex:
            self._feeds = [other for other in self._feeds if other is not feed]

    def close(self) -> None:
        """Nothing to close: the values live as long as this object."""

    def after_fork(self) -> None:
        self._start_anew()


class MemoryFeed:
    """Hands events to the background loop in the order in which the store made them."""

    def __init__(self, backend: MemoryBackend, sink: Sink) -> None:
        self._backend = backend
        self._sink = sink
        self._names: set[str] = set()
        self._prefixes: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[Event] = deque()
        self._scheduled = False

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._backend.attach(self)
        self._sink.up(self._backend.epoch)
        try:
            await asyncio.Event().wait()
        finally:
            self._backend.detach(self)

    async def subscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        self._names.update(names)
        self._prefixes.update(prefixes)

    async def unsubscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        self._names.difference_update(names)
        self._prefixes.difference_update(prefixes)

    def publish(self, events: Sequence[Event]) -> None:
        """Called under the store's mutex, in any thread; must not block. One call of the loop takes all."""
        wanted = [event for event in events if isinstance(event, Wake) or self._watches(event.name)]
        if not wanted or self._loop is None or self._loop.is_closed():
            return
        self._queue.extend(wanted)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        hand_over(self._sink, [self._queue.popleft() for _ in range(len(self._queue))])

    def _watches(self, name: str) -> bool:
        return name in self._names or any(name.startswith(prefix) for prefix in tuple(self._prefixes))
