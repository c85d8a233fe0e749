"""The client in each process: sends batches from any thread to whatever node serves this process, exactly once.

It keeps a session, numbers what may change something, and asks again when an answer is lost or nobody leads; all of it
on the loop of the process's `Attachment`. A caller waits for its future and no longer than its deadline: whether the
call may have been applied by then is known (`Call.is_doubtful`), so the outcome is told truly.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgpack

from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.exceptions import DRefError
from dref_django.protocol import Command

from .calls import Answer, Ask, Gate, Question
from .machine import Request, only_looks
from .sessions import WINDOW
from .wire import encode_commands

MAX_WAITING: Final = 10_000
"""Calls of one process that wait for a node; more are refused at once."""
PAUSE: Final = 0.02
"""Seconds until a question is put again that nobody could answer."""


class Call:
    """One batch under way."""

    def __init__(self, space: str, commands: Sequence[Command], now: int | None, deadline: float) -> None:
        self.space = space
        self.now = now
        self.looks = only_looks(commands)
        self.commands = encode_commands(commands)
        self.deadline = deadline
        self.future: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        self.session = 0
        self.number = 0
        self.is_doubtful = False
        """Whether it may have been applied."""
        self.was_lost = False
        self.is_over = False

    def question(self, floor: int) -> Question:
        if self.looks:
            return Question(Ask.QUERY, (self.space, self.now, self.commands))
        return Question(Ask.BATCH, Request(self.session, self.number, floor, self.space, self.commands, self.now))


class Caller:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mutex = threading.Lock()
        self._inbox: deque[Call] = deque()
        self._is_scheduled = False
        # On the loop only:
        self._gate: Gate | None = None
        self._parked: deque[Call] = deque()  # for want of a node, a session, or room in its window
        self.session = 0  # 0: there is none
        self.on_session: Callable[[int], None] = lambda session: None
        """Called with each new one."""
        self._is_opening = False
        self._next_number = 1
        self._outstanding: dict[int, Call] = {}  # by number, the lowest first
        self._retry: asyncio.TimerHandle | None = None

    # --- from any thread ----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        with self._mutex:
            if len(self._inbox) >= MAX_WAITING:
                raise NotSent("too many calls wait for the node")
            self._inbox.append(call)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._take)
        except RuntimeError as error:
            raise NotSent("the node of this process is being stopped") from error

    def put(self, question: Question) -> concurrent.futures.Future[tuple[Answer, bytes]]:
        """Any other question, once; LATER while no node serves this process."""
        future: concurrent.futures.Future[tuple[Answer, bytes]] = concurrent.futures.Future()

        def ask() -> None:
            if self._gate is None:
                future.set_result((Answer.LATER, b""))
            else:
                self._gate.ask(question, lambda answer, body: future.set_result((answer, body)))

        self._loop.call_soon_threadsafe(ask)
        return future

    def give_up(self, call: Call) -> NotSent | ReplyLost:
        """Ends a call whose time is over; what it returns is to be raised."""
        with self._mutex:
            call.is_over = True
            doubtful = call.is_doubtful
        if not doubtful or call.looks:
            return NotSent("there is no leader to be reached, or a majority of the nodes is away")
        return ReplyLost("the answer did not come in time")

    # --- on the loop --------------------------------------------------------------------------------------------

    def attach(self, gate: Gate | None) -> None:
        """From now on this node serves; None: none does."""
        self._gate = gate
        if gate is not None:
            self._unpark()

    def close(self) -> None:
        """Nothing more is served: who waits is told so."""
        with self._mutex:
            waiting = [*self._inbox, *self._parked, *self._outstanding.values()]
            self._inbox.clear()
        for call in dict.fromkeys(waiting):
            stopped = "the node of this process was stopped"
            self._fail(call, ReplyLost(stopped) if call.is_doubtful else NotSent(stopped))

    def _take(self) -> None:
        with self._mutex:
            calls, self._inbox = self._inbox, deque()
            self._is_scheduled = False
        for call in calls:
            if not self._begin(call):
                if len(self._parked) >= MAX_WAITING:
                    self._fail(call, NotSent("too many calls wait for a node"))
                else:
                    self._parked.append(call)

    def _begin(self, call: Call) -> bool:
        """Puts the question, if there is somebody to ask and room for it."""
        if self._gate is None or not (call.looks or self._number(call)):
            return False
        self._put(call, self._gate)
        return True

    def _number(self, call: Call) -> bool:
        """Gives a call its number once there is a session with room for it."""
        if call.number:
            return True
        if not self.session:
            self._open_session()
        if not self.session:
            return False
        if self._next_number - self._floor() >= WINDOW:
            return False
        call.session, call.number = self.session, self._next_number
        self._outstanding[call.number] = call
        self._next_number += 1
        return True

    def _floor(self) -> int:
        return next(iter(self._outstanding), self._next_number)

    def _put(self, call: Call, gate: Gate) -> None:
        with self._mutex:
            over = call.is_over
            call.is_doubtful = True
        if over:
            self._end(call)
            return
        gate.ask(call.question(self._floor()), lambda answer, body: self._answered(call, answer, body))

    def _answered(self, call: Call, answer: Answer, body: bytes) -> None:
        if answer is Answer.DONE:
            self._end(call)
            if not call.future.done():
                call.future.set_result(body)
        elif answer in (Answer.LATER, Answer.LOST):
            call.was_lost |= answer is Answer.LOST
            with self._mutex:
                call.is_doubtful = call.was_lost
            self._again(call)
        elif answer is Answer.EXPIRED:
            self._expired(call)
        elif answer is Answer.FORGOTTEN:
            self._fail(call, ReplyLost("it was applied before, and what came of it is no longer known"))
        else:
            self._fail(call, DRefError(body.decode(errors="replace")))

    def _expired(self, call: Call) -> None:
        if call.session == self.session:
            self.session = 0
        self._end(call)
        if call.was_lost:
            self._fail(call, ReplyLost("the session ended before the answer came"))
        else:
            call.number = 0
            with self._mutex:
                call.is_doubtful = False
            self._parked.append(call)
            self._unpark()

    def _again(self, call: Call) -> None:
        if call.is_over or time.monotonic() > call.deadline:
            self._end(call)
            return
        self._parked.append(call)
        self._retry_soon()

    def _retry_soon(self) -> None:
        if self._retry is None:
            self._retry = self._loop.call_later(PAUSE, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._unpark()

    def _unpark(self) -> None:
        for _ in range(len(self._parked)):
            call = self._parked.popleft()
            if call.is_over:
                self._end(call)
            elif not self._begin(call):
                self._parked.appendleft(call)  # and those behind it have no more luck
                return

    def _end(self, call: Call) -> None:
        if self._outstanding.pop(call.number, None) is not None and self._parked and self._retry is None:
            self._loop.call_soon(self._unpark)

    def _fail(self, call: Call, error: Exception) -> None:
        self._end(call)
        if not call.future.done():
            call.future.set_exception(error)

    def _open_session(self) -> None:
        if not self._is_opening and self._gate is not None:
            self._is_opening = True
            self._gate.ask(Question(Ask.OPEN), self._opened)

    def _opened(self, answer: Answer, body: bytes) -> None:
        self._is_opening = False
        if answer is Answer.DONE:
            self.session = msgpack.unpackb(body)  # numbers go on: those of an ended session may still be under way
            self.on_session(self.session)
            self._unpark()
        else:
            self._retry_soon()
