"""The one listening connection of a process: notices of what is watched, and wakes of the process's own waiters.

PUBLISH is a hint that may be lost, so the feed proves that it hears: every heartbeat it publishes a canary to itself,
over another connection, and compares the epoch. Two canaries unheard, or another epoch, and it connects anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import msgpack
from redis.exceptions import InvalidResponse, RedisError

from dref_django.backends.base import Sink
from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.exceptions import DRefError
from dref_django.protocol import Data, Notice, Patch, Splice, Wake

from .keys import escape_glob
from .scripts import pack

if TYPE_CHECKING:
    from .backend import RedisBackend
    from .wire import LoopWire

logger = logging.getLogger("dref_django")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
CANARIES_MISSED = 2
SHORTEST = 3
"""Parts of a message: what it is, of which channel, and the payload or a number."""
NONSENSE = (ValueError, TypeError, LookupError, msgpack.UnpackException)
TROUBLE = (RedisError, OSError, TimeoutError, NotSent, ReplyLost, DRefError)

PATCHES = {"i": Patch.FULL, "b": Patch.FULL, "s": Patch.SPLICE, "d": Patch.GONE, "h": Patch.HINT}


def decode_notice(name: str, payload: bytes) -> Notice:
    """`letter version base left [start end]`, a newline, the bytes."""
    header, _, body = payload.partition(b"\n")
    letter, version, base, left, *extent = header.decode().split(" ")
    data: Data | None = None
    splice = None
    if letter == "i":
        data = int(body)
    elif letter == "b":
        data = body
    elif letter == "s":
        splice = Splice(int(extent[0]), int(extent[1]), body)
    life = None if left == "-" else int(left)
    return Notice(name, int(version), int(base), PATCHES[letter], data, splice, life)


class Deaf(Exception):
    """The connection stands, but what is published does not arrive."""


class RedisFeed:
    """See `base.Feed`. Runs on the background loop."""

    def __init__(self, backend: RedisBackend, sink: Sink) -> None:
        self._backend = backend
        self._sink = sink
        self._names: set[str] = set()
        self._prefixes: set[str] = set()
        self._session: Session | None = None

    async def run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            session = Session(self._backend, self._sink, self._names, self._prefixes)
            try:
                self._session = session
                await session.run()
            except TROUBLE as error:
                reason = str(error) or type(error).__name__
            except Deaf as error:
                reason = str(error)
            finally:
                self._session = None
            if session.was_up:
                pause = FIRST_PAUSE
                self._sink.down(reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, LONGEST_PAUSE)

    async def subscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        new_names, new_prefixes = set(names) - self._names, set(prefixes) - self._prefixes
        self._names |= new_names
        self._prefixes |= new_prefixes
        if self._session is not None:
            await self._session.subscribe(names, prefixes, new_names, new_prefixes)

    async def unsubscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        old_names, old_prefixes = self._names.intersection(names), self._prefixes.intersection(prefixes)
        self._names -= old_names
        self._prefixes -= old_prefixes
        if self._session is not None:
            await self._session.unsubscribe(old_names, old_prefixes)


class Session:
    """One connection of a feed, from connecting to its loss."""

    def __init__(self, backend: RedisBackend, sink: Sink, names: set[str], prefixes: set[str]) -> None:
        self._backend = backend
        self._sink = sink
        self._names = names  # the feed's own sets: what is wanted
        self._prefixes = prefixes
        keys = backend.keys
        self._channels = keys.channels
        self._wakes = f"{keys.wakes}{backend.node_id()}".encode()
        self._canary = f"{keys.canaries}{backend.node_id()}-{id(self):x}".encode()
        self._wire: LoopWire | None = None
        self._unconfirmed: dict[bytes, deque[asyncio.Future[None]]] = {}  # in the order of their SUBSCRIBEs
        self._confirmed_names: set[str] = set()
        self._confirmed_prefixes: set[str] = set()
        self._canaries_heard = 0
        self._epoch = ""
        self.was_up = False

    async def run(self) -> None:
        """Returns never; raises what ended the session."""
        wire = await self._backend.open_listener()
        self._wire = wire
        tasks = [asyncio.ensure_future(self._listen(wire)), asyncio.ensure_future(self._stay_up())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._wire = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._confirm_nothing_more()
            with contextlib.suppress(*TROUBLE):
                await wire.close()

    def _confirm_nothing_more(self) -> None:
        for waiting in self._unconfirmed.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        self._unconfirmed.clear()

    async def _stay_up(self) -> None:
        async with asyncio.timeout(self._backend.params.timeout):
            fixed = [self._send_subscribe([self._canary, self._wakes])]
            wanted = self._subscribe_to(self._names, self._prefixes)
            await asyncio.gather(*fixed, wanted)
        self._epoch = await self._ask_epoch()
        self.was_up = True
        self._sink.up(self._epoch)
        missed = 0
        while True:
            heard = self._canaries_heard
            await self._send_canary()
            await asyncio.sleep(self._backend.params.heartbeat)
            missed = 0 if self._canaries_heard > heard else missed + 1
            if missed >= CANARIES_MISSED:
                raise Deaf(f"{missed} canaries did not come back")

    async def _ask_epoch(self) -> str:
        return await self._backend.ahold(self._backend.talk.epoch(), self._backend.params.timeout)

    async def _send_canary(self) -> None:
        """An error here counts as a canary missed: this connection may be well while the others are not."""
        talk, timeout = self._backend.talk, self._backend.params.timeout
        try:
            await self._backend.ahold(talk.publish(self._canary.decode(), b""), timeout)
            epoch = await self._ask_epoch()
        except TROUBLE:
            return
        if epoch != self._epoch:
            raise Deaf("the server has another history: it was restarted or a replica took over")

    # --- subscriptions ------------------------------------------------------------------------------------------

    def _channel(self, name: str) -> bytes:
        return self._backend.keys.channel(name)

    def _pattern(self, prefix: str) -> bytes:
        return f"{escape_glob(self._channels + prefix)}*".encode()

    async def subscribe(
        self, names: Iterable[str], prefixes: Iterable[str], new_names: set[str], new_prefixes: set[str]
    ) -> None:
        """Waits for all of them, also for those that another task has asked for a moment ago."""
        if self._wire is None:
            return
        with contextlib.suppress(*TROUBLE):  # the session ends then, and the next one covers them
            await self._subscribe_to(new_names, new_prefixes)
            channels = [*map(self._channel, names), *map(self._pattern, prefixes)]
            await self._wait_for(channels)

    async def _subscribe_to(self, names: Iterable[str], prefixes: Iterable[str]) -> None:
        channels, patterns = [self._channel(name) for name in names], [self._pattern(prefix) for prefix in prefixes]
        await asyncio.gather(self._send_subscribe(channels), self._send_subscribe(patterns, b"PSUBSCRIBE"))

    async def _send_subscribe(self, channels: list[bytes], verb: bytes = b"SUBSCRIBE") -> None:
        if not channels or self._wire is None:
            return
        loop = asyncio.get_running_loop()
        for channel in channels:
            self._unconfirmed.setdefault(channel, deque()).append(loop.create_future())
        await self._wire.send(pack(verb, *channels))
        await self._wait_for(channels)

    async def _wait_for(self, channels: Iterable[bytes]) -> None:
        last = [waiting[-1] for channel in channels if (waiting := self._unconfirmed.get(channel))]
        if not last:
            return
        _, late = await asyncio.wait(last, timeout=self._backend.params.timeout)
        if late and self._wire is not None:  # it hangs; without it the session ends and another one begins
            await self._wire.close()

    async def unsubscribe(self, names: Iterable[str], prefixes: Iterable[str]) -> None:
        channels, patterns = [self._channel(name) for name in names], [self._pattern(prefix) for prefix in prefixes]
        commands = [pack(b"UNSUBSCRIBE", *channels)] if channels else []
        commands += [pack(b"PUNSUBSCRIBE", *patterns)] if patterns else []
        if commands and self._wire is not None:
            with contextlib.suppress(*TROUBLE):
                await self._wire.send(b"".join(commands))

    # --- what arrives -------------------------------------------------------------------------------------------

    async def _listen(self, wire: LoopWire) -> None:
        while True:
            heard = await wire.hear()
            if not isinstance(heard, list) or len(heard) < SHORTEST:
                raise heard if isinstance(heard, RedisError) else InvalidResponse(f"{heard!r} is no message")
            kind, *message = heard
            if kind in (b"message", b"pmessage"):
                self._hear(kind, message)
            elif kind in (b"subscribe", b"psubscribe"):
                self._confirm(message[0], kind == b"subscribe")
            elif kind == b"unsubscribe":
                self._confirmed_names.discard(self._name(message[0]))
            elif kind == b"punsubscribe":
                self._confirmed_prefixes.discard(self._prefix(message[0]))

    def _confirm(self, channel: bytes, exact: bool) -> None:
        waiting = self._unconfirmed.get(channel)
        if waiting:
            future = waiting.popleft()
            if not waiting:
                del self._unconfirmed[channel]
            if not future.done():
                future.set_result(None)
        if not exact:
            self._confirmed_prefixes.add(self._prefix(channel))
        elif channel not in (self._canary, self._wakes):
            self._confirmed_names.add(self._name(channel))

    def _name(self, channel: bytes) -> str:
        return channel.decode()[len(self._channels) :]

    def _prefix(self, pattern: bytes) -> str:
        escaped = pattern.decode()[len(escape_glob(self._channels)) : -1]
        for special in "*?[]":
            escaped = escaped.replace(f"\\{special}", special)
        return escaped.replace("\\\\", "\\")

    def _hear(self, kind: bytes, message: list[bytes]) -> None:
        try:
            if kind == b"message":
                self._heard(*message)
            else:
                self._heard_by_prefix(*message)
        except NONSENSE as error:
            logger.warning("dref: ignored what nobody of us published on %r: %s", message[-2], error)

    def _heard(self, channel: bytes, payload: bytes) -> None:
        if channel == self._canary:
            self._canaries_heard += 1
        elif channel == self._wakes:
            name, owner = msgpack.unpackb(payload)
            self._sink.wake(Wake(name, owner))
        elif self.was_up:  # what came before is covered by `up`
            self._sink.notice([decode_notice(self._name(channel), payload)])

    def _heard_by_prefix(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        """Redis delivers once for the name and once for every pattern; the sink is told once."""
        name, prefix = self._name(channel), self._prefix(pattern)
        shorter = any(len(other) < len(prefix) and name.startswith(other) for other in self._confirmed_prefixes)
        if self.was_up and name not in self._confirmed_names and not shorter:
            self._sink.notice([decode_notice(name, payload)])
