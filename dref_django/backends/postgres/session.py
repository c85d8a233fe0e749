"""One connection of ours, on libpq's non-blocking calls, for threads and for any event loop.

What happens on the wire is written once, as a generator that yields what it waits for; `wait` drives it in a thread,
`await_` on the running loop. A session belongs to no loop, so threads and all loops share one pool.

psycopg's own Connection is not used: it cannot wait with a time limit, nor tell a batch that was never sent from one
whose reply was lost, and it costs a multiple of the one round trip that an operation takes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import select
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, PollingStatus
from psycopg.pq.abc import PGcancel, PGcancelConn, PGconn, PGresult

from dref_django.protocol import Command
from dref_django.threads import started

from .binary import Bound
from .statements import Answer, Statement, request

T = TypeVar("T")

READ: Final = 1
WRITE: Final = 2
PATIENCE: Final = 0.8
"""The part of an operation's time after which the server is asked to cancel it: a row may be locked by others."""

CANCEL_TIMEOUT: Final = 5.0
"""Seconds after which a request to cancel is given up."""

OUT_OF_RANGE: Final = "22003"

_OK = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY)

Steps: TypeAlias = Generator[int, None, T]
"""Yields READ and WRITE, what to wait for; returns the result."""


class Broken(Exception):
    """The connection failed. Whether the server ran what was sent is not known."""


class Late(Broken):
    """The time was over before the reply came."""


class Refused(Exception):
    """The server answered with an error: what was sent is rolled back, certainly."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class Limit(NamedTuple):
    """Two moments of the monotonic clock: when to ask the server to cancel, and when to give up."""

    cancel: float
    end: float

    @classmethod
    def of(cls, timeout: float) -> Limit:
        now = time.monotonic()
        return cls(now + timeout * PATIENCE, now + timeout)


class Session:
    """`generation` says of which life of its pool it is, `place` for which settings it was made."""

    def __init__(
        self, pgconn: PGconn, *, prepares: bool = True, generation: object = None, place: object = None
    ) -> None:
        pgconn.nonblocking = 1
        self.pgconn = pgconn
        self.prepares = prepares
        self.generation = generation
        self.place = place
        self.cancelled = False
        self._prepared: set[bytes] = set()
        self._pid = os.getpid()
        self._fd = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    # --- life ---------------------------------------------------------------------------------------------------

    def is_usable(self) -> bool:
        """Whether an idle session may be used: the server has not hung up, and no reply is outstanding."""
        if self.cancelled or self.pgconn.status != ConnStatus.OK:
            return False
        if not self._poll.poll(0):
            return True
        try:  # a parameter of the server changed, or it said good-bye
            self.pgconn.consume_input()
        except psycopg.Error:
            return False
        return not self._poll.poll(0) and self.pgconn.status == ConnStatus.OK

    def close(self) -> None:
        if self._pid == os.getpid():
            self.pgconn.finish()

    def abandon(self) -> None:
        """In a forked child: gives up the descriptor without a word to the server, which still talks to the parent."""
        with suppress(OSError):
            os.close(self._fd)

    # --- what is said -------------------------------------------------------------------------------------------

    def run(self, statement: Statement, params: Sequence[Bound]) -> Steps[PGresult]:
        """Runs one statement. Raises Refused or Broken."""
        values, formats = list(params), [1] * len(params)  # psycopg before 3.3 takes lists only
        if self.prepares:
            if statement.name not in self._prepared:
                self._say(lambda: self.pgconn.send_prepare(statement.name, statement.sql, statement.types))
                yield from self._hear()
                self._prepared.add(statement.name)
            self._say(lambda: self.pgconn.send_query_prepared(statement.name, values, formats, 1))
        else:
            self._say(lambda: self.pgconn.send_query_params(statement.sql, values, statement.types, formats, 1))
        return (yield from self._hear())

    def script(self, sql: str) -> Steps[PGresult]:
        """Runs statements without parameters in one transaction; the result of the last, as text."""
        self._say(lambda: self.pgconn.send_query(sql.encode()))
        return (yield from self._hear())

    def _say(self, send: Callable[[], None]) -> None:
        try:
            send()
        except psycopg.Error as error:
            raise Broken(str(error)) from error

    def _hear(self) -> Steps[PGresult]:
        pgconn = self.pgconn
        good: PGresult | None = None
        bad: PGresult | None = None
        try:
            while pgconn.flush():
                yield READ | WRITE
                pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    yield READ
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    break
                if result.status in _OK:
                    good = result
                else:
                    bad = bad or result
        except psycopg.Error as error:
            if bad is None or good is not None:  # else the server said good-bye, and that it did nothing
                raise Broken(str(error).strip()) from error
        return self._judge(good, bad)

    def _judge(self, good: PGresult | None, bad: PGresult | None) -> PGresult:
        """An error in the place of a result was no commit. After a result it came from the commit itself, or from a
        server that was shut down around it: unless it is a plain ERROR, that proves nothing."""
        if bad is not None:
            sqlstate = (bad.error_field(DiagnosticField.SQLSTATE) or b"").decode()
            severity = bad.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) or b""
            message = (bad.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
            if sqlstate and (good is None or severity == b"ERROR"):
                raise Refused(sqlstate, message)
            raise Broken(message or bad.get_error_message("utf-8"))
        if good is None:
            raise Broken("the server closed the connection")
        return good

    def cancel(self) -> None:
        """Asks the server to cancel what runs, without waiting for it. The session cannot be used again."""
        self.cancelled = True
        asked: Callable[[], None]
        if psycopg.capabilities.has_cancel_safe():
            request = self.pgconn.cancel_conn()
            end = time.monotonic() + CANCEL_TIMEOUT
            asked = partial(_cancel, request, end)
        elif psycopg.pq.__impl__ == "python":
            asked = partial(_cancel_blocking, self.pgconn.get_cancel())
        else:
            # Before libpq 17 there is only PQcancel. It waits without a limit, and psycopg's C code holds the GIL over
            # it: a network that swallows packets would freeze the whole process.
            return
        started(asked, "dref-cancel")  # without it the reply is waited for until the end

    # --- who waits ----------------------------------------------------------------------------------------------

    def wait(self, steps: Steps[T], limit: Limit) -> T:
        """Drives `steps` in this thread. Raises Late when the time is over."""
        poll = self._poll.poll
        writing = False
        try:
            while True:
                wanted = next(steps)
                if writing is not bool(wanted & WRITE):
                    writing = not writing
                    self._poll.modify(self._fd, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
                while not poll(self._milliseconds(limit)):
                    self._overdue(limit)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            if writing:
                self._poll.modify(self._fd, select.POLLIN)

    async def await_(self, steps: Steps[T], limit: Limit) -> T:
        """Drives `steps` on the running loop. Raises Late when the time is over."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        writing = False
        loop.add_reader(self._fd, ready.set)
        try:
            while True:
                wanted = next(steps)
                if wanted & WRITE and not writing:
                    loop.add_writer(self._fd, ready.set)
                elif writing and not wanted & WRITE:
                    loop.remove_writer(self._fd)
                writing = bool(wanted & WRITE)
                while not ready.is_set():
                    try:
                        async with asyncio.timeout(self._milliseconds(limit) / 1000):
                            await ready.wait()
                    except TimeoutError:
                        self._overdue(limit)
                ready.clear()
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            loop.remove_reader(self._fd)
            if writing:
                loop.remove_writer(self._fd)

    def _milliseconds(self, limit: Limit) -> int:
        moment = limit.end if self.cancelled else limit.cancel
        return max(0, int((moment - time.monotonic()) * 1000) + 1)

    def _overdue(self, limit: Limit) -> None:
        now = time.monotonic()
        if now >= limit.end:
            raise Late("no reply within the time limit")
        if now >= limit.cancel and not self.cancelled:
            self.cancel()


def _cancel(request: PGcancelConn, end: float) -> None:
    with suppress(psycopg.Error):
        request.start()
        while time.monotonic() < end:
            match request.poll():
                case PollingStatus.READING:
                    wanted = select.POLLIN
                case PollingStatus.WRITING:
                    wanted = select.POLLOUT
                case _:
                    break
            poll = select.poll()
            poll.register(request.socket, wanted)
            poll.poll(max(0, int((end - time.monotonic()) * 1000) + 1))
    request.finish()


def _cancel_blocking(request: PGcancel) -> None:
    with suppress(psycopg.Error):
        request.cancel()


def converse(
    session: Session, space: str, commands: Sequence[Command], now: int | None, *, exact: bool = False
) -> Steps[Answer]:
    """Runs one batch: by a hot statement when there is one (unless `exact`), else by the functions."""
    while True:
        wanted = request(space, commands, now, exact=exact)
        try:
            answer = wanted.read((yield from session.run(wanted.statement, wanted.params)))
        except Refused as refused:
            if exact or refused.sqlstate != OUT_OF_RANGE:
                raise
        else:
            if answer is not None:
                return answer
        exact = True


# --- connecting ---------------------------------------------------------------------------------------------------


def connect(params: Mapping[str, Any], end: float) -> PGconn:
    """A new connection, by the moment `end` of the monotonic clock. Raises Broken."""
    attempts = _attempts(params)
    for number, attempt in enumerate(attempts, 1):
        share = (end - time.monotonic()) / (len(attempts) - number + 1)
        pgconn = _start(attempt)
        try:
            _connect_in_thread(pgconn, time.monotonic() + share)
        except Broken:
            pgconn.finish()
            if number == len(attempts):
                raise
        else:
            return pgconn
    raise Broken("no host is given")


async def aconnect(params: Mapping[str, Any], end: float) -> PGconn:
    """`connect` on the running loop."""
    attempts = _attempts(params)
    for number, attempt in enumerate(attempts, 1):
        share = (end - time.monotonic()) / (len(attempts) - number + 1)
        await _resolve(attempt)
        pgconn = _start(attempt)
        try:
            await _connect_on_loop(pgconn, time.monotonic() + share)
        except Broken:
            pgconn.finish()
            if number == len(attempts):
                raise
        except BaseException:
            pgconn.finish()
            raise
        else:
            return pgconn
    raise Broken("no host is given")


def _attempts(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One set of parameters a host: libpq leaves the time limit of each to its caller."""
    hosts = str(params.get("host") or params.get("hostaddr") or "").split(",")
    if len(hosts) == 1:
        return [dict(params)]
    lists = {key: str(params[key]).split(",") for key in ("host", "hostaddr", "port") if params.get(key)}
    return [
        {**params, **{key: values[place] if len(values) > 1 else values[0] for key, values in lists.items()}}
        for place in range(len(hosts))
    ]


async def _resolve(attempt: dict[str, Any]) -> None:
    """Looks the name up off the loop; libpq would block it."""
    host = str(attempt.get("host") or "")
    if not host or host.startswith(("/", "@")) or attempt.get("hostaddr"):
        return
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return
    with suppress(OSError):  # libpq says it better
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
        if len({entry[4][0] for entry in found}) == 1:
            attempt["hostaddr"] = found[0][4][0]


def _polled(pgconn: PGconn) -> int | None:
    """The event to wait for, None when connected. Raises Broken."""
    match pgconn.connect_poll():
        case PollingStatus.OK:
            return None
        case PollingStatus.READING:
            return READ
        case PollingStatus.WRITING:
            return WRITE
        case _:
            raise Broken(pgconn.get_error_message("utf-8").strip())


def _connect_in_thread(pgconn: PGconn, end: float) -> None:
    _check_start(pgconn)
    wanted: int | None = WRITE
    while wanted is not None:
        poll = select.poll()  # libpq changes its socket while it tries the addresses of a name
        poll.register(pgconn.socket, select.POLLIN if wanted == READ else select.POLLOUT)
        if not poll.poll(max(0, int((end - time.monotonic()) * 1000) + 1)) and time.monotonic() >= end:
            raise Late("no connection within the time limit")
        wanted = _polled(pgconn)


async def _connect_on_loop(pgconn: PGconn, end: float) -> None:
    _check_start(pgconn)
    loop = asyncio.get_running_loop()
    wanted: int | None = WRITE
    while wanted is not None:
        ready = asyncio.Event()
        fd = pgconn.socket
        add, remove = (loop.add_reader, loop.remove_reader) if wanted == READ else (loop.add_writer, loop.remove_writer)
        add(fd, ready.set)
        try:
            async with asyncio.timeout(max(0, end - time.monotonic())):
                await ready.wait()
        except TimeoutError:
            raise Late("no connection within the time limit") from None
        finally:
            remove(fd)
        wanted = _polled(pgconn)


def _start(attempt: Mapping[str, Any]) -> PGconn:
    return psycopg.pq.PGconn.connect_start(make_conninfo("", **attempt).encode())


def _check_start(pgconn: PGconn) -> None:
    if pgconn.status == ConnStatus.BAD:
        raise Broken(pgconn.get_error_message("utf-8").strip())
