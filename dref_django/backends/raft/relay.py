"""Questions that another node has to answer: to the leader and back, over the links between the nodes.

    follower -> leader: [number, ask, ...]         leader -> follower: [number, answer, body]

An answer comes back over the connection that took the question, or not at all: so it never reaches a later life of the
node that asked, whose numbers begin anew. A link may lose what was in flight: what is not answered within `PATIENCE`,
or when the leader changes, is answered with LOST here; the client asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgpack

from .calls import Answer, Answered, Gate, Question, pack_question, unpack_question

PATIENCE: Final = 1.0
"""Seconds."""
MAX_RELAYED: Final = 10_000


class Relay:
    def __init__(self, send: Callable[[str, bytes], bool]) -> None:
        self._send = send  # to a node; False: certainly not sent
        self._numbers = 0
        self._asked: dict[int, tuple[float, Answered]] = {}

    def ask(self, leader: str, question: Question, answered: Answered) -> None:
        self._numbers += 1
        number = self._numbers
        if len(self._asked) >= MAX_RELAYED or not self._send(leader, pack_question(number, question)):
            answered(Answer.LATER, b"")
        else:
            self._asked[number] = time.monotonic(), answered

    def hear_answer(self, frame: bytes) -> None:
        """Raises ValueError when the bytes are no answer."""
        try:
            number, answer, body = msgpack.unpackb(frame)
            answer = Answer(answer)
        except (TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"no answer: {error}") from error
        if (asked := self._asked.pop(number, None)) is not None:
            asked[1](answer, body)

    def lose(self) -> None:
        """There is another leader, or none."""
        asked, self._asked = self._asked, {}
        for _, answered in asked.values():
            answered(Answer.LOST, b"")

    def tick(self) -> None:
        late = time.monotonic() - PATIENCE
        while self._asked and self._asked[number := next(iter(self._asked))][0] < late:
            self._asked.pop(number)[1](Answer.LOST, b"")


def hear_question(frame: bytes, leader: Gate, reply: Callable[[bytes], object]) -> None:
    """The leader's end. Raises ValueError when the bytes are no question."""
    number, question = unpack_question(frame)

    def answered(answer: Answer, body: bytes) -> None:
        reply(msgpack.packb((number, answer, body)))

    leader.ask(question, answered)
