"""Looks, while somebody of this process waits, whether the sessions that back what is waited for have ended.

The server frees a lease as soon as it sees the holder's connection end, but tells nobody: a session that ends sends no
NOTIFY. One statement asks for all who wait here, and only those are rung whose holder is gone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from psycopg.pq.abc import PGresult

from dref_django import background
from dref_django.protocol import Acquire, Wake

from .binary import INT8, TEXT, TEXTS, Line, maybe_int8, texts
from .session import Broken, Refused
from .shared import Call
from .statements import statement

if TYPE_CHECKING:
    from .locks import Locks

LOOK: Final = 0.5
"""Seconds between two looks; somebody must be waiting."""

GONE: Final = statement("gone", TEXT, TEXTS, INT8)


class Lookout:
    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._mutex = threading.Lock()
        self._waiters: dict[tuple[str, str], float] = {}
        """(lease, owner), in the order in which they came, and the moment at which their place in the queue is over."""
        self.is_looking = False
        """Whether it looks now and then."""

    def expect(self, command: Acquire) -> None:
        """Somebody waits. From any thread."""
        with self._mutex:
            self._waiters[command.name, command.owner] = time.monotonic() + command.wait / 1e6
            if self.is_looking:
                return
            self.is_looking = True
        background.submit(self._look_out())

    def expects(self, command: Acquire) -> bool:
        """Whether its owner is in the queue."""
        return (command.name, command.owner) in self._waiters

    def forget(self, name: str, owner: str) -> None:
        """Was granted the lease, or gave up."""
        if self._waiters:
            with self._mutex:
                self._waiters.pop((name, owner), None)

    def close(self) -> None:
        with self._mutex:
            self._waiters.clear()

    def _awaited(self) -> dict[str, str]:
        """Each lease that is waited for, and its first waiter. When it is empty, the looking ends."""
        with self._mutex:
            now = time.monotonic()
            self._waiters = {place: until for place, until in self._waiters.items() if until > now}
            self.is_looking = bool(self._waiters)
            return dict(reversed(self._waiters))

    async def _look_out(self) -> None:
        await asyncio.sleep(LOOK)
        while awaited := self._awaited():
            with suppress(Broken, Refused, ReferenceError):  # those who wait look for themselves, too
                for name in await self._ended(list(awaited)):
                    self._locks.ring(Wake(name, awaited[name]))
            await asyncio.sleep(LOOK)

    async def _ended(self, names: Sequence[str]) -> list[str]:
        session = self._locks.session()
        if session is None:
            return []
        call = session.submit(lambda: self._question(names))
        await session.await_(call, time.monotonic() + self._locks.timeout)
        found: list[str] = call.result()
        return found

    def _question(self, names: Sequence[str]) -> Call:
        params = (self._locks.space.encode(), texts(names), maybe_int8(self._locks.now()))
        return Call(GONE, params, _read)


def _read(call: Call, result: PGresult) -> Sequence[Wake]:
    call.value = [Line(result, row).text(0) for row in range(result.ntuples)]
    return ()
