"""The node's end of a client's connection: its questions, and the feeds of its process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack

from dref_django.store import Event

from .calls import Answer, Ask, Gate, Question, unpack_question
from .feeds import Fanout, Tap
from .link import Told
from .wire import encode_events

if TYPE_CHECKING:
    from .transport import Channel

MAX_TAPS: Final = 100
"""Feeds of one client; a process has one for each alias."""


class Guest:
    """One client."""

    def __init__(self, channel: Channel, gate: Gate, fanout: Fanout) -> None:
        self._channel = channel
        self._gate = gate
        self._fanout = fanout
        self._taps: dict[int, Tap] = {}
        self.sessions: set[int] = set()
        """Those that it has used."""

    async def run(self) -> None:
        """Until the connection ends, or says what is no question (ValueError)."""
        try:
            while True:
                number, question = unpack_question(await self._channel.receive())
                self._take(number, question)
        except (EOFError, OSError):
            return
        finally:
            for tap in self._taps.values():
                self._fanout.remove(tap)
            self._channel.close()

    def _take(self, number: int, question: Question) -> None:
        match question.ask:
            case Ask.LISTEN:
                self._listen(*question.body)
                self._tell(Told.ANSWER, number, Answer.DONE, b"")
            case Ask.DROP:
                tap, names, prefixes = question.body
                if tap in self._taps:
                    self._taps[tap].drop(names, prefixes)
                self._tell(Told.ANSWER, number, Answer.DONE, b"")
            case Ask.DEAF:
                if (gone := self._taps.pop(question.body[0], None)) is not None:
                    self._fanout.remove(gone)
                self._tell(Told.ANSWER, number, Answer.DONE, b"")
            case _:
                if question.ask is Ask.BATCH:
                    self.sessions.add(question.body[0])
                self._gate.ask(question, lambda answer, body: self._tell(Told.ANSWER, number, answer, body))

    def _listen(self, key: int, space: str, owner: str, names: Sequence[str], prefixes: Sequence[str]) -> None:
        tap = self._taps.get(key)
        is_new = tap is None
        if tap is None:
            if len(self._taps) >= MAX_TAPS:
                raise ValueError("too many feeds of one client")
            tap = self._taps[key] = Tap(
                space,
                owner,
                up=lambda epoch: self._tell(Told.UP, key, epoch),
                down=lambda reason: self._tell(Told.DOWN, key, reason),
                events=lambda events: self._tell_events(key, events),
            )
        tap.want(names, prefixes)
        if is_new:
            self._fanout.add(tap)

    def _tell_events(self, key: int, events: Sequence[Event]) -> None:
        self._tell(Told.EVENTS, key, encode_events(events))

    def _tell(self, told: Told, number: int, *rest: Any) -> None:
        if not self._channel.send(msgpack.packb((told, number, *rest))):
            self._channel.close()  # it does not read: it comes back, and looks at all that it watches
