"""What one client is still to be sent: at most one item a name, its newest value, however slow the client is.

A client acknowledges what it received by answering pings, each of which carries the number of characters sent before
it. What is on the way is so bounded by the window, whatever the server between us and the socket would buffer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from . import wire
from .frames import Entry, Frame
from .limits import Limits

REPLIES: Final = 256
"""Answers that may wait; a client that asks on without reading is dropped."""
PINGS_MISSED: Final = 2

Send = Callable[[str], Awaitable[None]]


class Overrun(Exception):
    """The client asks, and does not take the answers."""


class Outbox:
    """All methods are called on the client's loop; `run` is its sending task."""

    def __init__(self, send: Send, limits: Limits, is_stale: Callable[[], bool], ended: Callable[[], None]) -> None:
        self.end = ended
        self._send = send
        self._limits = limits
        self._is_stale = is_stale
        self._news = asyncio.Event()
        self._replies: deque[str] = deque()
        self._pending: dict[str, Entry] = {}
        self._sent: dict[str, int] = {}
        """By name the serial of the frame that the client holds; negative when it got that text elsewhere."""
        self._resume: dict[str, wire.Position] = {}
        self._characters = 0
        self._acknowledged = 0
        self._pinged = 0
        self._pings: deque[tuple[int, float]] = deque()
        """Unanswered ones: the characters sent before it, and when."""
        self._ping_due: float | None = None

    # --- what there is to send ----------------------------------------------------------------------------------

    def mark(self, entry: Entry) -> None:
        self._pending[entry.name] = entry
        self._news.set()

    def reply(self, message: str) -> None:
        """Queues an answer; before all values that are marked later. Raises `Overrun`."""
        if len(self._replies) >= REPLIES:
            raise Overrun
        self._replies.append(message)
        self._news.set()

    def resume(self, name: str, position: wire.Position) -> None:
        """The client says that it holds this version: it need not be sent."""
        self._resume[name] = position

    def resync(self, entry: Entry) -> None:
        """The client wants the whole value."""
        self._sent.pop(entry.name, None)
        self.mark(entry)

    def forget(self, name: str) -> None:
        for kept in (self._pending, self._sent, self._resume):
            kept.pop(name, None)

    def holds(self, name: str) -> bool:
        """Whether a value of that name was sent."""
        return name in self._sent

    @property
    def names(self) -> list[str]:
        """The names of which something was sent or is still to be."""
        return [*{*self._sent, *self._pending, *self._resume}]

    @property
    def is_full(self) -> bool:
        """A whole window is on the way: the client has to acknowledge some of it first."""
        return self._characters - self._acknowledged >= self._limits.window

    # --- heartbeats ---------------------------------------------------------------------------------------------

    def beat(self) -> bool:
        """Once a heartbeat: has a ping sent. Returns whether the client still answers, or takes, the earlier ones."""
        now = time.monotonic()
        since = self._pings[0][1] if self._pings else self._ping_due
        if since is None:
            self._ping_due = now
            self._news.set()
            return True
        return now - since < (PINGS_MISSED - 0.5) * self._limits.heartbeat

    def pong(self, ping: int) -> bool:
        """The client has received all before that ping. Returns whether there was such a ping unanswered."""
        if all(number != ping for number, _ in self._pings):
            return False
        while self._pings.popleft()[0] != ping:
            pass
        self._acknowledged = ping
        self._news.set()
        return True

    # --- sending ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sends until cancelled, or until the transport raises."""
        while True:
            self._news.clear()
            while (message := self._next()) is not None:
                self._characters += len(message)
                await self._send(message)
            await self._news.wait()

    async def flush(self) -> None:
        """Sends the answers that wait, and nothing else: before a close."""
        while self._replies:
            await self._send(self._replies.popleft())

    def _next(self) -> str | None:
        if self._replies:
            return self._replies.popleft()
        if self._ping_due is not None or self._characters - self._pinged > self._limits.window // 4:
            return self._ping()
        while self._pending and not self.is_full:
            name = next(iter(self._pending))
            if (message := self._message(self._pending.pop(name))) is not None:
                return message
        return None

    def _ping(self) -> str:
        self._ping_due = None
        self._pinged = self._characters
        self._pings.append((self._pinged, time.monotonic()))
        return wire.ping(self._pinged, stale=self._is_stale())

    def _message(self, entry: Entry) -> str | None:
        frame, held = entry.frame, self._sent.get(entry.name, 0)
        if frame is None or abs(held) == frame.serial:
            return None
        if held == 0 and entry.name not in self._sent and len(self._sent) >= self._limits.max_names:
            return self._too_many(frame)
        position = self._resume.pop(entry.name, None)
        if position == frame.position and frame.text is not None:
            self._sent[entry.name] = -frame.serial
            return wire.current(entry.name, position)
        self._sent[entry.name] = frame.serial
        return frame.splice if frame.follows and frame.follows == held else frame.whole

    def _too_many(self, frame: Frame) -> str:
        limit = self._limits.max_names
        return wire.error(
            "too-many-names", f"no more than {limit} names are sent to one client (MAX_NAMES)", names=[frame.name]
        )
