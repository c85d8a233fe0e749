"""From the hub to every socket of the process: each change is made into JSON once, however many watch.

    hub loop: Tap.push      the newest change a name waits, no more
    encoder thread: Entry     decodes, writes the text, cuts the splice: one Frame a version
    each event loop: Audience marks the outboxes of those who watch; they send at their own pace

There is one Tap (a reader of the hub) a watched name or prefix, one Entry a name. An outbox looks at the entry's
frame when it sends, so a change that a slow socket has not sent yet is replaced by the next one, and costs nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from dref_django import backends
from dref_django.backends.base import Backend
from dref_django.hub import FeedStatus, Hub, Raw
from dref_django.streams import get_hub
from dref_django.threads import Worker

from .counting import tally_of
from .frames import Entry
from .rooms import Roster, room_of

logger = logging.getLogger("dref_django")


class Receiver(Protocol):
    """Who watches: an outbox. Called on its own loop."""

    def mark(self, entry: Entry) -> None:
        """There is a new frame."""

    def end(self) -> None:
        """Nothing follows: the back end is out of use."""


class Tap:
    """The one reader that the hub has for a watched name or prefix; of a room's members, what watches the room."""

    every = False

    def __init__(self, fanout: Fanout, name: str | None, prefix: str) -> None:
        self._fanout = fanout
        self.name, self.prefix = name, prefix
        self.audiences = 0
        self._roster: Roster | None = None

    def open(self, hub: Hub) -> None:
        if self.name is not None and room_of(self.name) is not None:
            self._roster = Roster(self.name, hub.backend)
            return self._roster.open(self)
        hub.add(self, name=self.name, prefix=self.prefix).add_done_callback(self._opened)

    def _opened(self, future: concurrent.futures.Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            logger.error("dref: %r cannot be watched for pages", self.name or self.prefix + "*", exc_info=error)

    def close(self, hub: Hub) -> None:
        if self._roster is not None:
            self._roster.close()
        else:
            hub.remove(self)

    def push(self, raw: Raw) -> None:
        self._fanout.push(raw)

    def end(self) -> None:
        self._fanout.end()


class Audience:
    """Those who watch on one event loop. Touched on that loop only, except `announce` and `end`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.names: dict[str, set[Receiver]] = {}
        self.prefixes: dict[str, set[Receiver]] = {}
        self._mutex = threading.Lock()
        self._news: dict[str, Entry] = {}

    def announce(self, entries: list[Entry]) -> None:
        """From the encoder thread: one wake-up of the loop for all that gathers until it comes round."""
        with self._mutex:
            scheduled = bool(self._news)
            self._news.update((entry.name, entry) for entry in entries)
        if not scheduled:
            self.loop.call_soon_threadsafe(self._spread)

    def _spread(self) -> None:
        with self._mutex:
            news, self._news = self._news, {}
        for entry in news.values():
            for receiver in self.names.get(entry.name, ()):
                receiver.mark(entry)
            for prefix, receivers in self.prefixes.items():
                if entry.name.startswith(prefix):
                    for receiver in receivers:
                        receiver.mark(entry)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for receiver in set[Receiver]().union(*self.names.values(), *self.prefixes.values()):
            receiver.end()


class Fanout:
    """The fan-out of one back end in this process. `watch` and `unwatch` are called on the receiver's loop."""

    def __init__(self, backend: Backend) -> None:
        self.entries: dict[str, Entry] = {}
        self._hub = get_hub(backend)
        self._alias = backend.params.alias
        self._tally = tally_of(self._alias)
        self._mutex = threading.Lock()
        self._taps: dict[str, Tap] = {}
        """By name."""
        self._prefix_taps: dict[str, Tap] = {}
        self._audiences: dict[asyncio.AbstractEventLoop, Audience] = {}
        self._raws: dict[str, Raw] = {}
        self.ended = False

    @property
    def stale(self) -> bool:
        return self._hub.status is FeedStatus.STALE

    # --- on the loops of the receivers --------------------------------------------------------------------------

    def watch(self, receiver: Receiver, *, name: str | None = None, prefix: str = "") -> None:
        """Marks what is known of the name (or of all names with the prefix), then every change."""
        loop = asyncio.get_running_loop()
        with self._mutex:
            audience = self._audiences.setdefault(loop, Audience(loop))
            members = audience.prefixes if name is None else audience.names
            receivers = members.setdefault(prefix if name is None else name, set())
            tap = self._join(name, prefix) if not receivers else None
            receivers.add(receiver)
            known = [entry for entry in self._under(name, prefix) if entry.frame is not None]
        if tap is not None:
            tap.open(self._hub)
        for entry in known:
            if name is not None or (entry.frame is not None and not entry.frame.deleted):
                receiver.mark(entry)

    def unwatch(self, receiver: Receiver, *, name: str | None = None, prefix: str = "") -> None:
        loop = asyncio.get_running_loop()
        with self._mutex:
            audience = self._audiences[loop]
            members = audience.prefixes if name is None else audience.names
            key = prefix if name is None else name
            members[key].discard(receiver)
            if members[key]:
                return
            del members[key]
            if not audience.names and not audience.prefixes:
                del self._audiences[loop]
            tap = self._leave(name, prefix)
        if tap is not None:
            tap.close(self._hub)

    def _under(self, name: str | None, prefix: str) -> list[Entry]:
        if name is not None:
            entry = self.entries.get(name)
            return [] if entry is None else [entry]
        return [entry for entry in self.entries.values() if entry.name.startswith(prefix)]

    def _join(self, name: str | None, prefix: str) -> Tap | None:
        """The tap when it is new and has to be opened."""
        taps, key = (self._prefix_taps, prefix) if name is None else (self._taps, name)
        tap = taps.get(key)
        new = tap is None
        if tap is None:
            tap = taps[key] = Tap(self, name, prefix)
        tap.audiences += 1
        return tap if new else None

    def _leave(self, name: str | None, prefix: str) -> Tap | None:
        """The tap when nobody is left and it has to be closed."""
        taps, key = (self._prefix_taps, prefix) if name is None else (self._taps, name)
        tap = taps[key]
        tap.audiences -= 1
        if tap.audiences:
            return None
        del taps[key]
        for entry in self._under(name, prefix):
            if not self._is_covered(entry.name):
                del self.entries[entry.name]
                self._raws.pop(entry.name, None)
        return tap

    def _is_covered(self, name: str) -> bool:
        return name in self._taps or any(map(name.startswith, self._prefix_taps))

    # --- on the background loop ---------------------------------------------------------------------------------

    def push(self, raw: Raw) -> None:
        with self._mutex:
            if not self._is_covered(raw.name):
                return
            scheduled = bool(self._raws)
            self._raws[raw.name] = raw
        if not scheduled:
            _encoder.put(self)
        else:
            _encoder.start()

    def end(self) -> None:
        with self._mutex:
            if self.ended:
                return
            self.ended = True
            audiences = list(self._audiences.values())
        for audience in audiences:
            self._reach(audience, audience.end)

    # --- on the encoder thread ----------------------------------------------------------------------------------

    def encode(self) -> None:
        """Makes the frames of all that was pushed since the last time, and announces them on every loop."""
        with self._mutex:
            raws, self._raws = self._raws, {}
            waiting = [(raw, self.entries.setdefault(name, Entry(name))) for name, raw in raws.items()]
        news = [entry for raw, entry in waiting if entry.take(raw, self._alias)]
        if (made := max((raw.version for raw, _ in waiting if _is_news(raw)), default=None)) is not None:
            self._tally.lag = time.time() - made / 1e6
        with self._mutex:
            audiences = list(self._audiences.values())
        for audience in audiences:
            self._reach(audience, partial(audience.announce, news))

    def _reach(self, audience: Audience, call: Callable[[], None]) -> None:
        """A loop that was closed under its sockets takes its audience with it."""
        if not audience.loop.is_closed():
            try:
                return call()
            except RuntimeError:
                if not audience.loop.is_closed():
                    raise
        self._bury(audience)

    def _bury(self, audience: Audience) -> None:
        with self._mutex:
            if self._audiences.pop(audience.loop, None) is None:
                return
            gone = [self._leave(name, "") for name in audience.names]
            gone += [self._leave(None, prefix) for prefix in audience.prefixes]
        for tap in gone:
            if tap is not None:
                tap.close(self._hub)


def _is_news(raw: Raw) -> bool:
    """A new value as it comes, whose version is the moment at which the back end made it, in microseconds."""
    return not (raw.first or raw.gap or raw.data is None) and room_of(raw.name) is None


_mutex = threading.Lock()
_fanouts: dict[Backend, Fanout] = {}
_encoder: Worker[Fanout] = Worker("dref-fanout", Fanout.encode, "a change did not reach the pages")
"""Decodes and writes JSON, so that neither the hub's loop nor a server's waits for 1 MiB of it."""


def get_fanout(alias: str) -> Fanout:
    """The fan-out of the back end that the alias has now. Connects to nothing."""
    backend = backends.get_backend(alias)
    with _mutex:
        fanout = _fanouts.get(backend)
        if fanout is None:
            fanout = _fanouts[backend] = Fanout(backend)
        return fanout


def _discard(backend: Backend) -> None:
    with _mutex:
        fanout = _fanouts.pop(backend, None)
    if fanout is not None:
        fanout.end()


def _after_fork() -> None:
    global _mutex, _fanouts
    _mutex = threading.Lock()
    _fanouts = {}
    _encoder.forget()


backends.on_discard(_discard)
os.register_at_fork(after_in_child=_after_fork)
