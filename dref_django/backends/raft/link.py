"""The client's end: one connection to the process that hosts the node, or, with the role `client`, to a member.

client -> node: [number, ask, body]                     calls.py
node -> client: [0, number, answer, body]  [1, tap, events]  [2, tap, epoch]  [3, tap, reason]
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, Final, Self

import msgpack

from .calls import Answer, Answered, Ask, Question, pack_question
from .feeds import Tap
from .lock import socket_path
from .network import CLIENT, places_of
from .options import Options, Role
from .transport import Channel, TransportError, dial
from .wire import WireError, decode_events

PATIENCE: Final = 1.5
"""Seconds in which a node says something to what it is asked."""


class NoHost(Exception):
    """There is nobody to connect to (yet)."""


class Told(IntEnum):
    """What a node tells a client."""

    ANSWER = 0
    EVENTS = 1
    UP = 2
    DOWN = 3


class Link:
    """As a `calls.Gate`, and for taps. All on the loop of the process's attachment."""

    def __init__(self, channel: Channel, *, has_others: bool = False) -> None:
        """`has_others`: there are other nodes to go to when this one does not answer."""
        self._channel = channel
        self._has_others = has_others
        self._heard = 0.0
        self._numbers = 0
        self._asked: dict[int, Answered] = {}
        self._taps: dict[int, Tap] = {}
        self._is_open = True

    @classmethod
    async def open(cls, options: Options) -> Self:
        """To the process that hosts this machine's node; with the role `client` to any node. Raises `NoHost`."""
        hello, secrets = {"role": CLIENT}, options.secrets
        if options.role is not Role.CLIENT:
            try:
                return cls(await dial(socket_path(options.data_dir), secrets, hello))
            except (OSError, TransportError) as error:
                raise NoHost(f"no process of this machine hosts the node ({error})") from error
        places = list(await places_of(options))
        random.shuffle(places)
        trouble = "the settings name no nodes"
        tls = options.dial_tls
        for place in places:
            try:
                return cls(await dial(place, secrets, hello, tls=tls), has_others=True)
            except (OSError, TransportError) as error:
                trouble = f"{place}: {error}"
        raise NoHost(f"no node can be reached ({trouble})")

    def ask(self, question: Question, answered: Answered) -> None:
        self._numbers += 1
        if not self._is_open or not self._channel.send(pack_question(self._numbers, question)):
            answered(Answer.LATER, b"")
            return
        self._asked[self._numbers] = answered

    # --- taps ---------------------------------------------------------------------------------------------------

    def add_tap(self, tap: Tap) -> None:
        self._taps[id(tap)] = tap
        self._listen(tap, tap.names, tap.prefixes, _nothing)

    def remove_tap(self, tap: Tap) -> None:
        if self._taps.pop(id(tap), None) is not None:
            self.ask(Question(Ask.DEAF, (id(tap),)), _ignore)

    def want(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str], done: Callable[[], None]) -> None:
        """Done as well when the connection breaks: then the next one asks for everything anew."""
        self._listen(tap, names, prefixes, done)

    def drop(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str]) -> None:
        self.ask(Question(Ask.DROP, (id(tap), tuple(names), tuple(prefixes))), _ignore)

    def _listen(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str], done: Callable[[], None]) -> None:
        body = (id(tap), tap.space, tap.owner, tuple(names), tuple(prefixes))
        self.ask(Question(Ask.LISTEN, body), lambda answer, reason: done())

    # --- the connection -----------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None], report: Callable[[str], None]) -> None:
        """Until the connection ends."""
        ready()
        watching = asyncio.ensure_future(self._watch()) if self._has_others else None
        try:
            while True:
                self._hear(await self._channel.receive())
                self._heard = time.monotonic()
        except (EOFError, OSError) as error:
            raise NoHost("the connection to the process that hosts the node is lost") from error
        finally:
            if watching is not None:
                watching.cancel()

    async def _watch(self) -> None:
        """A node that is frozen keeps its connections: leaves it when it has said nothing to what was asked."""
        asked: set[int] = set()
        while True:
            await asyncio.sleep(PATIENCE)
            if asked & self._asked.keys() and time.monotonic() - self._heard > PATIENCE:
                self._channel.abort()
            asked = set(self._asked)

    def _hear(self, frame: bytes) -> None:
        try:
            told, number, *rest = msgpack.unpackb(frame)
            self._take(Told(told), number, rest)
        except (WireError, ValueError, TypeError, msgpack.UnpackException) as error:
            raise OSError(f"the node said something that is nothing: {error}") from error

    def _take(self, told: Told, number: int, rest: list[Any]) -> None:
        if told is Told.ANSWER:
            answered = self._asked.pop(number, _ignore)
            answered(Answer(rest[0]), rest[1])
        elif (tap := self._taps.get(number)) is not None:
            match told:
                case Told.EVENTS:
                    tap.events(decode_events(rest[0]))
                case Told.UP:
                    tap.up(rest[0])
                case Told.DOWN:
                    tap.down(rest[0])

    async def leave(self) -> None:
        """Nothing depends on a client."""

    async def close(self) -> None:
        self._is_open = False
        self._channel.close()
        asked, self._asked = self._asked, {}
        for answered in asked.values():
            answered(Answer.LOST, b"")
        for tap in self._taps.values():
            tap.down("the process that hosts the node is gone")


def _ignore(answer: Answer, body: bytes) -> None:
    """For what needs no answer."""


def _nothing() -> None:
    """For what nobody waits for."""
