"""What a page may change, where the policy says so: `increment`, `set`, `compare_and_set`.

Values come as the JSON that a page holds. A ref that this process declared takes them through its type, so that what
does not fit is refused; any other name takes what JSON holds as it is.
"""

from __future__ import annotations

from typing import Final

from dref_django import backends, catalog
from dref_django.binding import checked_amount, known_ref
from dref_django.counters import Counter
from dref_django.exceptions import (
    Conflict,
    CounterOverflow,
    DRefError,
    InvalidValue,
    OutcomeUnknown,
    Unavailable,
    ValueTooLarge,
    WrongKind,
)
from dref_django.flows import Flow, adrive
from dref_django.hot_counters import HotCounter
from dref_django.op_ids import new_op_id
from dref_django.protocol import ABSENT, KEEP, Reply, Status, Write
from dref_django.streams import get_hub

from . import wire
from .view import view_of

_CODES: Final[tuple[tuple[type[DRefError], str], ...]] = (
    (Conflict, "conflict"),
    (CounterOverflow, "overflow"),
    (WrongKind, "wrong-kind"),
    (ValueTooLarge, "value-too-large"),
    (InvalidValue, "invalid-value"),
    (OutcomeUnknown, "outcome-unknown"),
    (Unavailable, "unavailable"),
)


def code_of(error: DRefError) -> str:
    """The protocol's word for what went wrong."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), "failed")


async def perform(change: wire.Change, alias: str) -> dict[str, object]:
    """Makes the change; returns what the answer tells of it. Raises what the ref's own methods raise."""
    match change:
        case wire.Increment():
            return await _increment(change, alias)
        case wire.Set():
            return await _put(change.name, change.text, None, alias)
        case wire.CompareAndSet():
            return await _put(change.name, change.text, change.version, alias)


async def _increment(change: wire.Increment, alias: str) -> dict[str, object]:
    ref = known_ref(change.name, alias)
    amount = checked_amount(change.name, change.amount)
    if isinstance(ref, HotCounter):
        await ref.aincrement(amount)
        return {}
    if ref is not None and not isinstance(ref, Counter):
        raise WrongKind(f"{change.name!r} is no counter")
    counter = Counter(change.name, using=alias) if ref is None else ref
    return {"value": view_of(await counter.aincrement(amount))}


async def _put(name: str, text: str, expect: int | None, alias: str) -> dict[str, object]:
    if isinstance(known_ref(name, alias), HotCounter):
        raise WrongKind(f"{name!r} is a counter in several parts: it can only be incremented")
    backend = backends.get_backend(alias)
    data = catalog.encoded(name, text, using=alias)
    reply = await adrive(backend, _write(Write(name, data, expect, None if expect is None else KEEP, new_op_id())))
    if reply.status is not Status.APPLIED:
        stored = "there is no value" if reply.data is None else f"version {reply.version} is stored"
        raise Conflict(f"{name!r} was not changed: {stored}, not {_expected(expect)}")
    get_hub(backend).note(name, reply.version, data, reply.left)
    return {"version": reply.version}


def _write(command: Write) -> Flow[Reply]:
    reply: Reply = yield command
    return reply


def _expected(expect: int | None) -> str:
    return "none" if expect == ABSENT else f"version {expect}"
