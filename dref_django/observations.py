"""Iterating over what is the case now, and over each change to come.

An observation looks, tells when what it found is new, and waits: until the hub hears that an entry changed, or for as
long as the look says that nothing can change by itself. The entries only tell when to look; the look tells the truth.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, Self, TypeVar

from .backends.base import Backend
from .exceptions import Unavailable
from .flows import Await, Flow, Pause, adrive, drive, refuse_running_loop
from .hub import Hub
from .keeper import clock
from .streams import Buffer, get_hub
from .waiting import Waker

logger = logging.getLogger("dref_django")

T = TypeVar("T")


class Look(NamedTuple, Generic[T]):
    """What a look found."""

    news: tuple[T] | None
    """What is to be told; None when it is as it was told last."""
    again: float | None = None
    """Without news: seconds until another look is worth it; None: not before an entry changes."""


class Observation(ABC, Generic[T]):
    """For `for` and `async for`, also as a context manager. `close()` ends it, from any thread.

    `name` or `prefix`: the entries whose changes are a reason to look. Iteration ends after `timeout` seconds without
    news (None: never). While the back end is away nothing is told, unless nothing was told yet: then `Unavailable`.
    """

    retry: float
    """Seconds until another look when the back end could not be reached."""
    _hub: Hub | None = None
    _closed = False

    def __init__(
        self, backend: Backend, what: object, timeout: float | None, *, name: str | None = None, prefix: str = ""
    ) -> None:
        self._backend = backend
        self._what = what
        self._timeout = timeout
        self._name = name
        self._prefix = prefix
        self._waker = Waker()
        self._buffer = Buffer(False, 1, self._waker.set)
        self._has_told = False

    def close(self) -> None:
        self._closed = True
        if self._hub is not None:
            self._hub.remove(self._buffer)
        self._waker.set()

    def __del__(self) -> None:
        if self._hub is not None and not self._closed:
            self._hub.remove(self._buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        refuse_running_loop()
        return self

    def __next__(self) -> T:
        news = drive(self._backend, self._next())
        if news is None:
            raise StopIteration
        return news[0]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        news = await adrive(self._backend, self._next())
        if news is None:
            raise StopAsyncIteration
        return news[0]

    @abstractmethod
    def _look(self) -> Flow[Look[T]]:
        """Takes what the buffer holds, and finds out how things stand."""

    def _next(self) -> Flow[tuple[T] | None]:
        """The next news; None when it is over."""
        deadline = None if self._timeout is None else clock() + self._timeout
        if self._hub is None:
            self._hub = get_hub(self._backend)
            opened = self._hub.add(self._buffer, name=self._name, prefix=self._prefix)
            yield Await(opened, f"the first look at {self._what!r}")
        while not self._closed and not self._buffer.ended:
            self._waker.clear()
            try:
                news, pause = yield from self._look()
            except Unavailable as error:
                if not self._has_told:
                    raise
                logger.info("dref: %r cannot be observed now: %s", self._what, error)
                pause = self.retry
            else:
                if news is not None:
                    self._has_told = True
                    return news
            if deadline is not None:
                if clock() >= deadline:
                    return None
                left = max(deadline - clock(), 0)
                pause = left if pause is None else min(pause, left)
            yield Pause(pause, self._waker)
        return None
