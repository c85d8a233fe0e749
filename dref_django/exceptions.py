"""Every error that dref_django raises, and whose fault it is.

- `DRefError`: the root; catch it to catch everything below.
- `Conflict`: another writer was first. Nothing was changed; read again and retry.
- `OutcomeUnknown`: the reply was lost and it cannot be proven whether the mutation was applied.
- `Unavailable`: the back end cannot be reached in time; the operation was *not* applied.
- `LockTimeout`: the lock was not free within `timeout` seconds (also a `TimeoutError`).
- `LockLost`: the lock was held once and is no longer proven to be.
- `NotFound`: there is no value and the ref has no default.
- `InvalidValue`, `InvalidName`, `WrongKind`, `ValueTooLarge`, `CounterOverflow`: the caller's mistakes, raised before
  or instead of any change.
"""

from __future__ import annotations


class DRefError(Exception):
    """Base class of every error of dref_django."""


class Conflict(DRefError):
    """The stored version is not the expected one: somebody else changed it first. Nothing was changed."""


class OutcomeUnknown(DRefError):
    """The connection was lost after the command was sent, and the back end cannot prove whether it was applied.

    It is never sent again by itself. Read the value and decide; `name` says which ref it was.
    """

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Unavailable(DRefError):
    """The back end cannot be reached within its time limit. The command was not applied."""


class LockTimeout(DRefError, TimeoutError):
    """The lock was not free within the seconds given as `timeout`."""


class LockLost(DRefError):
    """The lease of a lock that was held can no longer be proven: it ran out, was broken, or belongs to another."""


class NotFound(DRefError, LookupError):
    """The ref has no value and no default."""


class InvalidName(DRefError, ValueError):
    """A ref or lock name that is empty, too long, or holds control characters or lone surrogates."""


class InvalidValue(DRefError, TypeError):
    """A value that the ref's codec or type cannot represent. The message names the ref and the place in the value."""


class ValueTooLarge(DRefError, ValueError):
    """The encoded value is larger than `MAX_VALUE_SIZE`. It was not sent."""


class WrongKind(DRefError, TypeError):
    """An integer operation on a ref that holds something else, or the other way round."""


class CounterOverflow(DRefError, OverflowError):
    """The result would not fit in a signed 64-bit integer. The counter keeps its value."""
