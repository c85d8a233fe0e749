"""A process's part in the cluster: it hosts its machine's node, or is a client of the process that does.

One node a `DATA_DIR`. Whoever has the lock on `node.lock` there hosts the node, on a thread and event loop of its own,
and serves the other processes of the machine at `node.sock`. When it ends, however it ends, the system frees the lock,
the others see their connection close, and one of them goes on with the same data. Commands and shells wait a while for
somebody else to host before they do it themselves. With the role `client` a process has no `DATA_DIR`: it talks to
members over the network.
"""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from dref_django import background

from .caller import Caller
from .feeds import Tap
from .host import Host
from .link import Link, NoHost
from .lock import HostLock
from .longevity import is_short_lived
from .options import Options, Role

__all__ = ["Attachment", "Caller", "acquire", "release"]

logger = logging.getLogger("dref_django")

PAUSE: Final = 0.03
"""Seconds between two attempts to find or become a host."""
LONG_PAUSE: Final = 1.0
"""The same after a failure that another attempt will not mend at once."""
SHORT_LIVED_WAIT: Final = 1.5
"""Seconds for which a command or a shell leaves hosting to others."""
STOP_TIMEOUT: Final = 5.0
"""Seconds that handing leadership over and closing the database may take."""


class Attachment:
    """Started by `acquire`; its methods but `post`, `start` and `stop` run on its own loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.trouble = ""
        """Why this process is not served, in words."""
        self.users = 0
        self.selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self.selector)
        self._stopping = asyncio.Event()
        self._seat: Host | Link | None = None
        self._last_place = ""  # of the node that this client was connected to
        self._taps: list[Tap] = []
        self._may_host_at = time.monotonic() + (SHORT_LIVED_WAIT if is_short_lived() else 0)
        self.caller = Caller(self._loop)
        self.caller.on_session = self._note_session
        self._thread = threading.Thread(target=self._run, name="dref-raft", daemon=True)

    # --- from any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    @property
    def hosts(self) -> bool:
        """Whether this process hosts the node at the moment."""
        return isinstance(self._seat, Host)

    def post(self, callback: Callable[[], None]) -> None:
        """Runs `callback` on the loop; forgets it when the loop has ended."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            logger.debug("dref: a call came after the node of this process was stopped")

    def stop(self) -> None:
        """Leaves the cluster's service in good order: leadership is handed over first. Bounded by `STOP_TIMEOUT`."""
        self.post(self._stopping.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT)

    # --- taps ---------------------------------------------------------------------------------------------------

    def add_tap(self, tap: Tap) -> None:
        self._taps.append(tap)
        if self._seat is not None:
            self._seat.add_tap(tap)

    def remove_tap(self, tap: Tap) -> None:
        if tap in self._taps:
            self._taps.remove(tap)
            if self._seat is not None:
                self._seat.remove_tap(tap)

    def want(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str], done: Callable[[], None]) -> None:
        tap.want(names, prefixes)
        if self._seat is not None and tap in self._taps:
            self._seat.want(tap, names, prefixes, done)
        else:
            done()

    def drop(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str], done: Callable[[], None]) -> None:
        tap.drop(names, prefixes)
        if self._seat is not None and tap in self._taps:
            self._seat.drop(tap, names, prefixes)
        done()

    # --- the loop -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            for task in (tasks := asyncio.all_tasks(self._loop)):
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _main(self) -> None:
        stopping = asyncio.ensure_future(self._stopping.wait())
        serving = asyncio.ensure_future(self._serve())
        await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
        if self._seat is not None:
            await self._seat.leave()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        self.caller.close()

    async def _serve(self) -> None:
        while True:
            pause = PAUSE
            try:
                await self._take_a_seat()
            except NoHost as error:
                self.trouble = str(error)
            except Exception as error:
                if str(error) != self.trouble:
                    logger.exception("dref: the Raft node of this process: %s", error)
                self.trouble = str(error) or type(error).__name__
                pause = LONG_PAUSE
            await asyncio.sleep(pause)

    async def _take_a_seat(self) -> None:
        """Hosts, or is a client; returns when that has ended, raises when it cannot be."""
        if self.options.role is not Role.CLIENT and time.monotonic() >= self._may_host_at:
            lock = HostLock.take(self.options.data_dir)
            if lock is not None:
                with lock:
                    await self._sit(await Host.open(self.options, lock))
                return
        link = await Link.open(self.options, self._last_place)
        self._last_place = link.place
        await self._sit(link)

    async def _sit(self, seat: Host | Link) -> None:
        def ready() -> None:
            self._seat, self.trouble = seat, ""
            self._note_session(self.caller.session)
            for tap in self._taps:
                seat.add_tap(tap)
            self.caller.attach(seat)

        try:
            await seat.run(ready, self._report)
        finally:
            self._seat = None
            self.caller.attach(None)
            await seat.close()

    def _note_session(self, session: int) -> None:
        if isinstance(self._seat, Host):
            self._seat.note_session(session)

    def _report(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            logger.info("dref: the Raft node of this process is %s", trouble)


# --- of the process -----------------------------------------------------------------------------------------------

_mutex = threading.Lock()
_attachments: dict[object, Attachment] = {}
_of_the_parent: list[object] = []
"""What a forked child inherited and must neither close nor collect: the database, sockets, the lock."""


def acquire(options: Options) -> Attachment:
    """The attachment of this process with these options; to be given back with `release`."""
    with _mutex:
        found = _attachments.get(options.place)
        if found is None:
            found = Attachment(options)
            found.start()
            _attachments[options.place] = found
        found.users += 1
        return found


def release(attachment: Attachment) -> None:
    with _mutex:
        attachment.users -= 1
        if attachment.users > 0:
            return
        if _attachments.get(attachment.options.place) is attachment:
            del _attachments[attachment.options.place]
    attachment.stop()


def _stop_all() -> None:
    with _mutex:
        attachments = list(_attachments.values())
        _attachments.clear()
    for attachment in attachments:
        attachment.stop()


def _forget() -> None:
    """In a forked child: lets go of the parent's lock, port and connections, so that they end when the parent does.

    What was the parent's socket becomes /dev/null here: its number is not used again while objects know it, and the
    parent's epoll, which both share, is not told.
    """
    global _mutex
    nowhere = os.open(os.devnull, os.O_RDWR)
    for attachment in _attachments.values():
        for key in list(attachment.selector.get_map().values()):
            os.dup2(nowhere, key.fd, inheritable=False)
    for number in HostLock.held:
        os.dup2(nowhere, number, inheritable=False)
    os.close(nowhere)
    _of_the_parent.extend(_attachments.values())
    _attachments.clear()
    _mutex = threading.Lock()


background.at_end(_stop_all)
os.register_at_fork(after_in_child=_forget)
