"""What a `transaction()` has read and means to write, until its end: the refs' back end for that while.

A ref inside a transaction runs the flow that it always runs; only its commands go to the `Workspace` of the
transaction instead of to the back end. Each name has a `Page` there: a store of its own (`store.py`), filled with what
the back end answered when the name was first read. So every command means inside what it means outside, and nothing is
sent but reads. The end sends one batch: a Check for each name that was only read, a Write or Delete that expects the
version that was seen for each name that was changed.

Each read also asks whether what was read before is still current, in the same round trip, so a body never sees values
that did not stand side by side: it hears of a conflict at the next read, not only at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from .backends.base import Backend, Params
from .deltas import make_splice
from .exceptions import Conflict, DRefError
from .flows import Flow, adrive, drive
from .op_ids import new_op_id
from .protocol import (
    ABSENT,
    KEEP,
    MUTATIONS,
    Check,
    Command,
    Data,
    Delete,
    Expire,
    Read,
    Reply,
    Status,
    Ttl,
    Write,
)
from .store import Store
from .streams import get_hub

BLIND: Final = Reply(Status.APPLIED)
"""Stands for what the back end holds where a transaction sets a value without looking."""


class Page:
    """One name in a transaction."""

    def __init__(self, name: str, seen: Reply, *, blind: bool = False) -> None:
        self.name = name
        self.seen = seen
        self.blind = blind
        """Written without having been read: whatever stands there is replaced."""
        self.changed = False
        self._ttl: Ttl = KEEP
        # The store's clock stands still at the version that was seen, so a time to live is the one that was seen, too,
        # and each change inside has a version of its own for compare-and-set to go by.
        self._now = seen.version
        self._store = Store()
        if seen.data is not None:
            self._store.apply([Write(name, seen.data, ttl=seen.left)], self._now)

    def apply(self, command: Command) -> Reply:
        if isinstance(command, Read) and not self.changed:
            return self.seen
        (reply,), _ = self._store.apply([command], self._now)
        if isinstance(command, MUTATIONS) and reply.status is Status.APPLIED:
            self.changed = self.changed or not isinstance(command, Delete) or reply.existed
            if isinstance(command, Delete):
                self._ttl = None
            elif isinstance(command, (Write, Expire)) and command.ttl is not KEEP:
                self._ttl = command.ttl
        return reply

    def copy(self) -> Page:
        """The page as it stands, to go back to."""
        copy = Page(self.name, self.seen, blind=self.blind)
        if self.changed:
            now = self.apply(Read(self.name))
            copy.changed, copy._ttl = True, self._ttl
            copy._store = Store()
            if now.data is not None:
                copy._store.apply([Write(self.name, now.data, ttl=now.left)], now.version)
        return copy

    @property
    def data(self) -> Data | None:
        return self.apply(Read(self.name)).data

    @property
    def expected(self) -> int:
        return ABSENT if self.seen.data is None else self.seen.version

    def is_current(self, reply: Reply) -> bool:
        """Whether a later read shows what was seen."""
        return reply.version == self.seen.version or (not reply.existed and self.seen.data is None)

    def closing(self) -> Command:
        """What the end of the transaction sends for this name."""
        data = self.data if self.changed else None
        if not self.changed or (data is None and self.seen.data is None and not self.blind):
            return Check(self.name, self.expected)
        expect = None if self.blind else self.expected
        if data is None:
            return Delete(self.name, expect, new_op_id())
        splice = None
        if expect and isinstance(data, bytes) and isinstance(self.seen.data, bytes):
            splice = make_splice(self.seen.data, data)
        ttl = None if self.blind and self._ttl is KEEP else self._ttl
        return Write(self.name, data if splice is None else splice, expect, ttl, new_op_id())


class Workspace:
    """Stands in for the back end while a transaction is open. Threads and tasks of one transaction may share it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.ended = False
        self.conflict = ""
        """The name that another writer changed: nothing can come of the transaction any more."""
        self._pages: dict[str, Page] = {}
        self._mutex = threading.Lock()
        self._overlapped = False
        """Two reads were under way at once, and neither has asked about the other."""

    # --- what a ref's flow is driven by (see flows.Executor) -----------------------------------------------------

    @property
    def params(self) -> Params:
        return self.backend.params

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        return drive(self.backend, self._answer(commands))

    async def aexecute(self, commands: Sequence[Command]) -> list[Reply]:
        return await adrive(self.backend, self._answer(commands))

    def _answer(self, commands: Sequence[Command]) -> Flow[list[Reply]]:
        replies = []
        for command in commands:
            self._refuse_if_over()
            page = yield from self._page(command)
            with self._mutex:
                replies.append(page.apply(command))
        return replies

    def _refuse_if_over(self) -> None:
        if self.ended:
            raise DRefError(
                "A task or thread that was started inside a transaction() uses a ref after its end. Await it inside "
                "the block, or start it before."
            )
        if self.conflict:
            raise self.conflict_error()

    def _page(self, command: Command) -> Flow[Page]:
        if not isinstance(command, (Read, *MUTATIONS)):
            raise DRefError(f"{type(command).__name__} cannot be part of a transaction().")
        name = command.name
        page = self._pages.get(name)
        if page is not None:
            return page
        self._refuse_other_slot(name)
        if isinstance(command, Write) and command.expect is None:
            fresh = Page(name, BLIND, blind=True)
        else:
            before = self._seen_pages()
            fresh = Page(name, (yield from self._read(name, before)))
            self._overlapped = self._overlapped or len(before) < len(self._seen_pages())
        with self._mutex:  # another task may have been first
            return self._pages.setdefault(name, fresh)

    def _seen_pages(self) -> list[Page]:
        with self._mutex:
            return [page for page in self._pages.values() if not page.blind]

    def _read(self, name: str, before: Sequence[Page]) -> Flow[Reply]:
        """Reads a name, and asks whether all that was read before it is still so."""
        replies: list[Reply] = yield [Read(name), *_questions(before)]
        self._compare(before, replies[1:])
        if not self.backend.is_joined():
            get_hub(self.backend).note(name, replies[0].version, replies[0].data, replies[0].left)
        return replies[0]

    def _compare(self, pages: Sequence[Page], replies: Sequence[Reply]) -> None:
        for page, reply in zip(pages, replies, strict=True):
            if not page.is_current(reply):
                self.conflict = page.name
                raise self.conflict_error()

    def _refuse_other_slot(self, name: str) -> None:
        for other in self._pages:
            if self.backend.slot(other) != self.backend.slot(name):
                raise DRefError(
                    f"transaction(): {other!r} and {name!r} are in different slots of the Redis Cluster, and one "
                    "atomic step stays within one slot. Give the refs of the transaction the same group=, which puts "
                    "them into one slot."
                )
            return  # those that are there share a slot already

    # --- the end ------------------------------------------------------------------------------------------------

    def pages(self) -> dict[str, Page]:
        """A copy, for a nested block to go back to; what was read stays read."""
        with self._mutex:
            return {name: page.copy() for name, page in self._pages.items()}

    def go_back(self, pages: dict[str, Page]) -> None:
        """Forgets what was changed since `pages` were copied, not what was read."""
        with self._mutex:
            since = {page.name: Page(page.name, page.seen) for page in self._pages.values() if not page.blind}
            self._pages = {**since, **pages}

    def commit(self) -> Flow[None]:
        """Sends what was changed, under the condition that what was read still stands."""
        if self.conflict:
            raise self.conflict_error()
        pages = list(self._pages.values())
        commands = [page.closing() for page in pages]
        if not any(isinstance(command, MUTATIONS) for command in commands):
            if self._overlapped:
                self._compare(pages, (yield _questions(pages)))
            return  # else the last read has shown that all of it stood side by side
        replies: list[Reply] = yield commands
        for page, reply in zip(pages, replies, strict=True):
            if reply.status is Status.CONFLICT:
                self.conflict = page.name
                raise self.conflict_error()
            if reply.status not in (Status.APPLIED, Status.ABORTED):
                raise DRefError(
                    f"{page.name!r}: the stored entry does not fit the version that was read ({reply.status.name}), so "
                    "it is damaged. Nothing was written; set() or delete() it."
                )
        if not self.backend.is_joined():
            hub = get_hub(self.backend)
            for page, reply in zip(pages, replies, strict=True):
                if page.changed:
                    hub.note(page.name, reply.version, page.data, reply.left)

    def conflict_error(self) -> Conflict:
        return Conflict(
            f"{self.conflict!r} was changed by another writer since transaction() read it; nothing was written. A with "
            "block cannot be run again: run it again yourself, or decorate a function with @transaction, which does."
        )


def _questions(pages: Sequence[Page]) -> list[Command]:
    return [Read(page.name, page.seen.version) for page in pages]


class Scope(NamedTuple):
    """One `with transaction()` block: the outermost has `outer` None, an inner one shares its workspace."""

    workspace: Workspace
    outer: Scope | None
    pages: dict[str, Page]
    """As they stood when the block was entered."""


_scope: ContextVar[Scope | None] = ContextVar("dref_django.transaction", default=None)


def current() -> Scope | None:
    """The innermost transaction block that the caller is in."""
    return _scope.get()


def enter(scope: Scope | None) -> None:
    """Makes `scope` the innermost one."""
    _scope.set(scope)


def executor(backend: Backend) -> Backend | Workspace:
    """Where a ref's commands go: the back end, or the workspace of the transaction that the caller is in."""
    scope = _scope.get()
    if scope is None:
        return backend
    workspace = scope.workspace
    if workspace.backend is not backend:
        ours, theirs = workspace.params.alias, backend.params.alias
        raise DRefError(
            f"transaction(using={ours!r}): a ref with using={theirs!r} cannot take part, one transaction has one back "
            "end. Use it before or after the block, or give both refs the same alias."
        )
    return workspace


@contextmanager
def outside() -> Iterator[None]:
    """Within it, the caller's refs act by themselves, whatever transaction it is in."""
    scope = _scope.get()
    _scope.set(None)
    try:
        yield
    finally:
        _scope.set(scope)
