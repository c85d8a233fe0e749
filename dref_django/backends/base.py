"""The contract of a back end: execute batches of commands, feed notices. One sentence an operation.

A back end is found by `backends.get_backend(alias)`. It connects at its first use, never when it is made, and starts
anew in a forked child. `delivery.py` holds the rule for lost replies; a back end only says *whether* a command may
have reached the server, by raising `NotSent` or `ReplyLost`.
"""

from __future__ import annotations

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dref_django.clock import SYSTEM, Clock
from dref_django.driving import arun, run
from dref_django.exceptions import DRefError, Unavailable
from dref_django.protocol import Command, Notice, Reply, Wake, check_batch

from .delivery import Attempt, NotSent, ReplyLost, redeliver

if TYPE_CHECKING:
    from django.core.checks import CheckMessage

    from .observing import Observer

DEFAULT_ALIAS = "default"
DEFAULT_TIMEOUT = 5.0
DEFAULT_MAX_VALUE_SIZE = 1024 * 1024
DEFAULT_HEARTBEAT = 15.0
DEFAULT_LOCK_TIMEOUT = 30.0


class NotJoinable(DRefError):
    """This back end cannot take part in a database transaction."""


@dataclass(frozen=True)
class Params:
    """The settings of one back end, checked and with their defaults (`conf.py` makes them)."""

    alias: str = DEFAULT_ALIAS
    key_prefix: str = "dref"
    """Separates projects that share a server; no effect on the names that users see."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds within which every operation ends."""
    max_value_size: int = DEFAULT_MAX_VALUE_SIZE
    """Bytes of an encoded value."""
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT
    """Seconds that a lock is waited for unless its `timeout` says otherwise."""
    heartbeat: float = DEFAULT_HEARTBEAT
    """Seconds between two canaries of the listener and two comparisons of versions."""
    codec: str = "msgpack"
    options: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Where a feed delivers; the hub. Called on the thread of the background loop, in the order of the connection."""

    def up(self, epoch: str) -> None:
        """The feed listens (again) to all that is subscribed. What came before may have been missed."""

    def down(self, reason: str) -> None:
        """The connection is gone; the feed goes on trying."""

    def notice(self, notices: Sequence[Notice]) -> None: ...

    def wake(self, wake: Wake) -> None: ...


def hand_over(sink: Sink, events: Sequence[Notice | Wake]) -> None:
    """What one step made, as a sink takes it."""
    notices = [event for event in events if isinstance(event, Notice)]
    if notices:
        sink.notice(notices)
    for event in events:
        if isinstance(event, Wake):
            sink.wake(event)


class Feed(Protocol):
    """One listening connection. All methods run on the background loop.

    It also listens for wakes of all waiters whose owner begins with this process's `Backend.node_id()`.
    """

    async def run(self) -> None:
        """Listens, reports to the sink, reconnects with growing pauses; until cancelled."""

    async def subscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        """Adds names and prefixes ("" is every name). Returns when the server has confirmed it: what is written
        after that is noticed. While disconnected it returns at once: the next `up` covers them."""

    async def unsubscribe(self, names: Collection[str], prefixes: Collection[str]) -> None: ...


class Backend(ABC):
    """A place where the truth lives."""

    ordered_notices: ClassVar[bool] = True
    """Whether notices of one name arrive in the order of their versions (else the hub waits a little at a hole)."""
    supports_join: ClassVar[bool] = False
    """Whether `join_transaction()` works."""
    fifo_waiters: bool = True
    """Whether waiters of a lease are served in the order in which they came; else all are served."""
    observer: ClassVar[Observer | None] = None
    """Hears of every batch and its outcome; None, and no cost, unless metrics or tracing are on (`observing.py`)."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.clock: Clock = SYSTEM
        """What replaces the server's clock; in tests only, and set before the first use."""
        self.on_loss: Callable[[Sequence[tuple[str, str]], str], None] | None = None
        """Hears at once of leases (name, owner) of this process that certainly ended, and why; from any thread."""
        self._node: tuple[int, str] = (0, "")

    # --- what a back end implements -----------------------------------------------------------------------------

    @abstractmethod
    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        """Runs one batch once, in the caller's thread, within `timeout` seconds.

        Raises `NotSent` when it certainly was not applied for want of a connection, `ReplyLost` when it may have been.
        """

    @abstractmethod
    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        """The same on the running loop."""

    @abstractmethod
    def feed(self, sink: Sink) -> Feed:
        """A new feed; nothing is connected before its `run`."""

    @abstractmethod
    def close(self) -> None:
        """Closes all connections; the next use opens new ones. Safe to call from any thread, and twice."""

    @abstractmethod
    def after_fork(self) -> None:
        """In the child: forgets (never closes) what belongs to the parent."""

    def warm_up(self) -> None:  # noqa: B027
        """Starts what a later `send` would start, without waiting for it: it may come when the interpreter exits."""

    def joined(self) -> AbstractContextManager[None]:
        """Within it, this thread's commands are part of the surrounding database transaction (`supports_join`)."""
        raise NotJoinable(
            f"DREF_BACKENDS[{self.params.alias!r}] keeps its values outside the database; join_transaction() needs the "
            "postgres back end. Use ref.on_commit() to change a ref when the transaction commits."
        )

    def is_joined(self) -> bool:
        """Whether the caller is within `joined()`: then this process's copies are neither shown nor moved."""
        return False

    def slot(self, name: str) -> object:
        """Names with equal slots may be changed in one batch."""
        return None

    def check(self) -> list[CheckMessage]:
        """What `manage.py check --deploy`, and `dref doctor`, should say about this back end. May connect."""
        return []

    def outliving(self) -> Mapping[str, Any]:
        """OPTIONS with which a lease stays taken until its deadline though the process that holds it has died.

        For work that outlives the process by a moment (`manage.py dref run`). Empty where leases do so anyway.
        """
        return {}

    def facts(self) -> dict[str, Any]:
        """What operators want to know of the server: short texts and numbers by name. Connects; raises as `execute`."""
        return {}

    def gauges(self) -> Mapping[str, float]:
        """What is worth a curve, by the name of the metric behind "dref_". No I/O: asked for at every scrape."""
        return {}

    # --- what everybody calls -----------------------------------------------------------------------------------

    def execute(
        self, commands: Sequence[Command], *, now: int | None = None, timeout: float | None = None
    ) -> list[Reply]:
        """Applies the batch at most once and answers with a reply a command, within the back end's time limit.

        `now` (microseconds) replaces the server's clock; absent in production. Raises `Unavailable` when nothing was
        applied because the server could not be reached in time, `OutcomeUnknown` when that cannot be proven.
        """
        check_batch(commands)
        if now is None:
            now = self.clock.now()
        limit = self.params.timeout if timeout is None else timeout
        started = time.monotonic()
        observer = self.observer
        mark = None if observer is None else observer.began(self, commands)
        try:
            try:
                replies = self.send(commands, now, limit)
            except (NotSent, ReplyLost) as error:
                delivery = redeliver(self, commands, error, started + limit)
                replies = run(delivery, partial(self._attempt, now))
        except BaseException as error:
            if observer is not None:
                observer.ended(mark, None, error)
            raise
        if observer is not None:
            observer.ended(mark, replies, None)
        return replies

    async def aexecute(
        self, commands: Sequence[Command], *, now: int | None = None, timeout: float | None = None
    ) -> list[Reply]:
        """`execute`, natively asynchronous."""
        check_batch(commands)
        if now is None:
            now = self.clock.now()
        limit = self.params.timeout if timeout is None else timeout
        started = time.monotonic()
        observer = self.observer
        mark = None if observer is None else observer.began(self, commands)
        try:
            try:
                replies = await self.asend(commands, now, limit)
            except (NotSent, ReplyLost) as error:
                delivery = redeliver(self, commands, error, started + limit)
                replies = await arun(delivery, partial(self._aattempt, now))
        except BaseException as error:
            if observer is not None:
                observer.ended(mark, None, error)
            raise
        if observer is not None:
            observer.ended(mark, replies, None)
        return replies

    def _attempt(self, now: int | None, attempt: Attempt) -> list[Reply]:
        time.sleep(attempt.pause)
        return self.send(attempt.commands, now, attempt.timeout)

    async def _aattempt(self, now: int | None, attempt: Attempt) -> list[Reply]:
        import asyncio

        await asyncio.sleep(attempt.pause)
        return await self.asend(attempt.commands, now, attempt.timeout)

    def node_id(self) -> str:
        """Names this process among all that ever use the back end; another one after a fork. No "/" in it."""
        pid = os.getpid()
        if self._node[0] != pid:
            self._node = (pid, f"{pid}-{secrets.token_hex(6)}")
        return self._node[1]

    def unreachable(self, where: str, error: BaseException) -> Unavailable:
        return Unavailable(
            f"DREF_BACKENDS[{self.params.alias!r}]: {where} cannot be reached ({type(error).__name__}: {error}). "
            "Nothing was changed. Check that the server runs and that the setting points at it."
        )
