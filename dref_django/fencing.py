"""The fencing token of a lock, in force for the block: `with fence(held): ...`

A holder that was frozen does not know that its lease has run out; a check before the statement cannot close the gap to
the statement itself. The database can: each row of a `FencedModel` remembers the highest token that changed it, and
refuses older ones. (M. Kleppmann, "How to do distributed locking", 2016; the idea is Chubby's sequencer.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from .exceptions import LockLost


class Fencing(Protocol):
    """What `fence` takes: a `Held`, the term of an election, the turn of `once`."""

    @property
    def token(self) -> int: ...

    def check(self) -> None: ...


class _Token:
    """A token alone, as it came with a message: whether its lock is held is for the rows to say."""

    def __init__(self, token: int) -> None:
        self.token = token

    def check(self) -> None: ...


_current: Final[ContextVar[Fencing | None]] = ContextVar("dref_fence", default=None)


@contextmanager
def fence(held: Fencing | int) -> Iterator[None]:
    """Within the block every change of a `FencedModel` is made under the token of `held`.

    Changing rows (save, delete, update, bulk_update, update_or_create ...) checks the lock, then stamps the rows with
    the token. When one of them was changed under a newer token, none is changed, and `LockLost` is raised. Rows are
    comparable only under one lock: let one lock name protect a row. Blocks may be nested, the inner one counts. The
    fence follows the code into `await` and `sync_to_async`, but not into threads that the code starts itself.

    `held` may be a bare token, handed to another process; then only the rows are asked. Raises `LockLost` at once when
    `held` is lost.
    """
    fencing = _Token(held) if isinstance(held, int) else held
    if not isinstance(getattr(fencing, "token", None), int):
        raise TypeError(f"fence() takes what one lock gave, or its token, not {held!r}")
    fencing.check()
    before = _current.set(fencing)
    try:
        yield
    finally:
        _current.reset(before)


def current_token() -> int | None:
    """The token in force here, its lock checked; None outside of `fence`. Raises `LockLost`."""
    fencing = _current.get()
    if fencing is None:
        return None
    fencing.check()
    return fencing.token


def too_old(token: int, what: str) -> LockLost:
    return LockLost(f"{what} was changed under a newer token than {token}: the lock is another's. Nothing was changed.")
