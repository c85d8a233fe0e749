"""The memory back end with a line to its listener that does what a test says: loses, holds back, doubles, breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from dref_django import background
from dref_django.backends.base import Params, Sink
from dref_django.backends.delivery import NotSent
from dref_django.backends.memory import MemoryBackend, MemoryFeed
from dref_django.protocol import Command, Data, Notice, Reply, Write
from dref_django.store import Event

PATIENCE = 10.0


class ScriptedBackend(MemoryBackend):
    def __init__(self, *, ordered: bool = True, heartbeat: float = 3600.0, timeout: float = 5.0) -> None:
        super().__init__(Params(heartbeat=heartbeat, timeout=timeout))
        self.ordered_notices = ordered  # type: ignore[misc]
        self.losing = False
        self.held: list[Event] | None = None
        self.unreachable_now = False
        self.fault: Exception | None = None
        self.reads = 0
        self.subscribed: list[str] = []
        self.confirming = _Gate()
        """Shut: subscriptions are not confirmed."""
        self.answering = _Gate()
        """Shut: what the hub asks is not answered."""
        self.feeds: list[ScriptedFeed] = []

    def feed(self, sink: Sink) -> ScriptedFeed:
        self.feeds.append(ScriptedFeed(self, sink))
        return self.feeds[-1]

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        if background.on_loop():
            self.reads += len(commands)
            if self.fault is not None:
                raise self.fault
            if self.unreachable_now:
                raise NotSent from ConnectionRefusedError("scripted")
            replies = self.send(commands, now, timeout)
            await self.answering.passed()
            return replies
        return self.send(commands, now, timeout)

    # --- what a test does to the line -----------------------------------------------------------------------------

    def hold(self) -> None:
        """From now on events are kept back."""
        self.held = []

    def release(self, arrange: Callable[[list[Event]], Sequence[Event]] = list) -> None:
        """Delivers what was kept back, as `arrange` orders, doubles or drops it."""
        assert self.held is not None
        events, self.held = self.held, None
        self.deliver(arrange(events))

    def deliver(self, events: Sequence[Event]) -> None:
        for feed in self.feeds:
            feed.pass_on(events)

    def cut(self) -> None:
        """The connection breaks: nothing arrives any more."""
        self.losing = True
        self._tell(lambda sink: sink.down("scripted"))

    def restore(self, epoch: str = "") -> None:
        self.losing = False
        self.epoch = epoch or self.epoch
        self._tell(lambda sink: sink.up(self.epoch))

    def set_back(self, name: str, data: Data, version: int) -> None:
        """A fail-over that lost writes: the entry is older than it was."""
        with self._mutex:
            entry = self._store._entries[name]
            self._store._entries[name] = entry._replace(data=data, version=version)

    def write_silently(self, name: str, data: Data) -> None:
        """A change whose hint is lost."""
        self.losing = True
        self.execute([Write(name, data)])
        self.losing = False

    def _tell(self, what: Callable[[Any], None]) -> None:
        for feed in self.feeds:
            background.get_loop().call_soon_threadsafe(what, feed.sink)
        settle()


class ScriptedFeed(MemoryFeed):
    def __init__(self, backend: ScriptedBackend, sink: Sink) -> None:
        super().__init__(backend, sink)
        self.script = backend
        self.sink = sink

    def publish(self, events: Sequence[Event]) -> None:
        if self.script.held is not None:
            self.script.held.extend(events)
        elif not self.script.losing:
            super().publish(events)

    def pass_on(self, events: Sequence[Event]) -> None:
        super().publish(events)

    async def subscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        await self.script.confirming.passed()
        self.script.subscribed += [*names, *(f"{prefix}*" for prefix in prefixes)]
        await super().subscribe(names, prefixes)

    async def unsubscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        await super().unsubscribe(names, prefixes)
        for each in (*names, *(f"{prefix}*" for prefix in prefixes)):
            self.script.subscribed.remove(each)


class _Gate:
    """Open unless a test shuts it; coroutines wait before it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._waiting: list[asyncio.Event] = []

    async def passed(self) -> None:
        if not self._open.is_set():
            event = asyncio.Event()
            self._waiting.append(event)
            await event.wait()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            background.get_loop().call_soon_threadsafe(event.set)


def settle() -> None:
    """Returns when the background loop has done what it had to do at once."""

    async def turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    background.submit(turns()).result(PATIENCE)


def is_notice(event: Event) -> bool:
    return isinstance(event, Notice)
