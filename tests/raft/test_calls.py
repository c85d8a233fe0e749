"""Questions survive the way to a node, and nothing else is taken for one."""

from __future__ import annotations

import msgpack
import pytest

from dref_django.backends.raft.calls import Answer, Ask, Question, pack_question, unpack_question
from dref_django.backends.raft.machine import Request
from dref_django.backends.raft.relay import Relay

COMMANDS = b"\x90"
QUESTIONS = [
    Question(Ask.BATCH, Request(300, 70_000, 69_999, "dref", COMMANDS)),
    Question(Ask.BATCH, Request(300, 70_000, 1, "other", COMMANDS, 5)),
    Question(Ask.QUERY, ("dref", None, COMMANDS)),
    Question(Ask.QUERY, ("", 5, COMMANDS)),
    Question(Ask.MARK, ("dref", None, COMMANDS, 7)),
    Question(Ask.OPEN),
    Question(Ask.LISTEN, (1, "dref", "", ("a", "b"), ())),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.ask.name)
def test_comes_back_as_it_was(question: Question) -> None:
    assert unpack_question(pack_question(12, question)) == (12, question)


def test_what_is_usual_takes_no_room() -> None:
    envelope, counts, commands = 3, 3 + 5 + 1, 2 + len(COMMANDS)
    usual, other = (len(pack_question(1, question)) for question in QUESTIONS[:2])
    assert usual == envelope + counts + 1 + commands
    assert other == envelope + counts + 4 + len("other") + 1 + commands + 1


@pytest.mark.parametrize(
    "nonsense",
    [
        [],
        [1],
        [1, 99],
        [1, Ask.BATCH],
        [1, Ask.BATCH, 1, 2, "floor", None, COMMANDS],
        [1, Ask.BATCH, 1, 2, 0, 5, COMMANDS],
        [1, Ask.BATCH, 1, 2, 0, None, COMMANDS, "now"],
        [1, Ask.BATCH, 1, 2, 0, None, COMMANDS, 5, 5],
        [1, Ask.QUERY, None, None],
        [1, Ask.QUERY, 5, None, COMMANDS],
        [1, Ask.MARK, None, None, COMMANDS],
        [1, Ask.MARK, None, None, COMMANDS, "term"],
        [1, Ask.CLOSE, 1.5],
    ],
    ids=repr,
)
def test_anything_else_is_a_value_error(nonsense: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- whatever it says
        unpack_question(msgpack.packb(nonsense))


def test_answers_find_their_questions() -> None:
    sent: list[bytes] = []

    def send(leader: str, frame: bytes) -> bool:
        sent.append(frame)
        return True

    relay = Relay(send)
    heard: list[tuple[str, bytes]] = []
    for name in ("first", "second"):
        relay.ask("leader", Question(Ask.OPEN), lambda answer, body, name=name: heard.append((name, body)))  # type: ignore[misc]
    numbers = [unpack_question(frame)[0] for frame in sent]
    for number in (numbers[1], numbers[1], max(numbers) + 1, numbers[0]):
        relay.hear_answer(msgpack.packb((number, Answer.DONE, b"%d" % number)))
    assert heard == [("second", b"%d" % numbers[1]), ("first", b"%d" % numbers[0])]
