"""Commands to script arguments, script answers to replies. The scripts themselves are the `.lua` files beside this one.

Nothing here talks to a server, and a script call is the same bytes for a plain server, Sentinel and a cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from dref_django.protocol import (
    INT_MAX,
    INT_MIN,
    Acquire,
    Add,
    Break,
    Check,
    Command,
    Data,
    Delete,
    Expire,
    Find,
    Inspect,
    LeaseInfo,
    Read,
    Release,
    Renew,
    Reply,
    Splice,
    Status,
    Write,
)

STATUSES = tuple(Status)


def pack(*parts: bytes) -> bytes:
    """One Redis command as it travels. Much faster than the client's own packer, which takes any type."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class Script:
    """One Lua script, from one file or from several that follow each other."""

    def __init__(self, *filenames: str) -> None:
        self.source = b"".join((Path(__file__).parent / filename).read_bytes() for filename in filenames)
        # Redis itself names scripts by their SHA-1.
        sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()
        self._cached = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % sha
        self._whole = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(self.source), self.source)

    def call(self, arguments: Sequence[bytes], *, whole: bool = False) -> bytes:
        """The packed command; with `whole` the source travels along, for a server that does not know it (NOSCRIPT)."""
        body = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in arguments])
        return b"*%d\r\n%b%b" % (len(arguments) + 2, self._whole if whole else self._cached, body)


ENTRIES = Script("clock.lua", "entries.lua")
LEASES = Script("clock.lua", "leases.lua")


class Call(NamedTuple):
    """One call of a script: its arguments from the number of keys on, and how to read the answer."""

    script: Script
    key: bytes
    """The first key; on a cluster it tells the node."""
    arguments: list[bytes]
    decode: Callable[[Any], list[Reply] | None]
    """None: this was a short cut that does not lead there."""


@dataclass(frozen=True, slots=True)
class RowRead:
    """Reads what a Scan shows of one name."""

    name: str
    values: bool


Encodable: TypeAlias = Command | RowRead
Encoder: TypeAlias = Callable[[Any, list[bytes]], None]


def _ttl(ttl: object) -> bytes:
    if isinstance(ttl, int):
        return b"%d" % ttl
    return b"" if ttl is None else b"k"


def _optional(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def _read(command: Read, out: list[bytes]) -> None:
    out += (b"R", command.name.encode(), _optional(command.known))


def _row(command: RowRead, out: list[bytes]) -> None:
    out += (b"S", command.name.encode(), b"1" if command.values else b"0")


def _check(command: Check, out: list[bytes]) -> None:
    out += (b"C", command.name.encode(), b"%d" % command.expect)


def _write(command: Write, out: list[bytes]) -> None:
    data = command.data
    out += (b"W", command.name.encode(), _optional(command.expect), _ttl(command.ttl), command.op.hex().encode())
    if isinstance(data, Splice):
        out += (b"s", data.replacement, b"%d" % data.start, b"%d" % data.end)
    elif isinstance(data, int):
        out += (b"i", b"%d" % data)
    else:
        out += (b"b", data)


def _add(command: Add, out: list[bytes]) -> None:
    amount, initial = command.amount, command.initial + command.amount
    parts = (b"%d" % amount, b"")
    if not INT_MIN <= amount <= INT_MAX:
        half = amount // 2
        parts = (b"%d" % half, b"%d" % (amount - half)) if 2 * INT_MIN < amount <= 2 * INT_MAX else (b"", b"")
    first = b"%d" % initial if INT_MIN <= initial <= INT_MAX else b""
    out += (b"A", command.name.encode(), *parts, first, command.op.hex().encode())


def _delete(command: Delete, out: list[bytes]) -> None:
    out += (b"D", command.name.encode(), _optional(command.expect), command.op.hex().encode())


def _expire(command: Expire, out: list[bytes]) -> None:
    out += (b"E", command.name.encode(), _ttl(command.ttl), command.op.hex().encode())


def _find(command: Find, out: list[bytes]) -> None:
    out += (b"F", command.name.encode(), command.op.hex().encode())


def _acquire(command: Acquire, out: list[bytes]) -> None:
    ttl, wait = b"%d" % command.ttl, b"%d" % command.wait
    out += (b"A", command.name.encode(), command.owner.encode(), ttl, wait, command.meta.encode())


def _renew(command: Renew, out: list[bytes]) -> None:
    out += (b"N", command.name.encode(), command.owner.encode(), b"%d" % command.token, b"%d" % command.ttl)


def _release(command: Release, out: list[bytes]) -> None:
    out += (b"L", command.name.encode(), command.owner.encode(), b"%d" % command.token, b"%d" % command.keep)


def _inspect(command: Inspect, out: list[bytes]) -> None:
    out += (b"I", command.name.encode())


def _break(command: Break, out: list[bytes]) -> None:
    out += (b"B", command.name.encode(), b"%d" % command.token)


ENCODERS: dict[type, Encoder] = {
    Read: _read,
    RowRead: _row,
    Check: _check,
    Write: _write,
    Add: _add,
    Delete: _delete,
    Expire: _expire,
    Find: _find,
    Acquire: _acquire,
    Renew: _renew,
    Release: _release,
    Inspect: _inspect,
    Break: _break,
}


def encode(commands: Iterable[Encodable], out: list[bytes]) -> None:
    for command in commands:
        ENCODERS[type(command)](command, out)


def decode_entries(answer: Any) -> list[Reply]:
    """Replies to a batch on entries. A size without data (rows of a scan) becomes `token`, which entries do not use."""
    parts = iter((answer,) if isinstance(answer, bytes) else answer)
    replies = []
    for header in parts:
        status, version, left, existed, shown = header.split(b" ")
        data: Data | None = None
        size = 0
        kind = shown[:1]
        if kind == b"i":
            data = int(shown[1:])
        elif kind == b"b":
            data = next(parts)
        elif kind == b"s":
            size = int(shown[1:])
        life = None if left == b"-" else int(left)
        replies.append(Reply(STATUSES[int(status)], data, int(version), life, existed == b"1", size))
    return replies


def decode_leases(answer: list[Any]) -> list[Reply]:
    parts = iter(answer)
    replies = []
    for header in parts:
        status, token, left, existed, info = header.split(b" ")
        replies.append(
            Reply(
                STATUSES[int(status)],
                left=None if left == b"-" else int(left),
                existed=existed == b"1",
                token=int(token),
                lease=_lease_info(next(parts)) if info == b"l" else None,
            )
        )
    return replies


def _lease_info(fields: list[Any]) -> LeaseInfo:
    name, owner, token, since, left, meta, waiters = fields
    queue = tuple(waiter.decode() for waiter in waiters)
    return LeaseInfo(name.decode(), owner.decode(), int(token), int(since), int(left), meta.decode(), queue)
