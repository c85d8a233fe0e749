"""Distributed refs: named values that every process reads and changes atomically.

A ref is safe to make at import time; it binds to its back end at first use, and again when the settings change or the
process forks. Every blocking method has an a-twin; both drive the same flow (see `flows.py`), so they share every line
but the call itself.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Generic, TypeVar, cast

from . import backends, conf, naming, workspace
from .binding import UNSET, BaseRef, known_ref
from .deltas import make_splice
from .exceptions import Conflict, DRefError, InvalidValue
from .flows import Call, Flow
from .held import Held
from .history import Record
from .history import read as read_history
from .hub import FeedStatus
from .leasing import Grant, give, hold, take
from .on_commit import OnCommit
from .op_ids import new_op_id
from .protocol import (
    ABSENT,
    KEEP,
    Data,
    Delete,
    Expire,
    Read,
    Reply,
    Status,
    Ttl,
    Write,
)
from .streams import DEFAULT_BUFFER, Change, Stream, Subscription

T = TypeVar("T")
R = TypeVar("R")

QUEUE_AFTER: Final = 3
"""Conflicts after which `update` queues behind the ref's lock, so that any number of writers all finish."""
QUEUE_TTL: Final = 5.0
"""Seconds of that lock's lease: it orders writers, the expected version is what keeps them correct."""
EDIT_TTL: Final = 15.0


class Draft(Generic[T]):
    """What `edit()` hands to its body: assign to `value`, or change it in place."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class DRef(BaseRef[T]):
    """A named value of any type, shared by every process of every host.

    - `name`: 1 to 200 characters; left out on a class attribute it is derived: `shop.site.visitors`.
    - `default`: what an absent ref reads as (or a callable that makes it); it is not written. Without one, reading an
      absent ref raises `NotFound`. The default's class is the ref's type unless `type` says otherwise.
    - `type`: a dataclass, `list[int]`, `Settings | None` ...: values are decoded into it, others are refused with
      `InvalidValue`. None: anything that the codec can store.
    - `using`: the alias in `DREF_BACKENDS`. `codec`: instead of the back end's.
    - `group`: refs of one group lie in one slot of a Redis Cluster, so that they can be changed in one atomic step;
      the group is part of the ref's identity.
    - `history`: how many changes to remember, see `history()`. Then each change takes one more round trip.

    Reads are linearizable (see the guarantee table in the README for what each back end means by that). Every method
    raises `Unavailable` when the back end cannot be reached within its TIMEOUT (nothing was changed), and the changing
    ones `OutcomeUnknown` when it cannot be proven whether the change was applied.
    """

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, *, max_staleness: float | None = None) -> T:
        """The current value; the default when there is none.

        With `max_staleness` (seconds), this process's own copy if a read confirmed it no longer ago than that: at most
        one round trip per name, process and `max_staleness`, and still pushed changes at once.
        """
        return self._run(self._get(max_staleness))

    async def aget(self, *, max_staleness: float | None = None) -> T:
        return await self._arun(self._get(max_staleness))

    @property
    def value(self) -> T:
        """`get()` as a property."""
        return self.get()

    def peek(self) -> T:
        """The value as this process last heard of it, without a round trip; the first call watches the name.

        Never older than what this process itself read or wrote, otherwise behind by the delivery of a change
        (`status` says STALE while the connection is down). Mutable values are decoded anew: each caller has its own.
        """
        bound = self._bound
        if bound is not None and bound.generation == backends.generation:
            cell = bound.cell
            if cell is not None:
                near = cell.near
                seen, value = bound.decoded
                if near is not None and near is seen and near.expires is None and not bound.is_apart():
                    return cast("T", value)
        return self._run(self._peek())

    async def apeek(self) -> T:
        return await self._arun(self._peek())

    def version(self) -> int:
        """The version of the current value: rising with each change, across deletion too. 0: never set."""
        return self._run(self._version())

    async def aversion(self) -> int:
        return await self._arun(self._version())

    @property
    def status(self) -> FeedStatus:
        """READY when this process's copies are up to date as far as it knows, STALE while its listener is away."""
        return self._bind().hub.status

    # --- writing ------------------------------------------------------------------------------------------------

    def set(self, value: T, *, ttl: float | None = None) -> None:
        """Sets the value whatever it was. `ttl`: seconds until it is deleted by itself; None: never."""
        self._run(self._set(value, ttl))

    async def aset(self, value: T, *, ttl: float | None = None) -> None:
        await self._arun(self._set(value, ttl))

    def set_if_absent(self, value: T, *, ttl: float | None = None) -> bool:
        """Sets the value only when there is none; returns whether it did."""
        return self._run(self._set_if_absent(value, ttl))

    async def aset_if_absent(self, value: T, *, ttl: float | None = None) -> bool:
        return await self._arun(self._set_if_absent(value, ttl))

    def compare_and_set(self, old: T, new: T) -> bool:
        """Sets `new` only when the value equals `old` (an absent one equals the default); returns whether it did."""
        return self._run(self._compare_and_set(old, new))

    async def acompare_and_set(self, old: T, new: T) -> bool:
        return await self._arun(self._compare_and_set(old, new))

    def get_and_set(self, value: T) -> T:
        """Sets the value and returns the one before, in one atomic step. Keeps the time to live."""
        return self._run(self._modify(lambda old: (old, value)))

    async def aget_and_set(self, value: T) -> T:
        return await self._arun(self._modify(lambda old: (old, value)))

    def update(self, function: Callable[[T], T]) -> T:
        """Replaces the value by `function(value)` and returns it. No update is ever lost.

        Optimistic: `function` may run again when another writer was first, so it should only compute. Keeps the time
        to live. What `function` raises is raised here and nothing is changed.
        """
        return self._run(self._modify(lambda old: (new := function(old), new)))

    async def aupdate(self, function: Callable[[T], T] | Callable[[T], Coroutine[Any, Any, T]]) -> T:
        """`update`; `function` may be a coroutine function."""
        return await self._arun(self._modify(_twice(function)))

    update_and_get = update
    aupdate_and_get = aupdate

    def get_and_update(self, function: Callable[[T], T]) -> T:
        """`update`, returning the value before."""
        return self._run(self._modify(lambda old: (old, function(self._copy(old)))))

    async def aget_and_update(self, function: Callable[[T], T]) -> T:
        return await self._arun(self._modify(lambda old: (old, function(self._copy(old)))))

    def modify(self, function: Callable[[T], tuple[R, T]]) -> R:
        """`update` with a function that returns (result, new value); returns the result."""
        return self._run(self._modify(function))

    async def amodify(self, function: Callable[[T], tuple[R, T]]) -> R:
        return await self._arun(self._modify(function))

    def delete(self) -> bool:
        """Removes the value; returns whether there was one."""
        return self._run(self._delete())

    async def adelete(self) -> bool:
        return await self._arun(self._delete())

    def expire(self, ttl: float | None) -> bool:
        """Sets the seconds to live of the existing value (None: for ever); returns whether there was one."""
        return self._run(self._expire(ttl))

    async def aexpire(self, ttl: float | None) -> bool:
        return await self._arun(self._expire(ttl))

    @contextmanager
    def edit(self, *, timeout: float | None = None) -> Iterator[Draft[T]]:
        """`with ref.edit() as draft: draft.value = ...`: the body runs once, under the ref's own lock.

        Other `edit` blocks and queued updates wait (`timeout` seconds, default LOCK_TIMEOUT, then `LockTimeout`). The
        end of the body writes the value unless it was left equal; a plain `set` by somebody else meanwhile raises
        `Conflict` and keeps theirs. When the body raises, nothing is written. Keeps the time to live.
        """
        held, draft, read = self._run(self._open_edit(timeout))
        try:
            yield draft
            self._run(self._close_edit(draft, read))
        finally:
            self._run(held.give_back())

    @asynccontextmanager
    async def aedit(self, *, timeout: float | None = None) -> AsyncIterator[Draft[T]]:
        held, draft, read = await self._arun(self._open_edit(timeout))
        try:
            yield draft
            await self._arun(self._close_edit(draft, read))
        finally:
            await self._arun(held.give_back())

    # --- database transactions ----------------------------------------------------------------------------------

    def on_commit(self, using: str | None = None, *, robust: bool = False) -> OnCommit[T]:
        """`ref.on_commit().set(v)`: applied when the surrounding `transaction.atomic()` commits, dropped on rollback.

        `using` is the alias of the *database* (None: "default"). As Django's `on_commit`: outside a transaction it is
        applied at once; what the change raises is raised by the commit, or logged with `robust`. A process that dies
        between the commit and the change has not made it (on postgres `join_transaction()` closes that gap).
        """
        return OnCommit(self, using, robust)

    # --- watching -----------------------------------------------------------------------------------------------

    def changes(self, *, every: bool = False, buffer: int = DEFAULT_BUFFER, timeout: float | None = None) -> Stream[T]:
        """The value now and each change to come; see `Stream`.

        By default a slow reader finds only the newest value. `every=True` delivers each change, up to `buffer` waiting
        ones; what is dropped then shows as `change.gap`.
        """
        return Stream(self._using, self._decode, name=self.name, every=every, buffer=buffer, timeout=timeout)

    def on_change(
        self, callback: Callable[[Change[T]], Any], *, every: bool = False, buffer: int = DEFAULT_BUFFER
    ) -> Subscription[T]:
        """Calls `callback(change)` after each change, on the process's callback thread; also a decorator.

        Returns a subscription with `close()`. A callback that raises is logged. A slow one sees the newest value only
        (unless `every`); all callbacks of the process share the thread.
        """
        return Subscription(self._using, self._decode, callback, name=self.name, every=every, buffer=buffer)

    # --- what was -----------------------------------------------------------------------------------------------

    def history(self) -> list[Record]:
        """The changes that are remembered, the newest first: when, who, from what to what. See `history.py`.

        Those of processes that declare the ref with `history=`, and of the admin and `manage.py dref`; written in the
        same atomic step as the change. At most 64 KB are kept, and of values beyond 4 KB only that they were large.
        """
        return self._run(read_history(self.name, self._bind().schema.decode))

    async def ahistory(self) -> list[Record]:
        return await self._arun(read_history(self.name, self._bind().schema.decode))

    # --- flows --------------------------------------------------------------------------------------------------

    def _get(self, max_staleness: float | None) -> Flow[T]:
        if max_staleness is not None:
            near = yield from self._near()
            if near.is_fresh(max_staleness, self._bind().backend.clock.monotonic()):
                return self._decode_near(near)
        reply: Reply = yield Read(self.name)
        self._note(reply.version, reply.data, reply.left)
        return self._decode_or_fail(reply.data)

    def _peek(self) -> Flow[T]:
        return self._decode_near((yield from self._near()))

    def _version(self) -> Flow[int]:
        reply: Reply = yield Read(self.name)
        return reply.version

    # Arguments are checked and encoded when a flow is made, not when it is driven: `on_commit()` drives it later.

    def _set(self, value: T, ttl: float | None) -> Flow[bool]:
        return self._put(self._encode(value), None, _microseconds(self, ttl))

    def _set_if_absent(self, value: T, ttl: float | None) -> Flow[bool]:
        return self._put(self._encode(value), ABSENT, _microseconds(self, ttl))

    def _put(self, data: Data, expect: int | None, ttl: Ttl) -> Flow[bool]:
        reply = yield from self._write(data, expect=expect, ttl=ttl)
        return reply.status is Status.APPLIED

    def _write(self, data: Data, *, expect: int | None, ttl: Ttl, old: Reply | None = None) -> Flow[Reply]:
        """Sends a splice instead of the value where that is smaller; the caller looks at the status."""
        splice = None
        if expect and old is not None and isinstance(old.data, bytes) and isinstance(data, bytes):
            splice = make_splice(old.data, data)
        reply: Reply = yield Write(self.name, data if splice is None else splice, expect, ttl, new_op_id())
        if reply.status is Status.APPLIED:
            self._note(reply.version, data, reply.left)
        elif old is not None and _expected(reply) == expect:
            raise DRefError(
                f"{self.name!r}: version {reply.version} is refused and yet said to be the current one, so the stored "
                "entry is damaged. Nothing was written; set() or delete() it."
            )
        return reply

    def _compare_and_set(self, old: T, new: T) -> Flow[bool]:
        return self._replace(old, self._encode(new))

    def _replace(self, old: T, data: Data) -> Flow[bool]:
        reply: Reply = yield Read(self.name)
        while True:
            if self._decode_or_fail(reply.data) != old:
                return False
            wrote = yield from self._write(data, expect=_expected(reply), ttl=KEEP, old=reply)
            if wrote.status is Status.APPLIED:
                return True
            reply = wrote

    def _modify(self, function: Callable[[T], tuple[R, T]]) -> Flow[R]:
        """Compare-and-set until it succeeds; after a few conflicts in the queue of the ref's lock."""
        reply: Reply = yield Read(self.name)
        conflicts, grant = 0, cast("Grant | None", None)
        try:
            while True:
                result, new = yield Call(function, (self._decode_or_fail(reply.data),))
                data = self._encode_new(new, reply)
                wrote = yield from self._write(data, expect=_expected(reply), ttl=KEEP, old=reply)
                if wrote.status is Status.APPLIED:
                    return cast("R", result)
                conflicts, reply = conflicts + 1, wrote
                if workspace.current() is not None:
                    continue  # a task of the same transaction was first
                if self._bind().is_apart():
                    raise Conflict(
                        f"{self.name!r} was changed by another writer meanwhile; within join_transaction() nothing is "
                        "retried. Roll the transaction back and run it again."
                    )
                if conflicts == QUEUE_AFTER:
                    lease = naming.ref_lease(self.name)
                    grant = yield from take(self._bind().backend, lease, ttl=QUEUE_TTL, timeout=None)
                    reply = yield Read(self.name)
        finally:
            if grant is not None:
                with suppress(DRefError):  # then it runs out; what was asked for has its own result
                    yield from give(grant.lease, grant.owner)

    def _delete(self) -> Flow[bool]:
        reply: Reply = yield Delete(self.name, op=new_op_id())
        self._note(reply.version, None, None)
        return reply.existed

    def _expire(self, ttl: float | None) -> Flow[bool]:
        return self._live_for(_microseconds(self, ttl))

    def _live_for(self, ttl: int | None) -> Flow[bool]:
        reply: Reply = yield Expire(self.name, ttl, op=new_op_id())
        return reply.status is Status.APPLIED

    def _open_edit(self, timeout: float | None) -> Flow[tuple[Held, Draft[T], Reply]]:
        if workspace.current() is not None:
            raise DRefError(
                f"{self.name!r}: edit() takes the ref's lock for its body and cannot be part of a transaction(). Use "
                "update() inside it, or put the transaction into the edit() block."
            )
        backend = self._bind().backend
        limit = backend.params.lock_timeout if timeout is None else timeout
        grant = yield from take(backend, naming.ref_lease(self.name), ttl=EDIT_TTL, timeout=limit)
        held = hold(backend, self.name, grant, EDIT_TTL)
        try:
            reply: Reply = yield Read(self.name)
            return held, Draft(self._decode_or_fail(reply.data)), reply
        except BaseException:
            held.hand_back()
            raise

    def _close_edit(self, draft: Draft[T], read: Reply) -> Flow[None]:
        data = self._encode_new(draft.value, read)
        if data == read.data:
            return
        wrote = yield from self._write(data, expect=_expected(read), ttl=KEEP, old=read)
        if wrote.status is not Status.APPLIED:
            raise Conflict(
                f"{self.name!r} was changed by another writer while it was edited (version {wrote.version} instead of "
                f"{read.version}); nothing was written. Edit again, or use update(), which retries."
            )

    # --- values and binding -------------------------------------------------------------------------------------

    def _encode(self, value: T) -> Data:
        return self._bind().schema.encode(value)

    def _encode_new(self, new: object, old: Reply) -> Data:
        if new is None and self._type is None and self._default is not UNSET and self._default is not None:
            raise InvalidValue(
                f"{self.name!r}: the new value is None. A function given to update() must return the new value, "
                "also when it changes its argument in place; declare type=Optional[...] if None is meant."
            )
        return self._bind().schema.encode(new, base=old.data)


def ref_for(name: str, using: str = conf.DEFAULT_ALIAS) -> DRef[Any]:
    """The declared ref of that name, or an untyped one without default."""
    ref = known_ref(name, using)
    return ref if isinstance(ref, DRef) else DRef(name, None, using=using)


def watch(
    pattern: str,
    *,
    using: str = conf.DEFAULT_ALIAS,
    every: bool = False,
    buffer: int = DEFAULT_BUFFER,
    timeout: float | None = None,
) -> Stream[Any]:
    """The changes of all refs whose names match: `"shop.*"` is a prefix, `"*"` everything, else one exact name.

    It starts with the snapshot of every existing one, in any order. The process keeps a copy of all that match, and
    compares the stored versions at each heartbeat (15 s), so watch what is needed. Values are decoded by the ref that
    this process declared under the name, else by the back end's codec.
    """

    def decode(name: str, data: Data | None) -> Any:
        return ref_for(name, using)._decode(name, data)

    name, prefix = naming.parsed_pattern(pattern)
    return Stream(using, decode, name=name, prefix=prefix, every=every, buffer=buffer, timeout=timeout)


def _expected(reply: Reply) -> int:
    return ABSENT if reply.data is None else reply.version


def _twice(function: Callable[[T], Any]) -> Callable[[T], tuple[T, T]]:
    """`function` as one that returns (result, new value); awaitable when what it returns is."""

    def paired(old: T) -> Any:
        new = function(old)
        return _awaited_twice(new) if inspect.isawaitable(new) else (new, new)

    return paired


async def _awaited_twice(awaitable: Awaitable[T]) -> tuple[T, T]:
    new = await awaitable
    return new, new


def _microseconds(ref: DRef[Any], ttl: Any) -> int | None:
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < 2**31:
        raise InvalidValue(f"{ref.name!r}: ttl is a positive number of seconds, not {ttl!r}")
    return max(int(ttl * 1_000_000), 1)
