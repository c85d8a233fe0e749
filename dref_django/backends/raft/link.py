"""The client's end: one connection to the process that hosts the node, or, with the role `client`, to a member.

client -> node: [number, ask, ...]                      calls.py
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
VAIN: Final = 5.0
"""Seconds for which a node that answers is given time to find a leader; longer than an election."""


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

    def __init__(self, channel: Channel, place: str = "") -> None:
        """`place`: the address of one node of several; "": there is no other to go to when it does not answer."""
        self.place = place
        self._channel = channel
        self._heard = 0.0
        self._vain_since: float | None = None  # when it first had no answer for us after it last had one
        self._numbers = 0
        self._asked: dict[int, Answered] = {}
        self._taps: dict[int, Tap] = {}
        self._is_open = True

    @classmethod
    async def open(cls, options: Options, last: str = "") -> Self:
        """To the process that hosts this machine's node; with the role `client` to any node, to the one at `last` only
        if there is no other. Raises `NoHost`."""
        hello, secrets = {"role": CLIENT}, options.secrets
        if options.role is not Role.CLIENT:
            try:
                return cls(await dial(socket_path(options.data_dir), secrets, hello))
            except (OSError, TransportError) as error:
                raise NoHost(f"no process of this machine hosts the node ({error})") from error
        places = list(await places_of(options))
        random.shuffle(places)
        places.sort(key=lambda place: place == last)
        trouble = "the settings name no nodes"
        tls = options.dial_tls
        for place in places:
            try:
                return cls(await dial(place, secrets, hello, tls=tls), place)
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
        watching = asyncio.ensure_future(self._watch()) if self.place else None
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
        """Leaves a node that is frozen, which keeps its connections but says nothing to what was asked, and one that
        is cut off from the others, which says time and again that it knows no leader."""
        asked: set[int] = set()
        while True:
            await asyncio.sleep(PATIENCE)
            now = time.monotonic()
            is_silent = asked & self._asked.keys() and now - self._heard > PATIENCE
            if is_silent or (self._vain_since is not None and now - self._vain_since > VAIN):
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
            answered, answer = self._asked.pop(number, _ignore), Answer(rest[0])
            if answer not in (Answer.LATER, Answer.LOST):
                self._vain_since = None
            elif self._vain_since is None:
                self._vain_since = time.monotonic()
            answered(answer, rest[1])
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
