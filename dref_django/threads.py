"""Threads that do what others leave for them, started when there is something."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

logger = logging.getLogger("dref_django")

T = TypeVar("T")


def started(target: Callable[..., None], name: str, *args: Any) -> threading.Thread | None:
    """A daemon thread that runs `target`, or None when the system gives none now.

    Who leaves work must not fail then, for what it did is done: the work waits, and the next one who leaves some asks
    again. The log tells of it, but for an interpreter that exits (Python 3.12.0 and 3.12.1 start no thread at exit).
    """
    thread = threading.Thread(target=target, name=name, args=args, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if threading.main_thread().is_alive():
            logger.warning("dref: the thread %s could not be started: %s", name, error)
        return None
    return thread


class Worker(Generic[T]):
    """A queue of jobs and the thread that does them, one after the other. What a job raises is logged."""

    def __init__(self, name: str, do: Callable[[T], object], trouble: str) -> None:
        self._name = name
        self._do = do
        self._trouble = trouble
        self.forget()

    def forget(self) -> None:
        """In a forked child: the jobs are the parent's."""
        self._mutex = threading.Lock()
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, job: T) -> None:
        self._queue.put(job)
        self.start()

    def start(self) -> None:
        """For who has a job in the queue already. Costs nothing when the thread runs."""
        if self._thread is None:
            with self._mutex:
                if self._thread is None:
                    self._thread = started(self._run, self._name)

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            try:
                self._do(job)
            except BaseException:  # SystemExit, too: it must not end the thread
                logger.exception("dref: %s", self._trouble)
            del job
