"""One connection that all threads and all event loops of the process use at the same time.

What one sends does not wait for the reply to another: libpq's pipeline mode keeps them in order. Nobody owns the
connection while a reply is under way, for an event loop that is blocked by its user would keep everybody else waiting:

- A thread that waits reads for all. Of several, one does, and hands over to the next when it has its own reply.
- A task that waits has its loop watch the socket and read for all, as long as no thread does.
- A small thread watches for the end of the connection only (POLLRDHUP), which nobody else notices when all is quiet.

libpq is only called under `mutex`, and never waits there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from .binary import Bound
from .session import Broken, Late, Refused
from .statements import Statement

if TYPE_CHECKING:
    from dref_django.protocol import Wake

logger = logging.getLogger("dref_django")

MOST_CALLS: Final = 1000
"""Calls without a reply on one connection; beyond it, it is refused to send more."""
QUIET: Final = 60.0
"""Seconds for which a connection that has ended waits for its last user before it is left to the garbage collector."""
PEEK: Final = 0.25
"""Seconds between two looks for the end of the connection where the system does not tell of it (not Linux)."""

_HANG_UP: Final[int] = getattr(select, "POLLRDHUP", 0)
_OK: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Call:
    """One statement under way. `settle` hears of its result, under the mutex, and returns whom to wake then. `refused`
    hears of an error instead, and says whether it is none."""

    value: Any = None
    error: Exception | None = None
    done = False
    sent = 0.0
    prepares = False
    good: PGresult | None = None
    bad: PGresult | None = None
    gate: threading.Lock | None = None
    """What its thread sleeps on while another reads."""
    future: asyncio.Future[None] | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self,
        statement: Statement,
        params: Sequence[Bound],
        settle: Callable[[Call, PGresult], Sequence[Wake]] = lambda call, result: (),
        refused: Callable[[Refused], bool] = lambda refused: False,
    ) -> None:
        self.statement = statement
        self.params = params
        self.settle = settle
        self.refused = refused

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value

    def finish(self) -> None:
        self.done = True
        if self.gate is not None:
            self.gate.release()
            self.gate = None
        if self.future is not None and self.loop is not None:
            if asyncio._get_running_loop() is self.loop:
                _set(self.future)
            else:
                with suppress(RuntimeError):  # its loop was closed
                    self.loop.call_soon_threadsafe(_set, self.future)


class SharedSession:
    """`end` is the only way to close it. What it is good for is in the subclass, which overrides `deliver`, `ended` and
    `tick`, and calls `start` at last."""

    def __init__(self, pgconn: PGconn) -> None:
        pgconn.nonblocking = 1
        pgconn.enter_pipeline_mode()
        pgconn.notice_handler = self._notice
        self.mutex = threading.Lock()
        self.reason: str | None = None
        """Why it ended; None: it has not."""
        self.over: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done when it has ended, and `ended` has told everybody."""
        self._pgconn = pgconn
        self._fd = pgconn.socket
        self._calls: deque[Call] = deque()
        self._prepared: set[bytes] = set()
        self._unsent = False
        self._last_words = ""
        self._leader: Call | None = None  # whose thread reads for all
        self._followers: deque[Call] = deque()
        self._loops: dict[asyncio.AbstractEventLoop, int] = {}
        self._quiet = threading.Condition(self.mutex)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._polls_out = False

    def start(self) -> None:
        threading.Thread(target=self._watch, name="dref-locks", daemon=True).start()

    def deliver(self, wakes: Sequence[Wake]) -> None:
        """Without the mutex, in the thread that read them."""

    def ended(self) -> None:
        """The connection has ended, for `reason`. Once, in the watching thread."""

    def tick(self) -> float:
        """Now and then, in the watching thread; returns in how many seconds again."""
        return QUIET

    # --- sending ------------------------------------------------------------------------------------------------

    def submit(self, build: Callable[[], Call]) -> Call:
        """Puts what `build` returns on the wire; `build` runs under the mutex. Raises Broken when it was not sent."""
        with self.mutex:
            return self._submit(build)

    def exchange(self, build: Callable[[], Call], end: float) -> Call:
        """`submit`, and blocks this thread until it is done. Raises Late at the moment `end`; the call goes on."""
        call: Call | None = None
        try:
            with self.mutex:
                call = self._submit(build)
                gate = self._line_up(call)
            self._attend(call, gate, end)
        except BaseException:
            if call is not None:
                with self.mutex:
                    self._step_back(call)
            raise
        return call

    def _submit(self, build: Callable[[], Call]) -> Call:
        if self.reason is not None:
            raise Broken(self.reason)
        if len(self._calls) >= MOST_CALLS:
            raise Broken(f"{MOST_CALLS} statements wait for their reply")
        call = build()
        self.say(call)
        return call

    def say(self, call: Call) -> None:
        """`submit` for who has the mutex."""
        pgconn, statement = self._pgconn, call.statement
        try:
            if statement.name not in self._prepared:
                pgconn.send_prepare(statement.name, statement.sql, statement.types)
                self._prepared.add(statement.name)
                call.prepares = True
            values = list(call.params)  # psycopg before 3.3 takes lists only
            pgconn.send_query_prepared(statement.name, values, [1] * len(values), 1)
            pgconn.pipeline_sync()
            self._unsent = bool(pgconn.flush())
        except psycopg.Error as error:
            self._die(str(error).strip())
            raise Broken(str(error).strip()) from error
        call.sent = time.monotonic()
        self._calls.append(call)

    def waiting_for(self) -> float:
        """Seconds for which the oldest call has had no reply; 0 when none is under way. Needs no mutex."""
        try:
            return time.monotonic() - self._calls[0].sent
        except IndexError:
            return 0.0

    # --- waiting ------------------------------------------------------------------------------------------------

    def _line_up(self, call: Call) -> threading.Lock | None:
        """None: this thread reads from now on. Else what it sleeps on until it is to read, or has its reply."""
        if self._leader is None:
            self._leader = call
            return None
        call.gate = gate = threading.Lock()
        gate.acquire()
        self._followers.append(call)
        return gate

    def _attend(self, call: Call, gate: threading.Lock | None, end: float) -> None:
        while gate is not None:
            in_time = gate.acquire(timeout=max(0.0, end - time.monotonic()))
            with self.mutex:
                if call.done:
                    self._step_back(call)  # a task's loop may have read its reply just when it was to read
                    return
                if not in_time:
                    raise Late("no reply within the time limit")
                gate = self._line_up(call)
        self._lead(call, end)

    def _lead(self, call: Call, end: float) -> None:
        while True:
            if self._unsent is not self._polls_out:
                self._polls_out = self._unsent
                self._poll.modify(self._fd, select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN)
            if not self._poll.poll(max(0, int((end - time.monotonic()) * 1000) + 1)) and time.monotonic() >= end:
                raise Late("no reply within the time limit")
            with self.mutex:
                wakes = self._read()
                if call.done:
                    self._step_back(call)
            if wakes:
                self.deliver(wakes)
            if call.done:
                return

    def _step_back(self, call: Call) -> None:
        """Its thread waits no more: when it read, or was about to, another one does."""
        if call in self._followers:
            self._followers.remove(call)
        if self._leader is not None and self._leader is not call:
            return
        self._leader = None
        while self._followers:
            heir = self._followers.popleft()
            if not heir.done and heir.gate is not None:
                heir.gate.release()
                heir.gate = None
                return
        if self.reason is not None:
            self._quiet.notify_all()

    async def await_(self, call: Call, end: float) -> None:
        """`wait` on the running loop."""
        loop = asyncio.get_running_loop()
        with self.mutex:
            if call.done:
                return
            call.loop, call.future = loop, loop.create_future()
            self._loops[loop] = self._loops.get(loop, 0) + 1
            if self._loops[loop] == 1:
                loop.add_reader(self._fd, self.take_in)
            if self._unsent:
                loop.add_writer(self._fd, self._write, loop)
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                await call.future
        except TimeoutError:
            raise Late("no reply within the time limit") from None
        finally:
            with self.mutex:
                self._loops[loop] -= 1
                if not self._loops[loop]:
                    del self._loops[loop]
                    loop.remove_reader(self._fd)
                    loop.remove_writer(self._fd)
                    self._quiet.notify_all()

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        self.take_in()
        if not self._unsent:
            loop.remove_writer(self._fd)

    # --- reading ------------------------------------------------------------------------------------------------

    def take_in(self) -> None:
        """Reads what is there, and finishes the calls whose reply it is; unless a thread does, which would not hear of
        it when somebody else took its reply off the socket."""
        with self.mutex:
            wakes = [] if self._leader is not None else self._read()
        if wakes:
            self.deliver(wakes)

    def _read(self) -> list[Wake]:
        wakes: list[Wake] = []
        if self.reason is not None:
            return wakes
        pgconn, calls = self._pgconn, self._calls
        try:
            pgconn.consume_input()
            if self._unsent:
                self._unsent = bool(pgconn.flush())
            while not pgconn.is_busy() and calls:
                result = pgconn.get_result()
                if result is None:
                    if pgconn.status != ConnStatus.OK:
                        raise psycopg.OperationalError("the server closed the connection")
                elif result.status == ExecStatus.PIPELINE_SYNC:
                    wakes += self._complete(calls.popleft())
                elif result.status in _OK:
                    calls[0].good = result
                elif result.status != ExecStatus.PIPELINE_ABORTED:
                    calls[0].bad = calls[0].bad or result
        except psycopg.Error as error:
            self._die(self._last_words or str(error).strip())
        return wakes

    def _complete(self, call: Call) -> Sequence[Wake]:
        wakes: Sequence[Wake] = ()
        try:
            if call.bad is None and call.good is not None:
                wakes = call.settle(call, call.good)
            else:
                if call.prepares and call.good is None:  # what was prepared stays so when its execution fails
                    self._prepared.discard(call.statement.name)
                refused = _refusal(call.bad)
                call.error = None if call.refused(refused) else refused
        except Exception as error:
            call.error = error
        call.finish()
        return wakes

    def _notice(self, notice: PGresult) -> None:
        if notice.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) == b"FATAL":
            self._last_words = (notice.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")

    # --- the end ------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Closes the connection; what has no reply fails. From any thread; the rest is done by the watching thread."""
        with self.mutex:
            self._die(reason)

    def _die(self, reason: str) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.error = Broken(reason)
            call.finish()
        # The descriptor stays until nobody watches it any more, else its number might be another socket's by then.
        with suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as twin:
            twin.shutdown(socket.SHUT_RDWR)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._fd, _HANG_UP)
        while self.reason is None:
            try:
                pause = self.tick()
            except Exception:
                logger.exception("dref_django: looking after the connection of the locks failed")
                pause = 1.0
            if poll.poll(int((pause if _HANG_UP else PEEK) * 1000)) or self._at_end():
                with self.mutex:
                    wakes = self._read()
                    self._die(self._last_words or "the server closed the connection")
                self.deliver(wakes)
        try:
            self.ended()
        finally:
            self.over.set_result(None)
        with self.mutex:
            if self._quiet.wait_for(lambda: self._leader is None and not self._loops, QUIET):
                self._pgconn.finish()

    def _at_end(self) -> bool:
        """Whether the server has hung up, where poll() does not say."""
        if _HANG_UP:
            return False
        with suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as twin:
            return not twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def abandon(self) -> None:
        """In a forked child: gives up the descriptor without a word to the server, which still talks to the parent."""
        self.reason = "it belongs to the process that this one was forked from"
        with suppress(OSError):
            os.close(self._fd)


def _refusal(bad: PGresult | None) -> Refused:
    if bad is None:
        return Refused("XX000", "no result")
    sqlstate = (bad.error_field(DiagnosticField.SQLSTATE) or b"XX000").decode()
    message = (bad.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    return Refused(sqlstate, message)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
