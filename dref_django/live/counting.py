"""How many pages this process serves, and how well they keep up. Asked for at each scrape; counts nothing on the way.

from dref_django.live.counting import counts

counts("default").sockets
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Counts(NamedTuple):
    """Of one alias in this process; what consumers of the project's own watch is not in it."""

    sockets: int
    """Clients that are connected, over websockets or Server-Sent Events."""
    subscriptions: int
    """Names and prefixes that they watch, counted for each client."""
    rooms: int
    """Rooms that they are in, counted for each client."""
    slow: int
    """Those of the sockets that have not acknowledged a whole WINDOW: their changes conflate until they do."""
    dropped: Mapping[str, int]
    """Clients that the server has disconnected since the process started, by the protocol's word for why:
    `unresponsive`, `rate`, `too-large`, `restarting`, `unavailable`."""
    lag: float | None
    """Seconds from when the back end made the change that was last handed to sockets, by its clock, until it was ready
    to be sent, by this machine's: a difference between the two clocks is in it. None before the first change."""


class Client(Protocol):
    @property
    def subscriptions(self) -> int: ...

    @property
    def rooms(self) -> int: ...

    @property
    def is_slow(self) -> bool: ...


class Tally:
    """What is known of one alias's clients. Safe from any thread."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._clients: set[Client] = set()
        self._dropped: Counter[str] = Counter()
        self.lag: float | None = None

    def came(self, client: Client) -> None:
        with self._mutex:
            self._clients.add(client)

    def went(self, client: Client) -> None:
        with self._mutex:
            self._clients.discard(client)

    def drop(self, reason: str) -> None:
        with self._mutex:
            self._dropped[reason] += 1

    def counts(self) -> Counts:
        with self._mutex:
            clients, dropped = list(self._clients), dict(self._dropped)
        return Counts(
            sockets=len(clients),
            subscriptions=sum(client.subscriptions for client in clients),
            rooms=sum(client.rooms for client in clients),
            slow=sum(client.is_slow for client in clients),
            dropped=dropped,
            lag=self.lag,
        )


_tallies: dict[str, Tally] = {}


def tally_of(alias: str) -> Tally:
    """The alias's tally, to the end of the process: it outlives the back end that the alias stands for."""
    return _tallies.setdefault(alias, Tally())


def counts(alias: str) -> Counts:
    """What there is now. Connects to nothing; some microseconds a socket."""
    return tally_of(alias).counts()


def _after_fork() -> None:
    _tallies.clear()


os.register_at_fork(after_in_child=_after_fork)
