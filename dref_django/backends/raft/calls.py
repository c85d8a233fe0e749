"""What a client asks of a node, and how it is answered; between the two lies a call, a local socket, or another node.

    client (caller.py) --Question--> the host's node (node.py) --relayed when it does not lead--> the leader
                       <--Answer----

A question is answered once. `Answer.LATER` says that nothing was done for it; `Answer.LOST` that it may have been: the
client puts the same question again, with the same number, and the session makes that harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgpack

from .machine import Request
from .wire import short_space, whole_space


class Ask(IntEnum):
    BATCH = 0
    """body: a `machine.Request`."""
    QUERY = 1
    """body: (space, now or None, commands)."""
    OPEN = 2
    """A new session; its id is the answer."""
    CLOSE = 3
    """body: (session,)."""
    STATUS = 4
    """The node that is asked describes itself; with the body ("leader",) the leader does."""
    CHANGE = 5
    """body: (operation, node id): add, promote, remove, transfer."""
    LISTEN = 6
    """body: (tap, space, owner, names, prefixes): adds to what a feed of the client wants. Never relayed."""
    DROP = 7
    """body: (tap, names, prefixes): takes away from it."""
    DEAF = 8
    """body: (tap,): ends it."""
    MARK = 9
    """As QUERY, by a follower, with its term: a large answer may be replaced by where to find it; see `copies.py`."""


class Answer(IntEnum):
    DONE = 0
    """The body is the result."""
    LATER = 1
    LOST = 2
    EXPIRED = 3
    FORGOTTEN = 4
    REFUSED = 5
    """The body says why, in UTF-8."""


class Question(NamedTuple):
    ask: Ask
    body: tuple[Any, ...] = ()


Answered: TypeAlias = Callable[[Answer, bytes], None]


class Gate(Protocol):
    """Where a client's questions go. All on the loop of the client."""

    def ask(self, question: Question, answered: Answered) -> None:
        """Answers exactly once, now or later; with LOST when the way to the node breaks."""


def pack_question(number: int, question: Question) -> bytes:
    body = question.body
    if isinstance(body, Request):
        body = body.short()
    elif question.ask in LOOKS:
        body = (short_space(body[0]), *body[1:])
    packed: bytes = msgpack.packb((number, question.ask, *body))
    return packed


def unpack_question(data: bytes) -> tuple[int, Question]:
    """Raises ValueError when the bytes are no question."""
    try:
        number, ask, *body = msgpack.unpackb(data, use_list=False)
        question = Question(Ask(ask), tuple(body))
        if question.ask is Ask.BATCH:
            question = Question(Ask.BATCH, Request.of(body))
            _check(question.body, _REQUEST)
        elif question.ask in LOOKS:
            space, *others = body
            question = Question(question.ask, (whole_space(space), *others))
            _check(question.body, LOOKS[question.ask])
        elif not all(isinstance(part, int | str | tuple) for part in body):
            raise ValueError("numbers, texts and lists of texts only")
    except (TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"no question: {error}") from error
    return number, question


_REQUEST: Final = (int, int, int, str, bytes, int | None)
LOOKS: Final = {Ask.QUERY: (str, int | None, bytes), Ask.MARK: (str, int | None, bytes, int)}


def _check(body: Sequence[Any], kinds: tuple[Any, ...]) -> None:
    if len(body) != len(kinds) or not all(map(isinstance, body, kinds)):
        raise ValueError("not the fields that belong to this question")
