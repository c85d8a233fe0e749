"""What a follower reads for its clients does not travel when it is large: the follower has it, too.

The leader confirms as ever that it still leads, and looks. When what it sees is small it says so; else it says how far
the log was applied and what time it was, and the follower looks at its own copy as soon as that is as far. Reads stay
linearizable: the copy is not older than the moment at which a quorum had confirmed the leader. The question tells the
follower's term, so of three nodes no other has to be asked: who asks confirms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import msgpack

from .calls import Answer, Answered, Ask, Question
from .driver import Driver
from .relay import Relay
from .wire import decode_commands, encode_replies

WORTH: Final = 512
"""Bytes of an answer up to which it may as well travel."""
PATIENCE: Final = 0.1
"""Seconds that a follower which is behind takes to catch up before it asks for the whole answer."""
MAX_LOOKS: Final = 1000
"""Looks that wait until this node has caught up, those given up included: a node that is stuck collects no more."""


class Timer(Protocol):
    def cancel(self) -> object: ...


Later: TypeAlias = Callable[[float, Callable[[], object]], Timer]
"""Calls back after so many seconds."""


def mark(driver: Driver, answered: Answered) -> Answered:
    """The leader's end: hears the answer to a query, and tells the follower that or where to find it."""

    def tell(answer: Answer, body: bytes) -> None:
        if answer is Answer.DONE:
            found = (0, 0, body) if len(body) <= WORTH else (driver.applied, driver.now(), b"")
            body = msgpack.packb(found)
        answered(answer, body)

    return tell


class Copies:
    """The follower's end."""

    def __init__(self, driver: Driver, relay: Relay, later: Later | None = None) -> None:
        """`later`: in place of the running loop's clock."""
        self._driver = driver
        self._relay = relay
        self.later: Later = later or asyncio.get_running_loop().call_later
        self._looks = 0

    def ask(self, question: Question, answered: Answered) -> None:
        """A query, of the leader that this node follows."""

        def hear(answer: Answer, body: bytes) -> None:
            if answer is not Answer.DONE:
                answered(answer, body)
                return
            try:
                index, now, found = _unpacked(body)
            except ValueError:
                answered(Answer.LATER, b"")
                raise
            if found:
                answered(Answer.DONE, found)
            else:
                self._look_at(index, now, question, answered)

        marked = Question(Ask.MARK, (*question.body, self._driver.raft.term))
        self._relay.ask(self._driver.leader, marked, hear)

    def _look_at(self, index: int, now: int, question: Question, answered: Answered) -> None:
        """Wait for this index, for not too long."""
        if self._looks >= MAX_LOOKS:
            self.ask_whole(question, answered)
            return
        look = _Look(self, question, now, answered)
        self._looks += 1

        def is_there() -> None:
            self._looks -= 1
            look.look()

        self._driver.after(index, is_there)

    def ask_whole(self, question: Question, answered: Answered) -> None:
        self._relay.ask(self._driver.leader, question, answered)

    def find(self, question: Question, now: int) -> bytes | None:
        """The answer from this node's copy; None when something runs out just then, of which the log must tell."""
        space, given, encoded = question.body
        machine, commands = self._driver.machine, decode_commands(encoded)
        if given is None:
            given = max(now, machine.now)
            if machine.turns(space, commands, given):
                return None
        return encode_replies(machine.query(space, commands, given))


def _unpacked(body: bytes) -> tuple[int, int, bytes]:
    """Index, time, and the answer if it came along. Raises ValueError."""
    try:
        index, now, found = msgpack.unpackb(body)
    except (TypeError, ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"no answer to a query: {error}") from error
    if type(index) is not int or type(now) is not int or type(found) is not bytes:
        raise ValueError("no answer to a query: neither where to find it nor what was found")
    return index, now, found


class _Look:
    """One look at the copy, when it is far enough, or the whole answer from the leader when that takes too long."""

    def __init__(self, copies: Copies, question: Question, now: int, answered: Answered) -> None:
        self._copies = copies
        self._question = question
        self._now = now
        self._answered = answered
        self._is_over = False
        self._timer = copies.later(PATIENCE, self._ask_whole)

    def look(self) -> None:
        if self._is_over:
            return
        found = self._copies.find(self._question, self._now)
        if found is None:
            self._ask_whole()
            return
        self._end()
        self._answered(Answer.DONE, found)

    def _ask_whole(self) -> None:
        self._end()
        self._copies.ask_whole(self._question, self._answered)

    def _end(self) -> None:
        self._is_over = True
        self._timer.cancel()
