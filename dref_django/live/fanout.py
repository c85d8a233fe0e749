"""From the hub to every socket of the process: each change is made into JSON once, however many watch.

    hub loop: Topic.push      the newest change a name waits, no more
    encoder thread: Entry     decodes, writes the text, cuts the splice: one Frame a version
    each event loop: Audience marks the outboxes of those who watch; they send at their own pace

There is one Topic (a reader of the hub) a watched name or prefix, one Entry a name. An outbox looks at the entry's
frame when it sends, so a change that a slow socket has not sent yet is replaced by the next one, and costs nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import queue
import threading
from collections.abc import Callable
from functools import cached_property, partial
from itertools import count
from typing import Any, Final, Protocol

from dref_django import backends
from dref_django.backends.base import Backend
from dref_django.deltas import make_splice
from dref_django.exceptions import DRefError
from dref_django.hub import FeedStatus, Hub, Raw
from dref_django.refs import DRef, ref_for
from dref_django.streams import get_hub

from . import wire
from .view import to_json, view_of

logger = logging.getLogger("dref_django")

_serials: Final = count(1)


class Frame:
    """What pages are told of one version of one name. Made once, never changed."""

    def __init__(self, raw: Raw, text: bytes | None, problem: str, before: Frame | None) -> None:
        self.serial = next(_serials)
        self.name = raw.name
        self.position = (raw.epoch, raw.version)
        self.deleted = raw.data is None
        self.text = text
        self.problem = problem
        """Why there is no text: the stored value does not fit the ref's type, or has no view."""
        self.follows = 0
        """Serial of the frame that `splice` continues; 0: none, it takes the snapshot."""
        self.splice = ""
        if before is not None and before.text is not None and text is not None:
            self._continue(before, before.text, text)

    def _continue(self, before: Frame, old: bytes, new: bytes) -> None:
        cut = make_splice(old, new)
        if cut is None:
            return
        change = (cut.start, cut.end, cut.replacement.decode("ascii"))
        base, version = before.position[1], self.position[1]
        self.splice = wire.splice(self.name, base, version, change, len(new), deleted=self.deleted)
        self.follows = before.serial

    @cached_property
    def whole(self) -> str:
        """The message for a client that cannot use the splice."""
        if self.text is None:
            return wire.error("invalid-value", self.problem, names=[self.name])
        return wire.snapshot(self.name, self.position, self.text.decode("ascii"), deleted=self.deleted)


class Entry:
    """One name that somebody watches, by itself or under a prefix."""

    __slots__ = ("_ref", "frame", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.frame: Frame | None = None
        self._ref: DRef[Any] | None = None

    def take(self, raw: Raw, alias: str) -> bool:
        """On the encoder thread. Returns whether there is something new to send."""
        before = self.frame
        if before is not None and before.position == (raw.epoch, raw.version):
            return False
        text, problem = None, ""
        try:
            self._ref = ref_for(self.name, alias)  # kept: an undeclared one would be made anew for every change
            text = to_json(view_of(self._ref._decode(self.name, raw.data))).encode("ascii")
        except DRefError as error:
            problem = str(error)
        except Exception:
            logger.exception("dref: %r cannot be shown on a page", self.name)
            problem = "the value cannot be shown; the server's log says why"
        self.frame = Frame(raw, text, problem, before)
        return True


class Receiver(Protocol):
    """Who watches: an outbox. Called on its own loop."""

    def mark(self, entry: Entry) -> None:
        """There is a new frame."""

    def end(self) -> None:
        """Nothing follows: the back end is out of use."""


class Topic:
    """The one reader that the hub has for a watched name or prefix."""

    every = False

    def __init__(self, fanout: Fanout, name: str | None, prefix: str) -> None:
        self._fanout = fanout
        self.name, self.prefix = name, prefix
        self.audiences = 0
        self.closed = False

    def covers(self, name: str) -> bool:
        return name == self.name if self.name is not None else name.startswith(self.prefix)

    def open(self, hub: Hub) -> None:
        added = hub.add(self, name=self.name, prefix=self.prefix)
        added.add_done_callback(partial(self._added, hub))

    def _added(self, hub: Hub, future: concurrent.futures.Future[None]) -> None:
        if self.closed:
            hub.remove(self)  # closed while it was being added, it may be on the hub's lists only now
        elif not future.cancelled() and (error := future.exception()) is not None:
            logger.error("dref: %r cannot be watched for pages", self.name or self.prefix + "*", exc_info=error)

    def close(self, hub: Hub) -> None:
        self.closed = True
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
        self._mutex = threading.Lock()
        self._topics: dict[tuple[str | None, str], Topic] = {}
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
            topic = self._join(name, prefix) if not receivers else None
            receivers.add(receiver)
            known = [entry for entry in self._under(name, prefix) if entry.frame is not None]
        if topic is not None:
            topic.open(self._hub)
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
            topic = self._leave(name, prefix)
        if topic is not None:
            topic.close(self._hub)

    def _under(self, name: str | None, prefix: str) -> list[Entry]:
        if name is not None:
            entry = self.entries.get(name)
            return [] if entry is None else [entry]
        return [entry for entry in self.entries.values() if entry.name.startswith(prefix)]

    def _join(self, name: str | None, prefix: str) -> Topic | None:
        """The topic when it is new and has to be opened."""
        topic = self._topics.get((name, prefix))
        new = topic is None
        if topic is None:
            topic = self._topics[name, prefix] = Topic(self, name, prefix)
        topic.audiences += 1
        return topic if new else None

    def _leave(self, name: str | None, prefix: str) -> Topic | None:
        """The topic when nobody is left and it has to be closed."""
        topic = self._topics[name, prefix]
        topic.audiences -= 1
        if topic.audiences:
            return None
        del self._topics[name, prefix]
        for entry in self._under(name, prefix):
            if not self._is_covered(entry.name):
                del self.entries[entry.name]
                self._raws.pop(entry.name, None)
        return topic

    def _is_covered(self, name: str) -> bool:
        if (name, "") in self._topics:
            return True
        return any(prefix_of is None and name.startswith(prefix) for prefix_of, prefix in self._topics)

    # --- on the background loop ---------------------------------------------------------------------------------

    def push(self, raw: Raw) -> None:
        with self._mutex:
            if not self._is_covered(raw.name):
                return
            scheduled = bool(self._raws)
            self._raws[raw.name] = raw
        if not scheduled:
            _encoder.put(self)

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
        for topic in gone:
            if topic is not None:
                topic.close(self._hub)


class _Encoder:
    """The thread that decodes and writes JSON, so that neither the hub's loop nor a server's waits for 1 MiB of it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._mutex = threading.Lock()
        self._queue: queue.SimpleQueue[Fanout] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, fanout: Fanout) -> None:
        with self._mutex:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dref-fanout", daemon=True)
                self._thread.start()
        self._queue.put(fanout)

    def _run(self) -> None:
        while True:
            fanout = self._queue.get()
            try:
                fanout.encode()
            except Exception:
                logger.exception("dref: a change did not reach the pages")
            del fanout


_mutex = threading.Lock()
_fanouts: dict[Backend, Fanout] = {}
_encoder = _Encoder()


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
