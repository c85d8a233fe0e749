"""At most once: what to do when a batch could not be sent, or its reply never came.

- It was not sent: send it again on a fresh connection until the time limit; nothing can have been applied.
- The reply was lost and nothing in the batch changes an entry (reads), or all commands are idempotent (leases): send
  it again.
- The reply was lost and the batch mutates: never send it again. Each mutation left its op id in its entry in the same
  atomic step, so finding one proves that the whole batch was applied. Not finding it proves nothing: `OutcomeUnknown`.

Written once, as a generator that yields attempts; `Backend.execute` and `aexecute` drive it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dref_django.exceptions import OutcomeUnknown
from dref_django.protocol import MUTATIONS, Add, Check, Command, Delete, Find, Release, Reply, Status

if TYPE_CHECKING:
    from .base import Backend

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5


class NotSent(Exception):
    """No part of the batch reached the server (its cause says why)."""


class ReplyLost(Exception):
    """The batch was sent at least in part and the reply did not arrive."""


class Attempt(NamedTuple):
    commands: Sequence[Command]
    timeout: float
    pause: float


Delivery: TypeAlias = Generator[Attempt, list[Reply], list[Reply]]


def redeliver(backend: Backend, commands: Sequence[Command], error: NotSent | ReplyLost, deadline: float) -> Delivery:
    """Goes on after the first attempt failed with `error`; `deadline` is on the monotonic clock."""
    if isinstance(error, ReplyLost) and _mutates(commands):
        return (yield from _prove(backend, commands, error, deadline))
    failure: NotSent | ReplyLost = error
    lost = isinstance(error, ReplyLost)
    pause = 0.0
    while True:
        left = deadline - time.monotonic() - pause
        if left <= 0:
            raise backend.unreachable("the server", failure.__cause__ or failure) from failure
        try:
            replies = yield Attempt(commands, left, pause)
            return _doubtful(commands, replies) if lost else replies
        except NotSent as again:
            if time.monotonic() < deadline:  # else it ended because the time was over, which says nothing of the reason
                failure = again
        except ReplyLost as again:
            if _mutates(commands):
                return (yield from _prove(backend, commands, again, deadline))
            failure, lost = again, True
        pause = min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)


def _doubtful(commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
    """After a resend, a release that finds nothing to release was very likely the first one's work."""
    return [
        reply._replace(existed=True) if isinstance(command, Release) else reply
        for command, reply in zip(commands, replies, strict=True)
    ]


def _mutates(commands: Sequence[Command]) -> bool:
    return any(isinstance(command, MUTATIONS) for command in commands)


def _prove(backend: Backend, commands: Sequence[Command], error: ReplyLost, deadline: float) -> Delivery:
    mutations = [command for command in commands if isinstance(command, MUTATIONS)]
    names = ", ".join(repr(command.name) for command in mutations)
    unknown = OutcomeUnknown(
        f"{names}: the connection was lost before the reply came, and the back end cannot prove whether the change "
        "was applied. Read the value and decide; it is never sent again by itself.",
        name=mutations[0].name,
    )
    searches = [Find(command.name, command.op) for command in mutations]
    if not all(search.op for search in searches):
        raise unknown from error
    pause = 0.0
    while True:
        left = deadline - time.monotonic() - pause
        if left <= 0:
            raise unknown from error
        try:
            found = yield Attempt(searches, left, pause)
            break
        except (NotSent, ReplyLost):
            pause = min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
    if not any(reply.status is Status.APPLIED for reply in found):
        raise unknown from error
    proof = iter(found)
    return [_recovered(command, proof, unknown) for command in commands]


def _recovered(command: Command, proof: Iterator[Reply], unknown: OutcomeUnknown) -> Reply:
    """The reply as the op id's mark tells it."""
    if not isinstance(command, MUTATIONS):
        return Reply(Status.APPLIED, version=command.expect if isinstance(command, Check) else 0)
    mark = next(proof)
    if mark.status is not Status.APPLIED:
        raise unknown
    if isinstance(command, Add):
        return mark
    return mark._replace(data=None, existed=isinstance(command, Delete) or mark.data == 1)
