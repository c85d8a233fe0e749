"""Who listens to changes: taps of feeds, on the loop of the process's `Attachment`, and the feed itself.

Every node applies every entry, so each process hears of changes from the node on its own host, in the order of the
log. A tap that missed something (a snapshot replaced entries, the node was without a leader) is told `up` once more:
its hub then looks at all that it watches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from dref_django.backends.base import Sink, hand_over
from dref_django.protocol import Wake
from dref_django.store import Event

MAX_QUEUED: Final = 10_000
"""Deliveries that wait for the background loop; what comes then is dropped, and all that is watched is read again."""

if TYPE_CHECKING:
    from .attachment import Attachment


class Tap:
    """One listener: what it wants, and where that goes. `up`, `down` and `events` are called on the raft loop."""

    def __init__(
        self,
        space: str,
        owner: str,
        *,
        up: Callable[[str], None],
        down: Callable[[str], None],
        events: Callable[[Sequence[Event]], None],
    ) -> None:
        self.space = space
        self.owner = owner  # wakes of its waiters come without a subscription
        self.names: set[str] = set()
        self.prefixes: set[str] = set()
        self.up = up
        self.down = down
        self.events = events
        self._wakes = f"{owner}/"

    def want(self, names: Iterable[str], prefixes: Iterable[str]) -> None:
        self.names.update(names)
        self.prefixes.update(prefixes)

    def drop(self, names: Iterable[str], prefixes: Iterable[str]) -> None:
        self.names.difference_update(names)
        self.prefixes.difference_update(prefixes)

    def hears(self, event: Event) -> bool:
        if isinstance(event, Wake):
            return event.owner.startswith(self._wakes)
        return event.name in self.names or any(event.name.startswith(prefix) for prefix in self.prefixes)


class Fanout:
    """The taps of a node."""

    def __init__(self) -> None:
        self._epoch = ""
        self._taps: dict[str, list[Tap]] = {}
        self.is_up = False

    def add(self, tap: Tap) -> None:
        self._taps.setdefault(tap.space, []).append(tap)
        if self.is_up:
            tap.up(self._epoch)

    def remove(self, tap: Tap) -> None:
        taps = self._taps.get(tap.space, [])
        if tap in taps:
            taps.remove(tap)
            if not taps:
                del self._taps[tap.space]

    def publish(self, space: str, events: Sequence[Event]) -> None:
        for tap in self._taps.get(space, ()):
            if wanted := [event for event in events if tap.hears(event)]:
                tap.events(wanted)

    def up(self, epoch: str) -> None:
        """Also when it was up: something was missed."""
        self._epoch, self.is_up = epoch, True
        for tap in self._all():
            tap.up(self._epoch)

    def down(self, reason: str) -> None:
        if self.is_up:
            self.is_up = False
            for tap in self._all():
                tap.down(reason)

    def _all(self) -> list[Tap]:
        return [tap for taps in self._taps.values() for tap in taps]


class RaftFeed:
    """See `base.Feed`. Runs on the background loop; its tap lives on the raft loop."""

    def __init__(self, attach: Callable[[], Attachment], space: str, owner: str, sink: Sink) -> None:
        self._attach = attach
        self._sink = sink
        self._tap = Tap(space, owner, up=self._up, down=self._down, events=self._events)
        self._attachment: Attachment | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[Callable[[], None]] = deque()
        self._epoch = ""
        self._is_overrun = False

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        attachment = self._attachment = await asyncio.to_thread(self._attach)
        attachment.post(lambda: attachment.add_tap(self._tap))
        try:
            await asyncio.Event().wait()
        finally:
            attachment.post(lambda: attachment.remove_tap(self._tap))

    async def subscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        await self._change(lambda attachment, done: attachment.want(self._tap, set(names), set(prefixes), done))

    async def unsubscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        await self._change(lambda attachment, done: attachment.drop(self._tap, set(names), set(prefixes), done))

    async def _change(self, change: Callable[[Attachment, Callable[[], None]], None]) -> None:
        attachment, loop = self._attachment, asyncio.get_running_loop()
        if attachment is None:
            attachment = self._attachment = await asyncio.to_thread(self._attach)
        confirmed: asyncio.Future[None] = loop.create_future()

        def confirm() -> None:
            if not confirmed.done():
                confirmed.set_result(None)

        attachment.post(lambda: change(attachment, lambda: _soon(loop, confirm)))
        await confirmed

    # --- on the raft loop ---------------------------------------------------------------------------------------

    def _up(self, epoch: str) -> None:
        self._epoch = epoch
        self._deliver(lambda: self._sink.up(epoch))

    def _down(self, reason: str) -> None:
        self._deliver(lambda: self._sink.down(reason))

    def _events(self, events: Sequence[Event]) -> None:
        self._deliver(lambda: hand_over(self._sink, events))

    def _deliver(self, call: Callable[[], None]) -> None:
        """One wake-up of the background loop takes all that has come by then."""
        if len(self._queue) >= MAX_QUEUED:
            self._is_overrun = True
            return
        self._queue.append(call)
        if len(self._queue) == 1 and self._loop is not None:
            _soon(self._loop, self._drain)

    def _drain(self) -> None:
        for _ in range(len(self._queue)):
            self._queue[0]()
            self._queue.popleft()  # only now: while one is in hand, who adds another need not wake this loop
        if self._is_overrun and not self._queue:
            self._is_overrun = False
            self._sink.up(self._epoch)
        if self._queue and self._loop is not None:
            self._loop.call_soon(self._drain)


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # it is closed: nobody listens any more
        return
