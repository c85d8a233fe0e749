"""Commands to SQL and rows to replies. Pure: no connection, no clock.

Add and an unconditional Write are one upsert each, the fastest that there is, and several Adds of one name are one
update; everything else goes through the functions of `migrations/postgres_0001.sql`. A hot statement that meets a case
which it does not know (bytes under an Add, a sum that may overflow) changes nothing and is followed by `dref_one()` or
`dref_batch()`, which answer exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from dref_django.protocol import (
    INT_MAX,
    INT_MIN,
    KEEP,
    LEASE_COMMANDS,
    OP_ID_SIZE,
    RING_SIZE,
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
    Notice,
    Patch,
    Read,
    Release,
    Renew,
    Reply,
    Row,
    Scan,
    ScanLeases,
    Splice,
    Status,
    Wake,
    Write,
)
from dref_django.store import Event

from .binary import (
    BOOL,
    BOOLS,
    BYTES,
    BYTES_ARRAY,
    INT2,
    INT2S,
    INT8,
    INT8S,
    TEXT,
    TEXTS,
    TRUE,
    Bound,
    Line,
    blobs,
    boolean,
    booleans,
    int2,
    int2s,
    int8,
    int8s,
    maybe_int8,
    texts,
)

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

LAYOUT: Final = 1
"""The version of the tables and functions that this code works with."""


class Statement(NamedTuple):
    """One statement of a .sql file and the types of its parameters."""

    name: bytes
    sql: bytes
    types: tuple[int, ...]


class Answer(NamedTuple):
    replies: list[Reply]
    events: list[Event]


class Request(NamedTuple):
    statement: Statement
    params: tuple[Bound, ...]
    read: Callable[[PGresult], Answer | None]
    """Makes the answer; None when the exact statement has to be asked."""


def load(name: str) -> str:
    return (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")


def statement(name: str, *types: int) -> Statement:
    return Statement(f"dref_{name}_{LAYOUT}".encode(), load(name).encode(), types)


ADD: Final = statement("add", TEXT, TEXT, INT8, INT8, BYTES, INT8)
ADDS: Final = statement("adds", TEXT, TEXT, INT8, INT8S, BYTES_ARRAY, INT8, BYTES, INT8)
WRITE: Final = statement("write", TEXT, TEXT, INT8, BYTES, INT8, BOOL, BYTES, INT8)
READ: Final = statement("read", TEXT, TEXT, INT8)
READS: Final = statement("reads", TEXT, TEXTS, INT8S, INT8, BOOLS)
SCAN: Final = statement("scan", TEXT, TEXT, TEXT, TEXT, INT8, BOOL, INT8)
SCAN_LEASES: Final = statement("scan_leases", TEXT, TEXT, TEXT, TEXT, INT8, INT8)
ONE: Final = statement("one", TEXT, INT8, INT2, TEXT, INT8, BYTES, *[INT8] * 5, BOOL, BYTES)
BATCH: Final = statement("batch", TEXT, INT8, INT2S, TEXTS, INT8S, BYTES_ARRAY, *[INT8S] * 5, BOOLS, BYTES_ARRAY)
LEASES: Final = statement(
    "leases", TEXT, INT8, INT8, TEXT, INT2S, TEXTS, TEXTS, INT8S, INT8S, INT8S, TEXTS, BOOLS, BOOLS
)  # fmt: skip

_ENTRY_KINDS: Final[dict[type, int]] = {Read: 1, Check: 2, Write: 3, Add: 4, Delete: 5, Expire: 6, Find: 7}
_LEASE_KINDS: Final[dict[type, int]] = {Acquire: 1, Renew: 2, Release: 3, Inspect: 4, Break: 5}
_STATUS: Final = tuple(Status)
_REFUSALS: Final = (Status.CONFLICT, Status.OVERFLOW, Status.WRONG_KIND)
_mark = struct.Struct("!8sqq")


# --- from commands to statements ----------------------------------------------------------------------------------


def request(space: str, commands: Sequence[Command], now: int | None, *, exact: bool = False) -> Request:
    """The one statement that runs this batch. `exact`: by the functions, not by a hot statement."""
    first = commands[0]
    if len(commands) == 1:
        match first:
            case Add(op=op) if op and not exact:
                return _hot_add(space, first, now)
            case Write(data=int() | bytes(), expect=None, op=op) if op and not exact:
                return _hot_write(space, first, now)
            case Read():
                params = (space.encode(), first.name.encode(), maybe_int8(now))
                return Request(READ, params, lambda result: _read_one(result, first))
            case Scan() | ScanLeases():
                return _scan(space, first, now)
    elif not exact and isinstance(first, Add) and (hot := _hot_adds(space, first.name, commands, now)) is not None:
        return hot
    if isinstance(first, LEASE_COMMANDS):
        return _leases(space, commands, now)
    if all(isinstance(command, (Read, Find)) for command in commands):
        return _reads(space, commands, now)
    return _changes(space, commands, now)


def _hot_add(space: str, command: Add, now: int | None) -> Request:
    clock = maybe_int8(now)
    name = command.name
    params = (
        space.encode(), name.encode(), int8(command.amount), int8(command.initial), _op(command.op), clock
    )  # fmt: skip

    def read(result: PGresult) -> Answer | None:
        if not result.ntuples:
            return None
        cell, parse = result.get_value, int.from_bytes  # spelt out: this is the path of every increment
        total = parse(cell(0, 0) or b"", "big", signed=True)
        version = parse(cell(0, 1) or b"", "big")
        base = parse(cell(0, 2) or b"", "big")
        life = cell(0, 4)
        left = None if life is None else parse(life, "big", signed=True)
        reply = Reply(Status.APPLIED, total, version, left, cell(0, 3) == TRUE)
        return Answer([reply], [Notice(name, version, base, Patch.FULL, total, None, left)])

    return Request(ADD, params, read)


def _hot_adds(space: str, name: str, commands: Sequence[Command], now: int | None) -> Request | None:
    """None: they are not all Adds of that name, or more than an entry remembers."""
    adds = [command for command in commands if isinstance(command, Add) and command.op and command.name == name]
    count = len(commands)
    if len(adds) != count or count > RING_SIZE:
        return None
    *parts, total = accumulate(add.amount for add in adds)
    if not all(INT_MIN <= each <= INT_MAX for each in (*parts, total)):
        return None
    *ops, last = (_op(add.op) for add in adds)
    params = (
        space.encode(), name.encode(), int8(count), int8s(parts), blobs(ops), int8(total), last, maybe_int8(now)
    )  # fmt: skip

    def read(result: PGresult) -> Answer | None:
        if not result.ntuples:
            return None
        line = Line(result)
        version, base, left = line.integer(1) - count, line.integer(2), line.number(3)
        before = line.integer(0) - total
        replies, events = [], []
        for place, part in enumerate((*parts, total), 1):
            replies.append(Reply(Status.APPLIED, before + part, version + place, left, True))
            events.append(Notice(name, version + place, base, Patch.FULL, before + part, None, left))
            base = version + place
        return Answer(replies, list(events))

    return Request(ADDS, params, read)


def _hot_write(space: str, command: Write, now: int | None) -> Request:
    name, data, ttl = command.name, command.data, command.ttl
    number, blob = _columns(data)
    span = ttl if isinstance(ttl, int) else None
    params = (
        space.encode(), name.encode(), maybe_int8(number), blob, maybe_int8(span), boolean(ttl is KEEP),
        _op(command.op), maybe_int8(now),
    )  # fmt: skip

    def read(result: PGresult) -> Answer | None:
        if not result.ntuples:
            return None
        line = Line(result)
        version, base = line.integer(0), line.integer(1)
        left = line.number(3) if ttl is KEEP else span
        reply = Reply(Status.APPLIED, None, version, left, line.truth(2))
        whole = data if isinstance(data, (int, bytes)) else None
        return Answer([reply], [Notice(name, version, base, Patch.FULL, whole, None, left)])

    return Request(WRITE, params, read)


def _columns(data: Data | Splice) -> tuple[int | None, bytes | None]:
    if isinstance(data, Splice):
        return None, data.replacement
    return (data, None) if isinstance(data, int) else (None, data)


def _reads(space: str, commands: Sequence[Command], now: int | None) -> Request:
    params = (
        space.encode(),
        texts([command.name for command in commands if isinstance(command, (Read, Find))]),
        int8s([command.known if isinstance(command, Read) else None for command in commands]),
        maybe_int8(now),
        booleans([isinstance(command, Find) for command in commands]),
    )
    return Request(READS, params, lambda result: _read_several(result, commands))


def _scan(space: str, command: Scan | ScanLeases, now: int | None) -> Request:
    end = _prefix_end(command.prefix)
    page = (
        space.encode(), command.prefix.encode(), None if end is None else end.encode(), command.after.encode(),
        int8(command.limit),
    )  # fmt: skip
    if isinstance(command, Scan):
        params = (*page, boolean(command.values), maybe_int8(now))
        return Request(SCAN, params, lambda result: _read_scan(result, command))
    return Request(SCAN_LEASES, (*page, maybe_int8(now)), lambda result: _read_lease_scan(result, command))


def _prefix_end(prefix: str) -> str | None:
    """The first text after all texts with this prefix, in the order of code points; None: there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            following = 0xE000 if last == 0xD7FF else last + 1  # between them lie the surrogates
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None


_Arguments: TypeAlias = tuple[
    int, str, int | None, bytes | None, int | None, int | None, int | None, int | None, int | None, bool, bytes
]


def _changes(space: str, commands: Sequence[Command], now: int | None) -> Request:
    rows = [_arguments(command) for command in commands]
    head = (space.encode(), maybe_int8(now))
    if len(rows) == 1:
        kind, name, number, data, start, stop, initial, expect, ttl, keep, op = rows[0]
        numbers = (maybe_int8(each) for each in (start, stop, initial, expect, ttl))
        params = (*head, int2(kind), name.encode(), maybe_int8(number), data, *numbers, boolean(keep), op)
        return Request(ONE, params, lambda result: _read_changes(result, commands, 0))
    kinds, names, amounts, datas, starts, stops, initials, expects, ttls, keeps, ops = zip(*rows, strict=True)
    columns = (int8s(each) for each in (starts, stops, initials, expects, ttls))
    params = (
        *head, int2s(kinds), texts(names), int8s(amounts), blobs(datas), *columns, booleans(keeps), blobs(ops)
    )  # fmt: skip
    return Request(BATCH, params, lambda result: _read_changes(result, commands, 1))


def _arguments(command: Command) -> _Arguments:
    """Of dref_one(), after space and clock: kind, name, num, data, start, stop, initial, expect, ttl, keep, op."""
    kind = _ENTRY_KINDS[type(command)]
    number = data = start = stop = initial = expect = span = None
    keep, op = False, b""
    match command:
        case Read():
            expect = command.known
        case Check():
            expect = command.expect
        case Write():
            number, data = _columns(command.data)
            if isinstance(command.data, Splice):
                start, stop, _ = command.data
            expect, op, keep = command.expect, command.op, command.ttl is KEEP
            span = command.ttl if isinstance(command.ttl, int) else None
        case Add():
            number, initial, op, keep = command.amount, command.initial, command.op, True
        case Delete():
            expect, op = command.expect, command.op
        case Expire():
            span, op = command.ttl, command.op
    return kind, command.name, number, data, start, stop, initial, expect, span, keep, _op(op)  # type: ignore[union-attr]


def _op(op: bytes) -> bytes:
    if op and len(op) != OP_ID_SIZE:
        raise ValueError(f"an op id has {OP_ID_SIZE} bytes, not {len(op)}")
    return op


def _leases(space: str, commands: Sequence[Command], now: int | None) -> Request:
    return Request(LEASES, lease_params(space, commands, now), lambda result: read_leases(result, commands))


def lease_params(
    space: str,
    commands: Sequence[Command],
    now: int | None,
    session: int = 0,
    node: str = "",
    releases: Sequence[tuple[bool, bool]] | None = None,
) -> tuple[Bound, ...]:
    """Of dref_leases(). `session`, `node`, and (unlock, near) a command are for leases that a session backs."""
    rows = [_lease_arguments(command) for command in commands]
    kinds, names, owners, tokens, ttls, waits, metas = zip(*rows, strict=True)
    unlocks, nears = zip(*(releases or [(False, False)] * len(rows)), strict=True)
    return (
        space.encode(), maybe_int8(now), int8(session), node.encode(), int2s(kinds), texts(names), texts(owners),
        int8s(tokens), int8s(ttls), int8s(waits), texts(metas), booleans(unlocks), booleans(nears),
    )  # fmt: skip


def _lease_arguments(command: Command) -> tuple[int, str, str, int, int, int, str]:
    """kind, name, owner, token, ttl or keep, wait, meta"""
    kind = _LEASE_KINDS[type(command)]
    match command:
        case Acquire(name, owner, ttl, wait, meta):
            return kind, name, owner, 0, ttl, wait, meta
        case Renew(name, owner, token, ttl):
            return kind, name, owner, token, ttl, 0, ""
        case Release(name, owner, token, keep):
            return kind, name, owner, token, keep, 0, ""
        case Break(name, token):
            return kind, name, "", token, 0, 0, ""
        case _:
            return kind, command.name, "", 0, 0, 0, ""  # type: ignore[union-attr]


# --- from rows to replies -----------------------------------------------------------------------------------------


def _data(line: Line, column: int) -> Data | None:
    """The value that stands in two columns, integer and bytes."""
    number = line.number(column)
    return line.blob(column + 1) if number is None else number


def _read_one(result: PGresult, command: Read) -> Answer:
    if not result.ntuples:
        unchanged = command.known == 0
        return Answer([Reply(Status.UNCHANGED if unchanged else Status.APPLIED)], [])
    return Answer([_read_reply(Line(result), command)], [])


def _read_reply(line: Line, command: Read) -> Reply:
    version, live, left = line.integer(2), line.truth(3), line.number(4)
    if command.known == version:
        return Reply(Status.UNCHANGED, None, version, left, live)
    return Reply(Status.APPLIED, _data(line, 0), version, left, live)


def _read_several(result: PGresult, commands: Sequence[Command]) -> Answer:
    replies: list[Reply] = []
    for row, command in enumerate(commands):
        line = Line(result, row)
        if isinstance(command, Find):
            replies.append(_found(line.blob(5), command))
        elif isinstance(command, Read):
            replies.append(_read_reply(line, command))
    return Answer(replies, [])


def _found(ring: bytes | None, command: Find) -> Reply:
    for op, version, outcome in _mark.iter_unpack(ring or b""):
        if op == command.op:
            return Reply(Status.APPLIED, outcome, version, None, True)
    return Reply(Status.NOT_FOUND)


def _read_changes(result: PGresult, commands: Sequence[Command], shift: int) -> Answer:
    """Rows of dref_one(), or with `shift` 1 of dref_batch(), whose first column is the place, from 1."""
    last = Line(result, result.ntuples - 1)
    status = _STATUS[last.integer(shift)]
    if status in _REFUSALS:
        replies = [Reply(Status.ABORTED)] * len(commands)
        place = last.integer(0) - 1 if shift else 0
        replies[place] = _change_reply(last, shift, commands[place])
        return Answer(replies, [])
    events: list[Event] = []
    replies = []
    for row, command in enumerate(commands):
        line = Line(result, row)
        reply = _change_reply(line, shift, command)
        replies.append(reply)
        base = line.integer(shift + 4)
        if isinstance(command, (Write, Add, Delete, Expire)) and reply.version != base:
            events.append(_notice(command, reply, base, line.number(shift + 1)))
    return Answer(replies, events)


def _change_reply(line: Line, shift: int, command: Command) -> Reply:
    status = _STATUS[line.integer(shift)]
    if isinstance(command, Find):
        return _found(line.blob(shift + 7), command)
    silent = status is Status.APPLIED and not isinstance(command, (Read, Add))
    data = None if silent else _data(line, shift + 1)
    gone = status is Status.APPLIED and isinstance(command, Delete)
    left = None if gone else line.number(shift + 6)
    return Reply(status, data, line.integer(shift + 3), left, line.truth(shift + 5))


def _notice(command: Write | Add | Delete | Expire, reply: Reply, base: int, number: int | None) -> Notice:
    name, version, left = command.name, reply.version, reply.left
    match command:
        case Delete():
            return Notice(name, version, base, Patch.GONE)
        case Write(data=Splice() as splice):
            return Notice(name, version, base, Patch.SPLICE, None, splice, left)
        case Write(data=(int() | bytes()) as data):
            return Notice(name, version, base, Patch.FULL, data, None, left)
        case Expire() if number is None:
            return Notice(name, version, base, Patch.SPLICE, None, Splice(0, 0, b""), left)
        case _:
            return Notice(name, version, base, Patch.FULL, number, None, left)


def _read_scan(result: PGresult, command: Scan) -> Answer:
    rows: list[Row] = []
    name = ""
    for line in (Line(result, row) for row in range(result.ntuples)):
        name = line.text(0)
        if line.truth(6):
            rows.append(Row(name, line.integer(1), line.integer(2), line.number(3), _data(line, 4)))
    cursor = name if result.ntuples == command.limit else ""
    return Answer([Reply(Status.APPLIED, page=tuple(rows), cursor=cursor)], [])


def _read_lease_scan(result: PGresult, command: ScanLeases) -> Answer:
    rows: list[LeaseInfo] = []
    name = ""
    for line in (Line(result, row) for row in range(result.ntuples)):
        name, left = line.text(0), line.number(4)
        if left is not None:
            owner, token, since = line.text(1), line.integer(2), line.integer(3)
            rows.append(LeaseInfo(name, owner, token, since, left, line.text(5), line.texts(6)))
    cursor = name if result.ntuples == command.limit else ""
    return Answer([Reply(Status.APPLIED, page=tuple(rows), cursor=cursor)], [])


def read_leases(result: PGresult, commands: Sequence[Command]) -> Answer:
    replies: list[Reply] = [Reply(Status.NOT_FOUND)] * len(commands)
    wakes: list[list[Event]] = [[] for _ in commands]
    for line in (Line(result, row) for row in range(result.ntuples)):
        place = line.integer(0) - 1
        command = commands[place]
        status, left, existed, token = _STATUS[line.integer(1)], line.number(2), line.truth(3), line.integer(4)
        if not isinstance(command, Inspect):
            replies[place] = Reply(status, left=left, existed=existed, token=token)
            name: str = command.name  # type: ignore[union-attr]
            wakes[place] = [Wake(name, owner) for owner in line.texts(5)]
        elif status is Status.APPLIED:
            owner, since, meta, waiters = line.text(6), line.integer(7), line.text(8), line.texts(9)
            info = LeaseInfo(command.name, owner, token, since, left or 0, meta, waiters)
            replies[place] = Reply(status, token=token, lease=info)
    return Answer(replies, [event for each in wakes for event in each])
