"""Distributed refs, locks, elections and change streams for Django.

The public names are loaded when they are first used: importing the package, or having it in INSTALLED_APPS, costs next
to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .counters import Counter
    from .elections import Election
    from .exceptions import (
        Conflict,
        CounterOverflow,
        DRefError,
        InvalidName,
        InvalidValue,
        LockLost,
        LockTimeout,
        NotFound,
        OutcomeUnknown,
        Unavailable,
        ValueTooLarge,
        WrongKind,
    )
    from .fenced_models import FencedModel
    from .fencing import fence
    from .flags import Flag
    from .hot_counters import HotCounter
    from .locks import Lock, lock
    from .partitions import Partitions
    from .presence import Presence
    from .refs import DRef, watch
    from .run_once import once
    from .semaphores import ReadWriteLock, Semaphore
    from .streams import Change, start
    from .transactions import join_transaction, transaction

__version__ = "0.1.0"

_HOMES = {
    "counters": ("Counter",),
    "elections": ("Election",),
    "exceptions": (
        "Conflict",
        "CounterOverflow",
        "DRefError",
        "InvalidName",
        "InvalidValue",
        "LockLost",
        "LockTimeout",
        "NotFound",
        "OutcomeUnknown",
        "Unavailable",
        "ValueTooLarge",
        "WrongKind",
    ),
    "fenced_models": ("FencedModel",),
    "fencing": ("fence",),
    "flags": ("Flag",),
    "hot_counters": ("HotCounter",),
    "locks": ("Lock", "lock"),
    "partitions": ("Partitions",),
    "presence": ("Presence",),
    "refs": ("DRef", "watch"),
    "run_once": ("once",),
    "semaphores": ("ReadWriteLock", "Semaphore"),
    "streams": ("Change", "start"),
    "transactions": ("join_transaction", "transaction"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Change",
    "Conflict",
    "Counter",
    "CounterOverflow",
    "DRef",
    "DRefError",
    "Election",
    "FencedModel",
    "Flag",
    "HotCounter",
    "InvalidName",
    "InvalidValue",
    "Lock",
    "LockLost",
    "LockTimeout",
    "NotFound",
    "OutcomeUnknown",
    "Partitions",
    "Presence",
    "ReadWriteLock",
    "Semaphore",
    "Unavailable",
    "ValueTooLarge",
    "WrongKind",
    "fence",
    "join_transaction",
    "lock",
    "once",
    "start",
    "transaction",
    "watch",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
