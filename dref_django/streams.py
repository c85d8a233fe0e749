"""Change streams, callbacks and the signal: what user code holds of the hub.

A stream starts with a snapshot and goes on with what follows, no hole between. By default it conflates: a slow reader
finds the newest value, never a queue. With `every=True` each change is delivered, up to `buffer` of them; an overrun
is a gap. Registering a callback only registers; listening starts with the process's first ref operation or request,
or with `dref_django.start()`.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, Generic, Self, TypeVar, cast

from django.db import close_old_connections

from . import backends
from .backends.base import Backend
from .exceptions import Unavailable
from .flows import refuse_running_loop
from .hub import Hub, Raw
from .protocol import Data
from .threads import Worker
from .waiting import Waker

logger = logging.getLogger("dref_django")

T = TypeVar("T")
Decode = Callable[[str, "Data | None"], T]
"""From a name and stored data to the value that `get` would return."""

DEFAULT_BUFFER: Final = 1000
TURN: Final = 100
"""Changes that one callback is called with before the next callback has its turn."""

_UNDECODED: Final = object()


class Change(Generic[T]):
    """One change of one ref, as watchers see it.

    - `name`: the ref's name; `version`: of the value, rising (see `gap`);
    - `value`: what `get()` would return: after a deletion the default (None without one). Decoded at first use; may
      raise `InvalidValue` when the stored bytes do not fit the ref's type;
    - `deleted`: there is no value now (deleted, expired, or never set);
    - `gap`: changes before this one were missed (a lost connection, an overrun, a fail-over that lost writes). The
      value is the true current one. After a fail-over the version may be lower than the one before.
    """

    __slots__ = ("_data", "_decode", "_value", "deleted", "gap", "name", "version")

    def __init__(self, raw: Raw, decode: Decode[T], gap: bool) -> None:
        self.name = raw.name
        self.version = raw.version
        self.deleted = raw.data is None
        self.gap = gap
        self._data = raw.data
        self._decode = decode
        self._value: object = _UNDECODED

    @property
    def value(self) -> T:
        if self._value is _UNDECODED:
            self._value = self._decode(self.name, self._data)
        return cast("T", self._value)

    def __repr__(self) -> str:
        notes = "".join(f", {note}" for note in ("deleted", "gap") if getattr(self, note))
        return f"<Change of {self.name!r}, version {self.version}{notes}>"


class Buffer:
    """Where a reader's changes wait, bounded: one a name (the newest), or with `every` the last `limit`."""

    def __init__(self, every: bool, limit: int, ring: Callable[[], None]) -> None:
        self.every = every
        self.ended = False
        self._limit = limit
        self._ring = ring
        self._mutex = threading.Lock()
        self._queue: deque[Raw] = deque()
        self._newest: OrderedDict[str, Raw] = OrderedDict()  # a dict takes ever longer to give up its first

    def push(self, raw: Raw) -> None:
        with self._mutex:
            if not self.every:
                before = self._newest.get(raw.name)
                if before is not None:
                    raw = raw._replace(gap=raw.gap or before.gap, base=before.base)
                self._newest[raw.name] = raw
            else:
                self._queue.append(raw)
                if len(self._queue) > self._limit:
                    self._queue.popleft()
                    self._queue[0] = self._queue[0]._replace(gap=True)
        self._ring()

    def end(self) -> None:
        self.ended = True
        self._ring()

    def pop(self) -> Raw | None:
        with self._mutex:
            if self.every:
                return self._queue.popleft() if self._queue else None
            return self._newest.popitem(last=False)[1] if self._newest else None


class Stream(Generic[T]):
    """The changes of one ref or of a prefix: `for`, `async for`, `with` and `async with`.

    The first change is the snapshot. Iteration ends after `timeout` seconds without a change (None: never), when the
    stream is closed, or when its back end is discarded. Leaving the `with` block, `close()` or dropping the last
    reference ends the subscription.
    """

    _hub: Hub | None = None
    _pid = 0

    def __init__(
        self,
        alias: str,
        decode: Decode[T],
        *,
        name: str | None,
        prefix: str = "",
        every: bool = False,
        buffer: int = DEFAULT_BUFFER,
        timeout: float | None = None,
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be 1 or more, it is {buffer}")
        self._alias = alias
        self._decode = decode
        self._name = name
        self._prefix = prefix
        self._timeout = timeout
        self._waker = Waker()
        self._buffer = Buffer(every, buffer, self._waker.set)
        self._closed = False

    def _open(self) -> tuple[Hub, concurrent.futures.Future[None]]:
        backend = backends.get_backend(self._alias)
        self._hub, self._pid = get_hub(backend), os.getpid()
        return self._hub, self._listen(self._hub)

    def _listen(self, hub: Hub) -> concurrent.futures.Future[None]:
        return hub.add(self._buffer, name=self._name, prefix=self._prefix)

    def _unreachable(self, hub: Hub) -> Unavailable:
        self.close()
        what = repr(self._name if self._name is not None else self._prefix + "*")
        limit = hub.backend.params.timeout
        return Unavailable(f"{what} cannot be watched: its value could not be read within TIMEOUT ({limit:g} s).")

    def close(self) -> None:
        """Ends the subscription and the iteration. Safe to call twice, from any thread."""
        self._closed = True
        if self._hub is not None and not self._is_inherited():
            self._hub.remove(self._buffer)
            self._waker.set()

    def __del__(self) -> None:
        if self._hub is not None and not self._is_over():
            self._hub.remove(self._buffer)

    def __enter__(self) -> Self:
        if self._hub is None:
            refuse_running_loop()
            hub, snapshot = self._open()
            try:
                snapshot.result(hub.backend.params.timeout)
            except concurrent.futures.TimeoutError:
                raise self._unreachable(hub) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self.__enter__()

    def __next__(self) -> Change[T]:
        if self._hub is None:
            self.__enter__()
        refuse_running_loop()
        while (change := self._pop()) is None:
            if self._is_over() or not self._waker.wait(self._timeout):
                raise StopIteration
        return change

    async def __aenter__(self) -> Self:
        if self._hub is None:
            import asyncio

            hub, snapshot = self._open()
            try:
                async with asyncio.timeout(hub.backend.params.timeout):
                    await asyncio.wrap_future(snapshot)
            except TimeoutError:
                raise self._unreachable(hub) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[T]:
        await self.__aenter__()
        while (change := self._pop()) is None:
            if self._is_over() or not await self._waker.await_(self._timeout):
                raise StopAsyncIteration
        return change

    def _pop(self) -> Change[T] | None:
        if self._closed or self._is_inherited():
            return None
        self._waker.clear()
        raw = self._buffer.pop()
        return None if raw is None else Change(raw, self._decode, raw.gap)

    def _is_over(self) -> bool:
        return self._closed or self._buffer.ended or self._is_inherited()

    def _is_inherited(self) -> bool:
        """Opened by the process that this one was forked from: nothing of it is touched here."""
        return self._pid not in (0, os.getpid())


class Subscription(Generic[T]):
    """A registered callback. `close()` ends it; as a decorator's result it can still be called."""

    def __init__(
        self,
        alias: str,
        decode: Decode[T],
        callback: Callable[[Change[T]], Any],
        *,
        name: str | None,
        prefix: str = "",
        every: bool = False,
        buffer: int = DEFAULT_BUFFER,
    ) -> None:
        if not callable(callback):
            raise TypeError(f"on_change takes a callable, not {callback!r}")
        self.callback = callback
        self._alias = alias
        self._decode = decode
        self._name = name
        self._prefix = prefix
        self._every = every
        self._limit = buffer
        self._buffer: Buffer | None = None
        self._hub: Hub | None = None
        self._scheduled = False
        self._closed = False
        _register(self)

    def __call__(self, change: Change[T]) -> Any:
        return self.callback(change)

    def close(self) -> None:
        """Ends the subscription; a call of the callback that is under way still finishes."""
        with _mutex:
            self._closed = True
            _registered.discard(self)
            hub, buffer, self._buffer = self._hub, self._buffer, None
        if hub is not None and buffer is not None:
            hub.remove(buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self) -> None:
        """Listens through the back end of now, unless it does already."""
        backend = backends.get_backend(self._alias)
        with _mutex:
            hub = get_hub(backend)
            if hub is self._hub or self._closed:
                return
            self._hub = hub
            self._buffer = self._listen(hub)

    def _listen(self, hub: Hub) -> Buffer:
        buffer = Buffer(self._every, self._limit, self._schedule)
        hub.add(buffer, name=self._name, prefix=self._prefix)
        return buffer

    def unbind(self, hub: Hub) -> None:
        """The hub is gone, and with it what it told and nobody heard yet."""
        with _mutex:
            if hub is self._hub:
                self._hub = self._buffer = None

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            _dispatcher.put(self.drain)
        else:
            _dispatcher.start()

    def drain(self) -> None:
        """On the dispatcher's thread: calls back with what has gathered, then lets others have a turn."""
        self._scheduled = False
        for _ in range(TURN):
            buffer = self._buffer
            if buffer is None or (raw := buffer.pop()) is None:
                return
            if raw.first:
                continue  # the snapshot is not a change
            try:
                self.callback(Change(raw, self._decode, raw.gap))
            except BaseException:  # SystemExit, too: it must not end the thread of all callbacks
                logger.exception("dref: a callback on changes of %r raised", raw.name)
        self._schedule()


def _do(job: Callable[[], Any]) -> None:
    close_old_connections()
    try:
        job()
    finally:
        close_old_connections()


# --- the hubs of this process, and what is registered -------------------------------------------------------------

_mutex = threading.RLock()
_hubs: weakref.WeakKeyDictionary[Backend, Hub] = weakref.WeakKeyDictionary()
_registered: set[Subscription[Any]] = set()
_unbound = False
_active = False  # a ref was used or a request served in this process
_dispatcher: Worker[Callable[[], Any]] = Worker("dref-callbacks", _do, "a callback raised")
"""The thread on which callbacks run, one after the other; each subscription stands in its queue at most once."""


def get_hub(backend: Backend) -> Hub:
    """The hub of a back end in this process, made at first use; it listens from its first subscription on."""
    hub = _hubs.get(backend)
    if hub is None:
        with _mutex:
            hub = _hubs.get(backend)
            if hub is None:
                hub = _hubs[backend] = Hub(backend)
    return hub


def start(alias: str | None = None) -> None:
    """Starts listening for everything that is registered (`on_change`, signal receivers), on every back end.

    Returns at once. Called by itself with the first ref operation or request of the process.
    """
    global _unbound, _active
    with _mutex:
        _unbound, _active = False, True
        waiting = [sub for sub in _registered if alias is None or sub._alias == alias]
    errors: list[Exception] = []
    for subscription in waiting:
        try:
            subscription.bind()
        except Exception as error:  # one wrong alias must not keep the others from listening
            errors.append(error)
    if errors:
        raise errors[0]


def start_registered(**_: object) -> None:
    """`start`, cheap when there is nothing to start, and never the reason that a request fails."""
    global _active
    _active = True
    if _unbound:
        try:
            start()
        except Exception:
            logger.exception("dref: registered callbacks cannot be started")


def call_back(job: Callable[[], Any]) -> None:
    """Runs a user's callback on the process's callback thread; what it raises is logged."""
    _dispatcher.put(job)


def _register(subscription: Subscription[Any]) -> None:
    global _unbound
    with _mutex:
        _registered.add(subscription)
        _unbound = True
    if _active:
        subscription.bind()


def _discard(backend: Backend) -> None:
    global _unbound
    with _mutex:
        hub = _hubs.pop(backend, None)
        _unbound = bool(_registered)
        subscriptions = list(_registered)
    if hub is not None:
        hub.close()
        for subscription in subscriptions:
            subscription.unbind(hub)


def _after_fork() -> None:
    """In the child: the parent's hubs are forgotten, callbacks are registered again at first use."""
    global _mutex, _hubs, _unbound, _active
    _mutex = threading.RLock()
    _hubs = weakref.WeakKeyDictionary()
    _unbound, _active = bool(_registered), False
    _dispatcher.forget()


backends.on_discard(_discard)
os.register_at_fork(after_in_child=_after_fork)
