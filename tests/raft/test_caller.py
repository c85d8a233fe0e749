"""The client in a process: what it asks, how often, and how it tells the outcome; against a node that is scripted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import msgpack
import pytest

from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.backends.raft.caller import Call, Caller
from dref_django.backends.raft.calls import Answer, Answered, Ask, Question
from dref_django.backends.raft.machine import Request
from dref_django.backends.raft.sessions import WINDOW
from dref_django.protocol import Add, Command, Read
from tests.processes import wait_until

PATIENCE = 10.0


class Gate:
    """A node: opens sessions, answers batches and queries from a script, then with DONE; keeps what it was asked."""

    def __init__(self, *script: Answer | None) -> None:
        self.script = list(script)
        self.asked: list[Question] = []
        self.sessions = 0

    def ask(self, question: Question, answered: Answered) -> None:
        if question.ask is Ask.OPEN:
            self.sessions += 1
            answered(Answer.DONE, msgpack.packb(self.sessions))
            return
        self.asked.append(question)
        answer = self.script.pop(0) if self.script else Answer.DONE
        if answer is not None:  # None: the answer never comes
            answered(answer, b"result")

    @property
    def requests(self) -> list[Request]:
        return [Request(*question.body) for question in self.asked if question.ask is Ask.BATCH]


@pytest.fixture
def caller() -> Iterator[Caller]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    caller = Caller(loop)
    yield caller
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def attach(caller: Caller, gate: Gate | None) -> None:
    caller._loop.call_soon_threadsafe(caller.attach, gate)


def begin(caller: Caller, command: Command | None = None) -> Call:
    call = Call("space", [command or Add("n", 1)], None, time.monotonic() + PATIENCE)
    caller.submit(call)
    return call


def test_batch_goes_with_a_session_and_a_number(caller: Caller) -> None:
    gate = Gate()
    attach(caller, gate)
    assert [begin(caller).future.result(PATIENCE) for _ in range(3)] == [b"result"] * 3
    assert [(request.session, request.number, request.floor) for request in gate.requests] == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 3, 3),
    ]


def test_reads_need_no_session(caller: Caller) -> None:
    gate = Gate()
    attach(caller, gate)
    begin(caller, Read("n")).future.result(PATIENCE)
    assert (gate.sessions, [question.ask for question in gate.asked]) == (0, [Ask.QUERY])


@pytest.mark.parametrize("first", [Answer.LATER, Answer.LOST])
def test_unanswered_question_is_put_again_with_the_same_number(caller: Caller, first: Answer) -> None:
    gate = Gate(first, first)
    attach(caller, gate)
    begin(caller).future.result(PATIENCE)
    assert [(request.session, request.number) for request in gate.requests] == [(1, 1)] * 3


def test_call_waits_for_a_node_and_says_truly_that_it_was_not_sent(caller: Caller) -> None:
    call = begin(caller)
    with pytest.raises(TimeoutError):
        call.future.result(0.05)
    assert isinstance(caller.give_up(call), NotSent)
    gate = Gate()
    attach(caller, gate)
    begin(caller).future.result(PATIENCE)
    assert len(gate.asked) == 1, "what was given up is not sent afterwards"


def test_outcome_is_unknown_while_an_answer_is_missing_but_not_after_a_refusal(caller: Caller) -> None:
    attach(caller, Gate(None))
    call = begin(caller)
    with pytest.raises(TimeoutError):
        call.future.result(0.05)
    assert isinstance(caller.give_up(call), ReplyLost)
    attach(caller, Gate(*[Answer.LATER] * 10_000))
    call = begin(caller)
    with pytest.raises(TimeoutError):
        call.future.result(0.1)
    assert isinstance(caller.give_up(call), NotSent)


def test_ended_session_is_replaced_when_nothing_can_have_been_applied(caller: Caller) -> None:
    gate = Gate(Answer.EXPIRED)
    attach(caller, gate)
    begin(caller).future.result(PATIENCE)
    assert [request.session for request in gate.requests] == [1, 2]


def test_retry_on_an_ended_session_is_not_made_on_another_one(caller: Caller) -> None:
    gate = Gate(Answer.LOST, Answer.EXPIRED)
    attach(caller, gate)
    with pytest.raises(ReplyLost):
        begin(caller).future.result(PATIENCE)
    assert len(gate.asked) == 2


def test_forgotten_result_is_a_lost_reply(caller: Caller) -> None:
    attach(caller, Gate(Answer.FORGOTTEN))
    with pytest.raises(ReplyLost):
        begin(caller).future.result(PATIENCE)


def test_no_more_numbers_are_open_than_a_session_remembers(caller: Caller) -> None:
    gate = Gate(*[None] * WINDOW)
    attach(caller, gate)
    calls = [begin(caller) for _ in range(WINDOW + 5)]
    wait_until(lambda: len(gate.asked) >= WINDOW, "a full window", PATIENCE)
    assert max(request.number - request.floor for request in gate.requests) == WINDOW - 1
    assert not any(call.future.done() for call in calls)


def test_calls_end_when_the_process_leaves(caller: Caller) -> None:
    attach(caller, Gate(None))
    sent = begin(caller)
    caller._loop.call_soon_threadsafe(caller.close)
    with pytest.raises(ReplyLost):
        sent.future.result(PATIENCE)
