"""Who changed a ref, when, from what to what: `DRef("feature-flags", default=..., history=100)`.

The records of a ref stand in an entry of their own beside it, in the same slot of a Redis Cluster, and are written in
the same atomic step as the change. To that end every change of such a ref becomes a compare-and-set of both entries:
one more round trip, and a new try when somebody else was first. It is for what people change (flags, settings), not for
counters under load.

    for record in flags.history():                  # the newest first
        record.when, record.actor, record.old, record.new

    with acting("nightly import"): flags.set(...)   # who it is; in requests the middleware says so:
    MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
                  "dref_django.history.actor_middleware"]
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from .codecs import get_codec
from .exceptions import Conflict, DRefError
from .flows import Flow, Pause
from .naming import GROUP_SEPARATOR
from .op_ids import new_op_id
from .protocol import ABSENT, Add, Command, Data, Delete, Read, Reply, Status, Write
from .waiting import Waker
from .workspace import Page

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

R = TypeVar("R")

MOST_BYTES: Final = 64 * 1024
"""Of all records of one ref; the oldest go when it is more, however few they are."""
LARGEST: Final = 4 * 1024
"""Bytes of an encoded value that a record keeps; of a larger one it says only that it was."""
LONGEST_ACTOR: Final = 150
TRIES: Final = 200
LONGEST_PAUSE: Final = 0.02
"""Seconds between two tries, at most and by chance."""
SUFFIX: Final = GROUP_SEPARATOR + "dref.history"
_LARGE: Final = False
"""Stands in a record for a value that was too large to be kept."""


class TooLarge:
    """In the place of a value of which a record only knows that it was large."""

    def __repr__(self) -> str:
        return "<a large value>"


TOO_LARGE: Final = TooLarge()


@dataclass(frozen=True, slots=True)
class Record:
    """One change. `when` by the clock of the process that made it; `actor` "" when nobody is known.

    `old` and `new` are decoded values; None where there was no value, TOO_LARGE where it was not kept.
    """

    when: datetime
    actor: str
    old: Any
    new: Any


def journal(name: str) -> str:
    """The name of the entry that keeps the records of the ref `name`: behind it, so in its slot."""
    return name + SUFFIX


# --- who ----------------------------------------------------------------------------------------------------------

_actor: ContextVar[str | Callable[[], str]] = ContextVar("dref_actor", default="")


@contextmanager
def acting(actor: str | Callable[[], str]) -> Iterator[None]:
    """Within it, changes of this thread or task are recorded under that name (or what the callable returns then)."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> str:
    """Never raises: a change is not refused because nobody can say who makes it."""
    actor = _actor.get()
    if callable(actor):
        try:
            actor = actor()
        except Exception:
            return ""
    return actor[:LONGEST_ACTOR]


def actor_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Names the user of the request as the actor. The user is looked up only when something is recorded."""

    def who(request: HttpRequest) -> Callable[[], str]:
        def named() -> str:
            user = getattr(request, "user", None)
            return user.get_username() if user is not None and user.is_authenticated else ""

        return named

    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> HttpResponseBase:
            with acting(who(request)):
                answer: Awaitable[HttpResponseBase] = get_response(request)
                return await answer

        return markcoroutinefunction(amiddleware)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        with acting(who(request)):
            response: HttpResponseBase = get_response(request)
            return response

    return middleware


actor_middleware.sync_capable = actor_middleware.async_capable = True  # type: ignore[attr-defined]


# --- writing ------------------------------------------------------------------------------------------------------


def recorded(name: str, flow: Flow[R], limit: int) -> Flow[R]:
    """The same recipe, its changes of `name` recorded: at most `limit` of them are kept.

    0 is for who does not know the ref's declaration: recorded if its history has begun.
    """
    try:
        step = next(flow)
        while True:
            try:
                if isinstance(step, Write | Add | Delete) and step.name == name:
                    answer: Any = yield from _change(name, step, limit)
                else:
                    answer = yield step
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as stop:
        result: R = stop.value
        return result


def _change(name: str, command: Write | Add | Delete, limit: int) -> Flow[Reply]:
    """Decides what the command means for the value that was read, as the store would, and writes it with its record."""
    beside = journal(name)
    for attempt in range(TRIES):
        value, past = yield [Read(name), Read(beside)]
        page = Page(name, value)
        reply = page.apply(command)
        if reply.status is not Status.APPLIED or not page.changed:
            return reply._replace(version=value.version)
        if not limit and past.data is None:
            answer: Reply = yield command
            return answer
        record = [_now(), current_actor(), _kept(value.data), _kept(page.data)]
        data = _with(_unpacked(past.data), record, limit)
        note = Write(beside, data, ABSENT if past.data is None else past.version, None, new_op_id())
        batch: list[Command] = [page.closing(), note]
        replies: list[Reply] = yield batch
        if replies[0].status is Status.APPLIED:
            return reply._replace(version=replies[0].version, left=replies[0].left)
        if replies[0].status is not Status.CONFLICT and replies[1].status is not Status.CONFLICT:
            raise DRefError(f"{name!r}: its entry or its history is damaged; nothing was written. delete() it.")
        yield Pause(random.uniform(0, min(LONGEST_PAUSE, 0.001 * 2**attempt)), Waker())  # noqa: S311
    raise Conflict(f"{name!r} is changed by others all the time; nothing was written after {TRIES} tries.")


def _now() -> int:
    return time.time_ns() // 1000


def _kept(data: Data | None) -> Any:
    return _LARGE if isinstance(data, bytes) and len(data) > LARGEST else data


def _unpacked(data: Data | None) -> list[list[Any]]:
    """[when, actor, old, new], the oldest first. What cannot be read is begun anew."""
    if not isinstance(data, bytes):
        return []
    try:
        records = get_codec("msgpack").decode(data)
    except DRefError:
        return []
    return records if isinstance(records, list) else []


def _with(records: list[list[Any]], record: list[Any], limit: int) -> bytes:
    codec = get_codec("msgpack")
    records = [*records, record]
    if limit:
        records = records[-limit:]
    while len(data := codec.encode(records)) > MOST_BYTES:
        records = records[max(1, len(records) // 4) :]
    return data


# --- reading ------------------------------------------------------------------------------------------------------


def read(name: str, decode: Callable[[Data], Any]) -> Flow[list[Record]]:
    """The records of a ref, the newest first."""
    reply: Reply = yield Read(journal(name))
    return records_of(reply.data, decode)


def records_of(data: Data | None, decode: Callable[[Data], Any]) -> list[Record]:
    def value(kept: Any) -> Any:
        return TOO_LARGE if kept is _LARGE else None if kept is None else decode(kept)

    return [
        Record(datetime.fromtimestamp(when / 1e6, UTC), actor, value(old), value(new))
        for when, actor, old, new in reversed(_unpacked(data))
    ]
