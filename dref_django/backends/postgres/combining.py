"""Increments of one name that meet in this process go to the server together, as one batch.

Each would wait for the row until the one before has committed, on a connection of its own. So who finds an increment of
the same name under way waits for its reply here, and then the first of those that wait sends all of them. One that is
alone is sent at once, as it is.

Nothing else is different: the batch applies them one after the other, in the order in which they came. Each has its own
sum, version, op id and notice, and learns by its own op id what became of it when the reply is lost. A batch that is
refused, since one of them cannot be added, changes nothing and is followed by each of them alone.

Threads wait for threads only, and tasks for tasks of their own loop, so nobody waits for a loop that is busy.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple, TypeAlias

from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.protocol import RING_SIZE, Add, Command, Reply, Status

from .session import Limit

MOST: Final = RING_SIZE
"""Increments in one batch: an entry remembers so many op ids, so that each of them can be proven."""


class _Turn(Enum):
    LEAD = auto()
    """Send what waits."""
    ALONE = auto()
    """Send your own."""


Told: TypeAlias = Reply | _Turn


class Wait(NamedTuple):
    """For a future (asyncio's of a task, else that of a thread), until a moment of the monotonic clock; TimeoutError
    then, and the future stays as it is."""

    future: Any
    until: float

    def waited(self) -> Any:
        return self.future.result(self._left())

    async def awaited(self) -> Any:
        await asyncio.wait([self.future], timeout=self._left())
        if not self.future.done():
            raise TimeoutError
        return self.future.result()

    def _left(self) -> float:
        return max(0.0, self.until - time.monotonic())


Steps: TypeAlias = Generator[Wait | Sequence[Command], Any, list[Reply]]
"""Yields what to wait for, and batches to send; returns the reply to its one command."""


class _Place:
    """One that waits. `future`: its reply, or its turn."""

    __slots__ = ("command", "future", "gone", "leads")

    def __init__(self, command: Add, future: Any) -> None:
        self.command = command
        self.future = future
        self.leads = False
        self.gone = False

    def tell(self, outcome: Told) -> None:
        if not self.gone:
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if not self.gone:
            self.future.set_exception(error)


class Combiner:
    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: those who wait are the parent's."""
        self._mutex = threading.Lock()
        self._lines: dict[Hashable, deque[_Place]] = {}
        """Behind the increments that are under way, those that wait."""

    def add(self, line: Hashable, command: Add, limit: Limit, new_future: Callable[[], Any]) -> Steps:
        """Adds; increments of one `line` are combined."""
        place = self._enter(line, command, new_future)
        told = _Turn.LEAD if place is None else (yield from self._wait(line, place, limit))
        if told is _Turn.LEAD:
            told = yield from self._lead(line, command)
        return [told] if isinstance(told, Reply) else (yield [command])

    def _enter(self, line: Hashable, command: Add, new_future: Callable[[], Any]) -> _Place | None:
        """None: nobody of that line is under way."""
        with self._mutex:
            places = self._lines.get(line)
            if places is None:
                self._lines[line] = deque()
                return None
            place = _Place(command, new_future())
            places.append(place)
            return place

    def _leave(self, line: Hashable) -> None:
        """The first of those who wait leads now."""
        with self._mutex:
            places = self._lines[line]
            if not places:
                del self._lines[line]
                return
            first = places.popleft()
            first.leads = True
            first.tell(_Turn.LEAD)

    def _lead(self, line: Hashable, command: Add) -> Generator[Sequence[Command], Any, Told]:
        with self._mutex:
            places = self._lines[line]
            others = [places.popleft() for _ in range(min(len(places), MOST - 1))]
        try:
            replies: list[Reply] = yield [command, *(other.command for other in others)]
        except BaseException as error:
            self._leave(line)
            for other in others:
                other.fail(error if isinstance(error, Exception) else ReplyLost("who waited for it was interrupted"))
            raise
        self._leave(line)
        if others and any(reply.status is not Status.APPLIED for reply in replies):
            for other in others:
                other.tell(_Turn.ALONE)
            return _Turn.ALONE
        for other, reply in zip(others, replies[1:], strict=True):
            other.tell(reply)
        return replies[0]

    def _wait(self, line: Hashable, place: _Place, limit: Limit) -> Generator[Wait, Any, Told]:
        try:
            try:
                told: Told = yield Wait(place.future, limit.cancel)
            except TimeoutError:
                if self._has(line, place):
                    raise
                told = yield Wait(place.future, limit.end)  # it is sent, and perhaps being cancelled
        except BaseException as error:
            is_sent = self._give_up(line, place)
            if not isinstance(error, TimeoutError):
                raise
            if is_sent:
                raise ReplyLost("no reply within the time limit") from None
            raise NotSent("others that change the value did not end in time") from None
        return told

    def _has(self, line: Hashable, place: _Place) -> bool:
        with self._mutex:
            return place in self._lines.get(line, ())

    def _give_up(self, line: Hashable, place: _Place) -> bool:
        """Returns whether its increment is, or was, under way."""
        with self._mutex:
            places = self._lines.get(line)
            if places is not None and place in places:
                places.remove(place)
                return False
            place.gone = True
        if place.leads:
            self._leave(line)
        return not place.leads
