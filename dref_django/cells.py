"""What the hub's parts talk about: a watched name, what is known of it, who watches it, and why it is doubted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from .clock import Timer
from .protocol import Data, Notice


class FeedStatus(StrEnum):
    READY = "READY"
    """Everything watched is as stored, and changes arrive."""
    STALE = "STALE"
    """The connection is down or a comparison is under way: values may be old."""


class Raw(NamedTuple):
    """A change as the hub hands it to readers: encoded, so that each reader decodes in its own thread."""

    name: str
    version: int
    base: int
    """The version that this hub handed out before; 0 at the first."""
    data: Data | None
    """None: deleted or absent."""
    gap: bool
    """Changes between `base` and this one were missed."""
    first: bool
    """Part of the snapshot that a reader starts with; no change."""
    epoch: str


class Reader(Protocol):
    """A watcher. Called on the background loop; must not block, and bounds its own buffer."""

    every: bool
    """Whether it wants each change (then order is waited for even when a newer whole value is at hand)."""

    def push(self, raw: Raw) -> None: ...

    def end(self) -> None:
        """The hub closes (its back end was discarded); nothing follows."""


class Near(NamedTuple):
    """This process's copy of a value. Replaced, never changed."""

    version: int
    data: Data | None
    expires: float | None
    """On the back end's monotonic clock."""
    checked: float
    """Time of the same clock at which a read or a write of ours last confirmed it."""

    @classmethod
    def of(cls, version: int, data: Data | None, left: int | None, now: float) -> Near:
        return cls(version, data, None if left is None or data is None else now + left / 1e6, now)

    def is_fresh(self, max_staleness: float, now: float) -> bool:
        return now - self.checked <= max_staleness

    def has_expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class Doubt(NamedTuple):
    """Why a name is to be read again."""

    gap: bool = False
    """A newer value counts as a gap at once."""
    fresh: bool = False
    """Read it even if the version is the one we know, and believe an older one (a new epoch)."""
    hints: Sequence[Notice] = ()
    """The first and the last of the notices that announced it without data."""

    def with_(self, other: Doubt) -> Doubt:
        hints = [*self.hints, *other.hints]
        return Doubt(self.gap or other.gap, self.fresh or other.fresh, [hints[0], hints[-1]] if hints[1:] else hints)


class Cell:
    """What this process knows of one watched name.

    All but `near` belongs to the background loop. `near` is read by `peek` from any thread and may run ahead of
    `version` (a write of our own, whose notice is still on its way), never behind it.
    """

    __slots__ = (
        "data", "heard", "held", "hinted", "known", "mortal", "name", "near", "peeked", "readers", "timer", "version",
        "waiting",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard = False
        """Changes from now on are noticed, so a read may begin the cell's story."""
        self.known = False
        self.version = 0
        self.data: Data | None = None
        self.mortal = False
        """The value has a deadline: an absence one version later is its expiry."""
        self.near: Near | None = None
        self.readers: list[Reader] = []
        self.peeked = False
        self.waiting: list[asyncio.Future[None]] = []
        """Done when the cell is known, or buried."""
        self.held: dict[int, Notice] = {}
        """Notices that came before the one they continue, by base."""
        self.hinted = 0
        """The version that a hint has announced and a read is to bring."""
        self.timer: Timer | None = None

    def let_go(self) -> None:
        """Whoever waits for the cell goes on."""
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(None)
        self.waiting.clear()
