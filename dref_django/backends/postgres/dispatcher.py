"""Sends notices and wakes after the commit, on a connection of its own, many in one NOTIFY.

NOTIFY inside the write would serialise all commits of the database; lost hints cost little, since every listener
compares versions from time to time. One a process and back end:

- Mostly nothing is in flight: then the writing thread itself puts the NOTIFY on the wire and does not wait for its
  reply. That is the shortest way, and no other thread has to wake up for it.
- When changes follow each other a thread takes over and sends one NOTIFY every few milliseconds, with all that has
  gathered: each NOTIFY costs the server half of what a small write costs. Only a wake does not wait for that.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final

from dref_django.exceptions import DRefError
from dref_django.protocol import Notice, Patch, Wake
from dref_django.store import Event
from dref_django.threads import started

from .address import Address
from .binary import TEXTS, texts
from .channels import Channels, Item, shorten
from .pools import before_database_changes, greet
from .session import Broken, Limit, Refused, Session, Steps, connect
from .statements import Statement

logger = logging.getLogger("dref_django")

GAP: Final = 0.002
"""Seconds between two NOTIFYs, unless somebody waits to be woken."""
LOADED_GAP: Final = 0.008
"""The same while many changes come: who watches such names is served with fewer, larger messages."""
CHECK: Final = 0.1
"""Seconds after which the thread looks whether what another thread put on the wire has arrived."""
LOADED: Final = 4
"""Items in one NOTIFY from which on there is load."""
MOST_NOTICES: Final = 2000
"""Notices that wait, at most; beyond it each name keeps a hint of its newest version."""
MOST_NAMES: Final = 5000
"""Names that wait, at most; beyond it one message says that everything may have changed."""
FAREWELL: Final = 1.0
"""Seconds that are given to what still waits when the process ends or the back end is closed."""
LONGEST_PAUSE: Final = 2.0
SWEEP_PERIOD: Final = 300.0
SWEEP_LIMIT: Final = 1000

NOTIFY: Final = Statement(
    b"dref_notify", b"SELECT pg_notify(c, p) FROM unnest($1, $2) AS u (c, p)", (TEXTS, TEXTS)
)  # fmt: skip


class Outbox:
    """What waits to be sent, bounded."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._notices: dict[str, list[Notice]] = {}
        self._count = 0
        self._wakes: list[Wake] = []
        self._lost = False

    def __bool__(self) -> bool:
        return bool(self._notices or self._wakes or self._lost)

    @property
    def is_urgent(self) -> bool:
        return bool(self._wakes)

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Wake):
                self._wakes.append(event)
            else:
                self._notices.setdefault(event.name, []).append(shorten(event))
                self._count += 1
        if self._count > MOST_NOTICES:
            self._collapse()

    def _collapse(self) -> None:
        if len(self._notices) > MOST_NAMES:
            self._notices.clear()
            self._lost = True
        for name, notices in self._notices.items():
            newest = max(notices, key=lambda notice: notice.version)
            oldest = min(notice.base for notice in notices)
            self._notices[name] = [newest._replace(base=oldest, patch=Patch.HINT, data=None, splice=None)]
        self._count = len(self._notices)
        del self._wakes[:-MOST_NAMES]  # a waiter that is not woken looks again by itself

    def take(self) -> list[Item]:
        items: list[Item] = [None] if self._lost else []
        items += self._wakes
        for notices in self._notices.values():
            items += notices
        self._clear()
        return items

    def put_back(self, items: Sequence[Item]) -> None:
        self._lost = self._lost or None in items
        self.add([item for item in items if item is not None])


class Dispatcher:
    def __init__(self, address: Address, channels: Channels, timeout: float) -> None:
        self._address = address
        self._channels = channels
        self._timeout = timeout
        self._session: Session | None = None
        self._start_anew()
        _dispatchers.add(self)
        before_database_changes(self)

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._quiet = threading.Condition(self._mutex)
        self._outbox = Outbox()
        self._busy = False  # the thread is at work, and owns the session and what is in flight
        self._closing = False
        self._thread: threading.Thread | None = None
        self._work = threading.Event()
        self._urgent = threading.Event()  # the thread shall not sleep until the next moment
        self._session = None
        self._in_flight: tuple[Steps[object], list[Item]] | None = None
        self._watched = False  # the thread will look at what is in flight
        self._next = 0.0  # the moment from which on the next NOTIFY may go
        self._next_sweep = time.monotonic() + SWEEP_PERIOD * random.random()  # noqa: S311 (spreads processes)

    # --- in the thread that wrote -------------------------------------------------------------------------------

    def post(self, events: Sequence[Event]) -> None:
        """Never blocks and never raises; any thread."""
        if self._pid != os.getpid():
            self.forget()
        with self._mutex:
            self._outbox.add(events)
            self._closing = False
            if self._busy:
                if self._outbox.is_urgent:
                    self._urgent.set()
                return
            if self._send_at_once():
                return
            if self._thread is None or not self._thread.is_alive():
                self._work = threading.Event()
                self._thread = started(self._run, "dref-notify", self._work)
                if self._thread is None:
                    return
            self._busy = True
            self._work.set()

    def _send_at_once(self) -> bool:
        """Under the mutex: puts what waits on the wire when that needs no waiting. Returns whether it did."""
        now = time.monotonic()
        session = self._session
        if session is None or now > self._next_sweep or (now < self._next and not self._outbox.is_urgent):
            return False
        if session.place != self._address.key() or not self._is_settled(session) or not session.is_usable():
            return False
        items = self._outbox.take()
        self._in_flight = self._notify(session, items), items
        self._next = now + (LOADED_GAP if len(items) >= LOADED else GAP)
        if not self._is_settled(session) and not self._watched:
            self._watched = True
            self._work.set()
        return not self._outbox

    def _is_settled(self, session: Session) -> bool:
        """Whether nothing is in flight any more; does as much for it as is possible without waiting."""
        if self._in_flight is None:
            return True
        steps, items = self._in_flight
        try:
            next(steps)
        except StopIteration:
            self._in_flight = None
            return True
        except (Broken, Refused):
            self._in_flight = None
            self._outbox.put_back(items)
            self._hang_up()
        return False

    def _notify(self, session: Session, items: list[Item]) -> Steps[object]:
        channels, payloads = zip(*self._channels.messages(items), strict=True)
        return session.run(NOTIFY, (texts(channels), texts(payloads)))

    # --- in the thread of its own -------------------------------------------------------------------------------

    def _run(self, work: threading.Event) -> None:
        while True:
            work.wait(CHECK if self._watched else None)
            work.clear()
            pause = 0.02
            while not self._closing and self._is_wanted() and not self._pump():
                pause = min(pause * 2, LONGEST_PAUSE)
                work.wait(pause * random.uniform(0.5, 1))  # noqa: S311 (spreads reconnects)
                work.clear()
            with self._mutex:
                if self._closing:
                    self._end()
                    return

    def _is_wanted(self) -> bool:
        """Whether there is work, also because what a writing thread put on the wire was lost there."""
        with self._mutex:
            if not self._busy and self._session is not None:
                self._is_settled(self._session)
                self._watched = self._in_flight is not None
                self._busy = bool(self._outbox)
            return self._busy

    def _pump(self) -> bool:
        """Sends until nothing is left. Returns False when the database cannot be reached now."""
        try:
            self._settle()
            while True:
                with self._mutex:
                    if not self._outbox or self._closing:
                        self._busy = False
                        self._quiet.notify_all()
                        return True
                session = self._connected()
                if not self._outbox.is_urgent:
                    self._urgent.wait(max(0.0, self._next - time.monotonic()))
                with self._mutex:
                    self._urgent.clear()
                    items = self._outbox.take()
                self._next = time.monotonic() + (LOADED_GAP if len(items) >= LOADED else GAP)
                self._in_flight = self._notify(session, items), items
                self._settle()
                self._sweep(session)
        except (Broken, Refused, DRefError) as error:
            logger.info("dref_django: notices wait, PostgreSQL cannot be reached: %s", error)
        except Exception:
            logger.exception("dref_django: notices could not be sent")
        self._hang_up()
        return False

    def _settle(self) -> None:
        """Waits for the reply to what is in flight. What was not confirmed goes back into the outbox; a notice that
        arrives twice does no harm."""
        if self._in_flight is None or self._session is None:
            return
        steps, items = self._in_flight
        self._in_flight = None
        try:
            self._session.wait(steps, Limit.of(self._timeout))
        except BaseException:
            with self._mutex:
                self._outbox.put_back(items)
            raise

    def _connected(self) -> Session:
        session = self._session
        if session is not None and session.place == self._address.key() and session.is_usable():
            return session
        self._hang_up()
        limit = Limit.of(self._timeout)
        pgconn = connect(self._address.direct_params(self._timeout), limit.end)
        session = Session(pgconn, place=self._address.key())
        try:
            session.wait(greet(session, self._address, {"synchronous_commit": "off"}), limit)
        except BaseException:
            session.close()
            raise
        self._session = session
        return session

    def _sweep(self, session: Session) -> None:
        """Removes graves now and then: this connection is the one that nobody waits for."""
        if time.monotonic() > self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_PERIOD * random.uniform(0.5, 1.5)  # noqa: S311
            session.wait(session.script(f"SELECT dref_sweep({SWEEP_LIMIT})"), Limit.of(self._timeout))

    def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # --- the end ------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = FAREWELL) -> bool:
        """Waits until all that was posted is on its way; returns whether it is."""
        with self._quiet:
            return self._quiet.wait_for(lambda: not self._busy and not self._outbox, timeout)

    def close(self) -> None:
        """Sends what waits, in a bounded time, and closes the connection; the next post opens another."""
        if self._pid != os.getpid():
            return
        self.flush()
        with self._mutex:
            thread = self._thread
            if thread is None or not thread.is_alive():
                self._end()
                return
            self._closing = True
            self._work.set()
        if thread is not threading.current_thread():
            thread.join(FAREWELL)

    def _end(self) -> None:
        """Under the mutex, by the thread of its own while there is one."""
        self._thread = None
        self._busy = False
        self._in_flight = None
        self._hang_up()
        self._quiet.notify_all()

    def yield_database(self) -> None:
        self.close()

    def forget(self) -> None:
        """In a forked child: leaves the parent's connection alone."""
        session = self._session
        self._start_anew()
        if session is not None:
            session.abandon()


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


@atexit.register
def _farewell() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.close()
