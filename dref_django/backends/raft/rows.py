"""The tables of a node's file, and the checksum that each row carries: a row that was changed on disk is found."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from typing import Final, NoReturn
from zlib import crc32

from .core.messages import Entry, EntryKind, HardState, Members, Snapshot

LAYOUT: Final = 1
APPLICATION: Final = 0x64726566  # "dref"

_SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE state (
        id INTEGER PRIMARY KEY, term INTEGER NOT NULL, vote TEXT NOT NULL, committed INTEGER NOT NULL,
        last INTEGER NOT NULL, checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE log (
        position INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL, data BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE snapshot (
        id INTEGER PRIMARY KEY, position INTEGER NOT NULL, term INTEGER NOT NULL, members BLOB NOT NULL,
        data BLOB NOT NULL, checksum INTEGER NOT NULL
    )""",
)
_entry_head = struct.Struct(">QQB")
_snapshot_head = struct.Struct(">QQQ")
_state_head = struct.Struct(">QQQ")


class Damaged(Exception):
    """The file is not as it was written."""


class NewerLayout(Exception):
    """The file was written by a later version."""


ROWS_A_STATEMENT: Final = 100


def create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {LAYOUT}")
    connection.execute("INSERT INTO state VALUES (1, 0, '', 0, 0, ?)", (_state_checksum(HardState(), 0),))


def check_layout(connection: sqlite3.Connection) -> None:
    """Whose file it is, of which layout, and whether SQLite finds its pages in order."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (layout,) = connection.execute("PRAGMA user_version").fetchone()
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if application != APPLICATION:
        raise Damaged("it is no file of dref_django")
    if verdict != "ok":
        raise Damaged(verdict)
    if layout > LAYOUT:
        raise NewerLayout(
            f"it has layout {layout}, written by a later version of dref_django; this one reads layout {LAYOUT}. "
            "Install that version again."
        )
    if layout < 1:
        raise Damaged(f"layout {layout} never was")


# --- small facts ---------------------------------------------------------------------------------------------------


def put_meta(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, _meta_checksum(key, value)))


def get_meta(connection: sqlite3.Connection, key: str) -> bytes | None:
    row = connection.execute("SELECT value, checksum FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    value, checksum = row
    if not isinstance(value, bytes) or checksum != _meta_checksum(key, value):
        raise Damaged(f"the row of {key!r} was changed")
    return value


def _meta_checksum(key: str, value: bytes) -> int:
    return crc32(value, crc32(key.encode()))


# --- term, vote, commit index, and where the log ends --------------------------------------------------------------


def put_state(connection: sqlite3.Connection, state: HardState, last: int) -> None:
    connection.execute(
        "UPDATE state SET term = ?, vote = ?, committed = ?, last = ?, checksum = ? WHERE id = 1",
        (state.term, state.vote, state.commit, last, _state_checksum(state, last)),
    )


def read_state(connection: sqlite3.Connection) -> tuple[HardState, int]:
    found = connection.execute("SELECT term, vote, committed, last, checksum FROM state").fetchall()
    if len(found) != 1:
        raise Damaged(f"there are {len(found)} rows of term and vote")
    *fields, last, checksum = found[0]
    state = HardState(*fields)
    try:
        intact = checksum == _state_checksum(state, last)
    except (struct.error, AttributeError, TypeError):
        intact = False
    if not intact:
        raise Damaged("term and vote were changed")
    return state, last


def _state_checksum(state: HardState, last: int) -> int:
    return crc32(state.vote.encode(), crc32(_state_head.pack(state.term, state.commit, last)))


# --- the log -------------------------------------------------------------------------------------------------------


def append_entries(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Many rows a statement: each one lets go of the interpreter's lock, which a busy process is slow to give back."""
    for start in range(0, len(entries), ROWS_A_STATEMENT):
        some = entries[start : start + ROWS_A_STATEMENT]
        places = ", ".join(["(?, ?, ?, ?, ?)"] * len(some))
        connection.execute(f"INSERT INTO log VALUES {places}", [value for entry in some for value in _entry_row(entry)])  # noqa: S608


def _entry_row(entry: Entry) -> tuple[int, int, int, bytes, int]:
    index, term, kind, data = entry.index, entry.term, int(entry.kind), entry.data
    return index, term, kind, data, _entry_checksum(index, term, kind, data)


def read_entries(connection: sqlite3.Connection) -> list[Entry]:
    kinds = {int(kind): kind for kind in EntryKind}
    entries: list[Entry] = []
    last = 0
    for index, term, kind, data, checksum in connection.execute("SELECT * FROM log ORDER BY position"):
        try:
            intact = checksum == _entry_checksum(index, term, kind, data)
        except (struct.error, TypeError):
            intact = False
        if not intact:
            _changed(index)
        if entries and index != last + 1:
            raise Damaged(f"entry {last + 1} is missing")
        last = index
        entries.append(Entry(index, term, kinds[kind], data))
    return entries


def _changed(index: int) -> NoReturn:
    raise Damaged(f"entry {index} was changed")


def _entry_checksum(index: int, term: int, kind: int, data: bytes) -> int:
    return crc32(data, crc32(_entry_head.pack(index, term, kind)))


# --- the snapshot --------------------------------------------------------------------------------------------------


def put_snapshot(connection: sqlite3.Connection, snapshot: Snapshot) -> None:
    index, term, data = snapshot.index, snapshot.term, snapshot.data
    encoded = snapshot.members.encode()
    connection.execute(
        "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?)",
        (index, term, encoded, data, _snapshot_checksum(index, term, encoded, data)),
    )


def read_snapshot(connection: sqlite3.Connection) -> Snapshot | None:
    found = connection.execute("SELECT position, term, members, data, checksum FROM snapshot").fetchall()
    if not found:
        return None
    index, term, members, data, checksum = found[0]
    try:
        intact = len(found) == 1 and checksum == _snapshot_checksum(index, term, members, data)
    except (struct.error, TypeError):
        intact = False
    if not intact:
        raise Damaged("the snapshot was changed")
    return Snapshot(index, term, Members.decode(members), data)


def _snapshot_checksum(index: int, term: int, members: bytes, data: bytes) -> int:
    return crc32(data, crc32(members, crc32(_snapshot_head.pack(index, term, len(members)))))


def check_whole(state: HardState, last: int, snapshot: tuple[int, int], entries: Sequence[Entry]) -> None:
    """Whether hard state, snapshot (index, term) and log belong together. Raises `Damaged`."""
    index, term = snapshot
    end = entries[-1].index if entries else index
    if end != last:
        raise Damaged(f"the log ends at {end} and not at {last}")
    if entries:
        first = entries[0].index
        if first > index + 1 or end < index:
            raise Damaged(f"the log from {first} to {end} does not meet the snapshot at {index}")
        if first <= index and entries[index - first].term != term:
            raise Damaged(f"entry {index} and the snapshot of it have different terms")
    if state.commit > last:
        raise Damaged(f"the log ends at {last}, though {state.commit} was committed")
