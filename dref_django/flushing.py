"""What a process has counted and not written yet: `Counter(..., flush_interval=...)`.

One thread a process writes it, all counters of one back end in one batch, no later than each one's interval after the
first increment that is not written. So what a process that is killed loses is what it counted in the last
`flush_interval`, and what it was just writing (TIMEOUT bounds that). An interpreter that exits, and a back end that
leaves use, are written first. A forked child begins with nothing: what the parent counted is the parent's to write.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Final

from . import backends
from .backends.base import Backend
from .exceptions import CounterOverflow, DRefError, OutcomeUnknown, Unavailable
from .op_ids import new_op_id
from .protocol import INT_MAX, INT_MIN, Add, Status
from .streams import get_hub
from .threads import started

logger = logging.getLogger("dref_django")

IDLE: Final = 60.0
"""Seconds without an increment after which the thread ends."""


class Pending:
    """What one counter has not written yet."""

    def __init__(self, name: str, backend: Backend, stripes: Sequence[str], default: int, interval: float) -> None:
        self.name = name
        self.backend = backend
        self.interval = interval
        self.due = 0.0
        self._stripes = stripes
        self._default = default
        self._amount = 0
        self._mutex = threading.Lock()

    def add(self, amount: int) -> None:
        if not self.due:
            self.backend.warm_up()  # the exit may be late for it: Python 3.12.0 and 3.12.1 start no thread there
        with self._mutex:
            total = self._amount + amount
            if not INT_MIN <= total <= INT_MAX:
                raise CounterOverflow(f"{self.name!r}: {amount} more is beyond what one flush can add; not counted")
            self._amount = total
            waiting, self.due = self.due, self.due or time.monotonic() + self.interval
        if not waiting:
            _flusher.expect(self)

    def take(self) -> int:
        with self._mutex:
            amount, self._amount, self.due = self._amount, 0, 0.0
            return amount

    def put_back(self, amount: int) -> None:
        """It was certainly not written: the next flush tries again."""
        if amount:
            self.add(amount)

    def forget(self) -> None:
        self._mutex = threading.Lock()
        self._amount, self.due = 0, 0.0

    def command(self, amount: int) -> Add:
        place = random.randrange(len(self._stripes))  # noqa: S311
        return Add(self._stripes[place], amount, 0 if place else self._default, new_op_id())


class Flusher:
    """The thread that writes, and the lock under which anybody does."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._expected: set[Pending] = set()
        self._thread: threading.Thread | None = None
        self._sending = threading.Lock()

    def expect(self, pending: Pending) -> None:
        with self._condition:
            self._expected.add(pending)
            if self._thread is None:
                self._thread = started(self._run, "dref-flush")
            if self._thread is None:
                pending.due = 0.0  # the next increment asks again
            self._condition.notify()

    def flush(self, all_pending: Sequence[Pending]) -> list[DRefError]:
        """Writes them now, and what is under way; what could not be written is counted again, or given up."""
        with self._sending:
            with self._condition:  # first: what is counted from here on is expected anew
                self._expected.difference_update(all_pending)
            adds = [(pending, pending.command(amount)) for pending in all_pending if (amount := pending.take())]
            return [error for batch in _batches(adds) for error in _write(batch[0][0].backend, batch)]

    def expected(self) -> list[Pending]:
        with self._condition:
            return list(self._expected)

    def _run(self) -> None:
        while True:
            with self._condition:
                now = time.monotonic()
                late = {pending.backend for pending in self._expected if pending.due <= now}
                due = [pending for pending in self._expected if pending.backend in late]  # they share the round trip
                if not due:
                    soonest = min((pending.due for pending in self._expected), default=now + IDLE)
                    if not self._condition.wait(soonest - now) and not self._expected:
                        self._thread = None
                        return
                    continue
            try:
                for error in self.flush(due):
                    logger.warning("dref: %s", error)
            except Exception:
                logger.exception("dref: counters could not be flushed")


def _batches(adds: Sequence[tuple[Pending, Add]]) -> list[list[tuple[Pending, Add]]]:
    """What may go together: one back end, one slot, a name once."""
    batches: dict[tuple[Backend, object, int], list[tuple[Pending, Add]]] = {}
    times: Counter[tuple[Backend, str]] = Counter()
    for pending, command in adds:
        backend, name = pending.backend, command.name
        batches.setdefault((backend, backend.slot(name), times[backend, name]), []).append((pending, command))
        times[backend, name] += 1
    return list(batches.values())


def _write(backend: Backend, batch: Sequence[tuple[Pending, Add]]) -> list[DRefError]:
    """One batch; when one counter spoils it, each by itself."""
    try:
        replies = backend.execute([command for _, command in batch])
    except Unavailable as error:
        for pending, command in batch:
            pending.put_back(command.amount)
        return [Unavailable(f"{_names(batch)}: not flushed, tried again in flush_interval. {error}")]
    except OutcomeUnknown as error:
        return [OutcomeUnknown(f"{_names(batch)}: whether the last flush was applied is unknown. {error}")]
    except DRefError as error:
        return [DRefError(f"{_names(batch)}: what was to be flushed is lost. {error}")]
    if all(reply.status is Status.APPLIED for reply in replies):
        for (_, command), reply in zip(batch, replies, strict=True):
            get_hub(backend).note(command.name, reply.version, reply.data, reply.left)
        return []
    if len(batch) > 1:
        return [error for each in batch for error in _write(backend, [each])]
    ((pending, command),) = batch
    status = replies[0].status
    why = "would not fit in 64 bits" if status is Status.OVERFLOW else "what is stored there is no integer"
    return [DRefError(f"{pending.name!r}: {command.amount} could not be added and is lost: {why}.")]


def _names(batch: Sequence[tuple[Pending, Add]]) -> str:
    return ", ".join(sorted(repr(pending.name) for pending, _ in batch))


_pending: weakref.WeakValueDictionary[tuple[object, ...], Pending] = weakref.WeakValueDictionary()
_mutex = threading.Lock()
_flusher = Flusher()


def pending_of(name: str, backend: Backend, stripes: Sequence[str], default: int, interval: float) -> Pending:
    """One for all counters of this process that are declared alike: some live for a single increment."""
    key = (backend, *stripes, default, interval)
    with _mutex:
        found = _pending.get(key)
        if found is None:
            found = _pending[key] = Pending(name, backend, stripes, default, interval)
        return found


def flush(pending: Pending) -> list[DRefError]:
    """Writes what is pending, in the caller's thread; returns what went wrong."""
    return _flusher.flush([pending])


def _flush_all(backend: Backend | None = None) -> None:
    waiting = [each for each in _flusher.expected() if backend is None or each.backend is backend]
    if waiting:
        for error in _flusher.flush(waiting):
            logger.warning("dref: %s", error)


def _after_fork() -> None:
    global _mutex
    _mutex = threading.Lock()
    _flusher.forget()
    for pending in list(_pending.values()):
        pending.forget()


atexit.register(_flush_all)
backends.on_discard(_flush_all)
os.register_at_fork(after_in_child=_after_fork)
