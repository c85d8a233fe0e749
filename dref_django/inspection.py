"""Who holds what, since when, and who waits: for operators and admin pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from . import backends, conf
from .flows import Flow, adrive, drive
from .naming import GROUP_SEPARATOR
from .protocol import Break, Inspect, LeaseInfo, Reply, ScanLeases, Status, check_name

PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class LockInfo:
    """One lock that is held or awaited.

    `kind` is "lock", "election", "ref" (a ref's own lock) ...; `since` the acquisition by the server's clock; `left`
    the seconds until the lease runs out unless it is renewed; `waiters` how many processes' handles are in the queue.
    `held` is False when it is free but awaited, or kept by `at_least` after its holder left.
    """

    kind: str
    name: str
    held: bool
    token: int
    since: datetime
    left: float
    host: str
    pid: int | None
    thread: str
    waiters: int
    meta: dict[str, Any]


def locks(prefix: str = "", *, kind: str = "lock", using: str = conf.DEFAULT_ALIAS) -> Iterator[LockInfo]:
    """All locks whose names start with `prefix`, in order of name, fetched in pages. `kind=""`: of every kind."""
    backend = backends.get_backend(using)
    start = f"{kind}:{prefix}" if kind else ""
    after = ""
    while True:
        found, after = drive(backend, _page(start, after))
        yield from found
        if not after:
            return


async def alocks(prefix: str = "", *, kind: str = "lock", using: str = conf.DEFAULT_ALIAS) -> AsyncIterator[LockInfo]:
    backend = backends.get_backend(using)
    start = f"{kind}:{prefix}" if kind else ""
    after = ""
    while True:
        found, after = await adrive(backend, _page(start, after))
        for info in found:
            yield info
        if not after:
            return


def lock_page(
    prefix: str = "", after: str = "", *, kind: str = "lock", limit: int = PAGE, using: str = conf.DEFAULT_ALIAS
) -> tuple[list[LockInfo], str]:
    """A page of `locks`, and where the next one begins; "" at the end."""
    start = f"{kind}:{prefix}" if kind else ""
    return drive(backends.get_backend(using), _page(start, after, limit))


def lock_info(name: str, *, kind: str = "lock", using: str = conf.DEFAULT_ALIAS) -> LockInfo | None:
    """What is known of one lock; None when it is free and nobody waits."""
    return drive(backends.get_backend(using), _inspect(_lease(kind, name)))


async def alock_info(name: str, *, kind: str = "lock", using: str = conf.DEFAULT_ALIAS) -> LockInfo | None:
    return await adrive(backends.get_backend(using), _inspect(_lease(kind, name)))


def break_lock(name: str, *, token: int = 0, kind: str = "lock", using: str = conf.DEFAULT_ALIAS) -> bool:
    """Takes a lock from its holder (with `token` only from the holder of that token); returns whether it was held.

    The holder learns it as a loss, at once when its process listens, else at its next renewal. Until then it still
    believes that it holds the lock while the next waiter may have it: work that must not overlap needs its fencing
    token checked.
    """
    return drive(backends.get_backend(using), _break(_lease(kind, name), token))


async def abreak_lock(name: str, *, token: int = 0, kind: str = "lock", using: str = conf.DEFAULT_ALIAS) -> bool:
    return await adrive(backends.get_backend(using), _break(_lease(kind, name), token))


def _page(prefix: str, after: str, limit: int = PAGE) -> Flow[tuple[list[LockInfo], str]]:
    """A page and where the next one begins; "" at the end."""
    reply: Reply = yield ScanLeases(prefix, after, limit)
    return [_info(row) for row in reply.page if isinstance(row, LeaseInfo)], reply.cursor


def _lease(kind: str, name: str) -> str:
    for part in name.split(GROUP_SEPARATOR):  # a permit, a reader, a partition: named behind what it belongs to
        check_name(part)
    return f"{kind}:{name}"


def _inspect(lease: str) -> Flow[LockInfo | None]:
    reply: Reply = yield Inspect(lease)
    return None if reply.lease is None or reply.status is not Status.APPLIED else _info(reply.lease)


def _break(lease: str, token: int) -> Flow[bool]:
    reply: Reply = yield Break(lease, token)
    return reply.existed


def _info(row: LeaseInfo) -> LockInfo:
    kind, _, name = row.name.partition(":")
    try:
        meta = json.loads(row.meta) if row.meta else {}
    except ValueError:
        meta = {}
    if not isinstance(meta, dict):
        meta = {}
    return LockInfo(
        kind=kind,
        name=name,
        held=bool(row.owner),
        token=row.token,
        since=datetime.fromtimestamp(row.since / 1e6, UTC),
        left=row.left / 1e6,
        host=str(meta.pop("host", "")),
        pid=meta.pop("pid", None),
        thread=str(meta.pop("thread", "")),
        waiters=len(row.waiters),
        meta=meta,
    )
