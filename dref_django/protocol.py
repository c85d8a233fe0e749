"""The vocabulary: commands that go to a back end, replies that come back, notices that go to watchers.

Operations are data. A back end is handed a batch of commands, applies all of them in one atomic step or none, and
answers with one `Reply` a command. What each command *means* is written once, in `store.py`; a back end in another
language (Lua, SQL) is held to that store by the model test.

Units: versions and times are integers, microseconds; `ttl` is microseconds too (the public API speaks seconds).
Stored data is an `int` (a signed 64-bit number, stored as such) or `bytes` (made by a codec, see `codecs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from .exceptions import InvalidName

Data: TypeAlias = int | bytes

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
MAX_NAME_LENGTH: Final = 200
OP_ID_SIZE: Final = 8
RING_SIZE: Final = 8
"""How many op ids an entry remembers: the proof that a mutation whose reply was lost was applied."""
GRAVE: Final = 3_600_000_000
"""Microseconds for which a deleted or expired entry, and a free lease, is kept before garbage collection (one hour).

A grave keeps versions and tokens rising when the server's clock steps back, and keeps the op ids of a delete."""
RESERVATION: Final = 1_000_000
"""Microseconds for which a free lease is kept for the waiter that was woken; then it is passed over."""

ABSENT: Final = 0
"""As `expect`: the name must hold no value."""


class _Keep:
    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = _Keep()
"""As `ttl`: leave the deadline as it is."""

Ttl: TypeAlias = int | _Keep | None


class Splice(NamedTuple):
    """Bytes `start` to `end` of the old encoded value are replaced by `replacement`."""

    start: int
    end: int
    replacement: bytes


# --- commands on entries -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """Answers with the value, its version and the microseconds that are left of its life.

    With `known`, a version that the reader already holds, the answer is UNCHANGED, without data, when it still is
    the current one.
    """

    name: str
    known: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Fails the batch with CONFLICT unless the entry still has the version `expect` (ABSENT: holds no value)."""

    name: str
    expect: int


@dataclass(frozen=True, slots=True)
class Write:
    """Sets the value. With `expect`, only when the version is that one (ABSENT: only when there is none).

    `ttl`: None clears the deadline, KEEP leaves it. `data` may be a `Splice` of the bytes of version `expect`
    (then `expect` is required): the same write, smaller on the wire.
    """

    name: str
    data: Data | Splice
    expect: int | None = None
    ttl: Ttl = None
    op: bytes = b""


@dataclass(frozen=True, slots=True)
class Add:
    """Adds to an integer and answers with the sum. An absent one starts from `initial`. The deadline is kept.

    OVERFLOW when the sum does not fit in 64 bits, WRONG_KIND when bytes are stored; both change nothing.
    """

    name: str
    amount: int
    initial: int = 0
    op: bytes = b""


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes the value; APPLIED even when there was none (then nothing changes and no notice goes out).

    With `expect`, only when the version is that one. Reply.existed says whether there was a value.
    """

    name: str
    expect: int | None = None
    op: bytes = b""


@dataclass(frozen=True, slots=True)
class Expire:
    """Sets (or with None clears) the deadline of an existing value; CONFLICT when there is none. A new version."""

    name: str
    ttl: int | None
    op: bytes = b""


@dataclass(frozen=True, slots=True)
class Find:
    """Looks for an op id among the last `RING_SIZE` of an entry. APPLIED with version and integer result when found.

    NOT_FOUND proves nothing: eight later mutations push an id out.
    """

    name: str
    op: bytes


@dataclass(frozen=True, slots=True)
class Scan:
    """A page of live entries whose names start with `prefix`, in the order of code points, names > `after`.

    Answers with `Reply.page`; fewer than `limit` rows do not mean the end, `Reply.cursor == ""` does. Rows carry no
    data unless `values`. Only alone in its batch. Not a snapshot: entries made or removed meanwhile may show or not.
    """

    prefix: str = ""
    after: str = ""
    limit: int = 100
    values: bool = False


# --- commands on leases (locks, elections, a ref's own lock) ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acquire:
    """Takes the lease `name` for `owner`, or, with `wait` > 0, joins its queue for that many microseconds.

    APPLIED with `token` (strictly rising for the life of the name: max(last + 1, now)) and `left` when it is held
    by `owner` now; repeating it with the same owner answers with the same token and renews the lease (idempotent).
    HELD otherwise, with `left`: microseconds until the lease in the way may be free (a lower bound worth waiting for).
    Waiters are served first come, first served. A waiter must repeat its Acquire before its `wait` is over, else it
    is passed over; repeating keeps its place. `meta` is free text about the holder for inspection (JSON).
    """

    name: str
    owner: str
    ttl: int
    wait: int = 0
    meta: str = ""


@dataclass(frozen=True, slots=True)
class Renew:
    """Sets the lease's deadline to now + ttl when `owner` and `token` hold it and it has not run out; else LOST."""

    name: str
    owner: str
    token: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Release:
    """Frees the lease when `owner` holds it under `token`, or takes `owner` out of the queue (token 0: either).

    Idempotent: APPLIED when it was held (`existed`), also APPLIED with existed=False when it was not. The next live
    waiter is woken and the lease reserved for it for `RESERVATION`. With `keep` > 0 the lease is not freed but
    runs out `keep` microseconds from now, under no owner (`at_least=` of locks).
    """

    name: str
    owner: str
    token: int = 0
    keep: int = 0


@dataclass(frozen=True, slots=True)
class Inspect:
    """Answers with `Reply.lease`, a LeaseInfo, or NOT_FOUND when nobody holds or awaits it."""

    name: str


@dataclass(frozen=True, slots=True)
class Break:
    """Takes the lease from whoever holds it (token 0) or from the holder of that token. The next waiter is woken."""

    name: str
    token: int = 0


@dataclass(frozen=True, slots=True)
class ScanLeases:
    """As `Scan`, over leases that are held or awaited; `Reply.page` holds LeaseInfo rows."""

    prefix: str = ""
    after: str = ""
    limit: int = 100


Command: TypeAlias = (
    Read | Check | Write | Add | Delete | Expire | Find | Scan
    | Acquire | Renew | Release | Inspect | Break | ScanLeases
)  # fmt: skip

# What may stand together in a batch, checked by `check_batch`:
# - reads: Read, Find. One round trip a node; not one moment in time.
# - a mutation: Check, Write, Add, Delete, Expire, Read. One atomic step, all or nothing: the first command that fails
#   has its own status, all others are ABORTED. A name is mutated at most once, and read or mutated, not both.
# - leases: Acquire, Renew, Release, Inspect, Break. Each for itself, in order, in one round trip.
# - Scan, ScanLeases: alone.

MUTATIONS: Final = (Write, Add, Delete, Expire)
"""Commands that carry an op id and are never sent twice."""
LEASE_COMMANDS: Final = (Acquire, Renew, Release, Inspect, Break, ScanLeases)
"""Commands that are idempotent by (owner, token) and may be sent again."""


# --- replies ------------------------------------------------------------------------------------------------------


class Status(IntEnum):
    APPLIED = 0
    CONFLICT = 1
    OVERFLOW = 2
    WRONG_KIND = 3
    NOT_FOUND = 4
    HELD = 5
    LOST = 6
    ABORTED = 7
    """Another command of the batch failed, so this one was not applied."""
    UNCHANGED = 8


class Row(NamedTuple):
    """One row of a Scan."""

    name: str
    version: int
    size: int
    """Bytes of the encoded value; 8 for an integer."""
    left: int | None
    data: Data | None


class LeaseInfo(NamedTuple):
    """Who holds a lease, for inspection. `owner` is "" when it is free but awaited, or kept by `at_least`."""

    name: str
    owner: str
    token: int
    since: int
    """Server time, microseconds, of the acquisition."""
    left: int
    meta: str
    waiters: tuple[str, ...]


class Reply(NamedTuple):
    """The answer to one command.

    Read: the value. Add: the sum. CONFLICT, OVERFLOW, WRONG_KIND: the untouched current value, so that a retry needs
    no extra read. Write, Delete and Expire do not echo data; `existed` says whether there was a value before.
    `version` is the one after the command; of an absent name, what a later write will exceed (0: never seen).
    `left`: microseconds to live, None for ever; of leases, until the lease runs out or is worth another try.
    """

    status: Status
    data: Data | None = None
    version: int = 0
    left: int | None = None
    existed: bool = False
    token: int = 0
    page: tuple[Row, ...] | tuple[LeaseInfo, ...] = ()
    cursor: str = ""
    lease: LeaseInfo | None = None


# --- notices ------------------------------------------------------------------------------------------------------


class Patch(IntEnum):
    FULL = 0
    """`data` is the whole new value."""
    SPLICE = 1
    """`splice` turns the bytes of version `base` into the new ones."""
    GONE = 2
    """The value was deleted."""
    HINT = 3
    """Something changed; read it to know what (the value is too large to travel along)."""


class Notice(NamedTuple):
    """What a back end tells listeners of one change. It may be lost on the way; the stored version is the truth.

    Continuity is `base ==` the last version seen. `left` is the life that remains, as in Reply.
    """

    name: str
    version: int
    base: int
    patch: Patch
    data: Data | None = None
    splice: Splice | None = None
    left: int | None = None


class Wake(NamedTuple):
    """Tells the waiter `owner` that the lease `name` is now kept for it."""

    name: str
    owner: str


def check_batch(commands: Sequence[Command]) -> None:
    """Raises ValueError when these commands may not stand together (see above)."""
    if len(commands) == 1:
        return
    mutated: set[str] = set()
    others: set[str] = set()
    leases = 0
    for command in commands:
        if isinstance(command, (Scan, ScanLeases)):
            raise ValueError(f"{type(command).__name__} stands alone in a batch")
        if isinstance(command, LEASE_COMMANDS):
            leases += 1
        elif isinstance(command, MUTATIONS):
            if command.name in mutated:
                raise ValueError(f"{command.name!r} is changed twice in one batch")
            mutated.add(command.name)
        elif not isinstance(command, Check):
            others.add(command.name)
    if leases and leases != len(commands):
        raise ValueError("lease commands and entry commands do not stand in one batch")
    if both := mutated & others:
        raise ValueError(f"{min(both)!r} is read and changed in one batch")


def check_name(name: object) -> str:
    """Returns `name` when it may name a ref or a lock, else raises `InvalidName`.

    1 to 200 characters, anything printable in any script, spaces, slashes and braces included; no control characters
    and no lone surrogates (they have no UTF-8).
    """
    if not isinstance(name, str):
        raise InvalidName(f"a name must be a str, not {type(name).__name__}: {name!r}")
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InvalidName(f"a name has 1 to {MAX_NAME_LENGTH} characters, this one has {len(name)}: {name[:60]!r}")
    for character in name:
        if character < " " or "\x7f" <= character < "\xa0" or "\ud800" <= character <= "\udfff":
            raise InvalidName(f"control characters and lone surrogates are not allowed in a name: {name!r}")
    return name
