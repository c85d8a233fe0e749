"""How far a follower is, as its leader knows it, and how fast it may be sent more."""

from __future__ import annotations

from collections import deque
from enum import Enum

from .log import ENTRY_OVERHEAD
from .messages import Entry, Snapshot


class State(Enum):
    PROBE = "probe"
    """Where the logs agree is not known: one append at a time, the next after its answer or a heartbeat's."""
    REPLICATE = "replicate"
    """They agree up to `match`: appends are sent one after another without waiting, `next` runs ahead."""
    SNAPSHOT = "snapshot"
    """What the follower needs is no longer in the log: it is sent a snapshot, and no entries meanwhile."""


class Progress:
    """What one leader knows of one follower, in one term.

    Invariants: match < next; match never goes back; outside REPLICATE nothing is in flight but the one probe.
    """

    __slots__ = (
        "_flight_bytes",
        "_inflight",
        "acked_bytes",
        "chunks_complete",
        "heard",
        "last_match",
        "leaving_at",
        "match",
        "next",
        "probing",
        "round",
        "sent_bytes",
        "snapshot",
        "stalled_since",
        "state",
        "told",
    )

    def __init__(self, next_index: int, now: int) -> None:
        self.state = State.PROBE
        self.match = 0
        """Known to be on its disk, and equal to this leader's log up to there."""
        self.next = next_index
        self.probing = False
        """In PROBE: an append is under way."""
        self.heard = now
        """The leader's tick of its last sign of life; a new leader gives everyone the benefit of the doubt."""
        self.round = 0
        """The latest heartbeat round that it answered."""
        self.told = 0
        """The commit index that was last sent to it."""
        self.last_match = -1
        """`match` at its last answer to a heartbeat: no change since then means that something was lost."""
        self.leaving_at: int | None = None
        """No longer a member; at this tick it is forgotten. Until then it still hears that it was removed."""
        self.snapshot: Snapshot | None = None
        """In SNAPSHOT: what is being sent; one that was begun is finished, even when there is a newer one."""
        self.sent_bytes = 0
        self.acked_bytes = 0
        """How much of it the follower said last that it has."""
        self.chunks_complete = False
        """The last chunk was sent, too."""
        self.stalled_since = now
        """Tick at which `acked_bytes` last changed."""
        self._inflight: deque[tuple[int, int]] = deque()
        self._flight_bytes = 0

    @property
    def inflight(self) -> int:
        return len(self._inflight)

    def has_room(self, max_messages: int, max_bytes: int) -> bool:
        return len(self._inflight) < max_messages and self._flight_bytes < max_bytes

    def sent(self, entries: tuple[Entry, ...]) -> None:
        """In REPLICATE: these are under way."""
        size = sum(len(entry.data) for entry in entries) + ENTRY_OVERHEAD * len(entries)
        self.next = entries[-1].index + 1
        self._inflight.append((entries[-1].index, size))
        self._flight_bytes += size

    def acknowledge(self, index: int) -> None:
        """Everything up to `index` matches and is on its disk."""
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        inflight = self._inflight
        while inflight and inflight[0][0] <= index:
            self._flight_bytes -= inflight.popleft()[1]

    def probe(self, next_index: int) -> None:
        self._clear(State.PROBE)
        self.next = max(next_index, self.match + 1)

    def replicate(self) -> None:
        self._clear(State.REPLICATE)
        self.next = self.match + 1

    def send_snapshot(self, snapshot: Snapshot, now: int) -> None:
        self._clear(State.SNAPSHOT)
        self.snapshot = snapshot
        self.stalled_since = now

    def _clear(self, state: State) -> None:
        self.state = state
        self.probing = False
        self.snapshot = None
        self.sent_bytes = self.acked_bytes = 0
        self.chunks_complete = False
        self._inflight.clear()
        self._flight_bytes = 0
