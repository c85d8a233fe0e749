"""What a node must never forget, in one SQLite file: term and vote, the log, the snapshot.

`save` and `compact` are one transaction each, and durable when they return: in WAL mode with synchronous=FULL a commit
costs one fsync of the write-ahead log. Snapshot and log change together, so no crash can leave one without the other.

A file that is damaged, belongs to another cluster or node, or was written by a later version is refused with an error
that says what to do. It is never mended and never begun anew: a voter that forgot its vote or an acknowledged entry
can lose writes of the whole cluster. SQLite has no checksums of its own in the database, so each row has one, the row
of the hard state knows where the log ends, and `wal.py` looks at the write-ahead log before SQLite does.

The file is open in one process at a time. A forked child has no part in it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dref_django.exceptions import DRefError

from . import rows
from .core.messages import Entry, HardState, Snapshot
from .wal import find_damage

WAL_PAGES: Final = 1000
"""Pages in the write-ahead log after which they are moved into the database, and the log begins at its start again."""
WAL_ROOM: Final = 4 * 1024 * 1024
"""Bytes that are made ready for them."""
LOST_DISK: Final = (
    "If this node's data is lost, remove the node from the cluster, move the file and its -wal away and start again: "
    "the node then joins as a new member."
)


class StorageError(DRefError):
    """The node's file cannot be used, or could not be written. The message says which file and what to do."""


class DiskFull(StorageError):
    """There is no room. Nothing was saved; the same call may succeed once there is."""


class Storage:
    """One node's file. Calls come from one thread at a time, whichever it is."""

    def __init__(self, path: Path, connection: sqlite3.Connection, node_id: str, cluster: str) -> None:
        self.path = path
        self.node_id = node_id
        """Made once, at random, when the file was made."""
        self.cluster = cluster
        self._connection: sqlite3.Connection | None = connection
        self._failure: Exception | None = None
        self._has_remains = False  # of a transaction that failed, in the write-ahead log
        self.hard_state, self.last_index = rows.read_state(connection)
        self._snapshot = rows.read_snapshot(connection)
        self._entries: list[Entry] | None = rows.read_entries(connection)
        snapshot = self._snapshot
        self._snapshot_place = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        rows.check_whole(self.hard_state, self.last_index, self._snapshot_place, self._entries)

    @classmethod
    def open(cls, path: Path | str, cluster: str, node_id: str | None = None) -> Storage:
        """The node's file at `path`, which is made when there is none, with `node_id` or a random one.

        Raises `StorageError` when it is in use, damaged, of a later version, of another cluster, or (when `node_id`
        is given) of another node. What is refused keeps all it holds.
        """
        path = Path(path)
        try:
            if not path.exists():
                _create(path, cluster, node_id or secrets.token_hex(8))
            if damage := find_damage(_wal(path)):
                raise StorageError(f"The write-ahead log {_wal(path)} is damaged: {damage}. {LOST_DISK}")
            storage = _opened(cls, path, cluster, node_id)
        except OSError as error:
            raise StorageError(f"The data of this node cannot be opened: {error}. Check DATA_DIR.") from error
        _open_here.add(storage)
        return storage

    def snapshot(self) -> Snapshot | None:
        if self._snapshot is None and self._snapshot_place[0]:
            with self._reading():
                return rows.read_snapshot(self._db())
        return self._snapshot

    def entries(self) -> list[Entry]:
        """The log, without holes; it begins at the latest right after the snapshot, earlier when some were kept."""
        if self._entries is None:
            with self._reading():
                return rows.read_entries(self._db())
        return self._entries

    def save(
        self,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        entries: Sequence[Entry] = (),
        snapshot: Snapshot | None = None,
    ) -> None:
        """Durable when it returns. First the snapshot is put in place, then the log is cut, then it is appended to.

        A `snapshot` (from a leader) takes the entries up to its index with it; those after it stay if the log has the
        snapshot's last entry, otherwise the whole log contradicts it or ends before it, and goes. Raises `DiskFull`
        when nothing was saved and a later try may work, any other `StorageError` when this node must stop; ValueError
        when there would be a hole in the log.
        """
        last = self.last_index
        state = self.hard_state if hard_state is None else hard_state
        place = self._snapshot_place if snapshot is None else (snapshot.index, snapshot.term)
        with self._transaction() as connection:
            if snapshot is not None:
                last = self._put_snapshot(connection, snapshot, 0)
            if truncate_from is not None and truncate_from <= place[0]:
                raise ValueError(f"entry {truncate_from} is part of the snapshot at {place[0]} and cannot be void")
            if truncate_from is not None and truncate_from <= last:
                connection.execute("DELETE FROM log WHERE position >= ?", (truncate_from,))
                last = truncate_from - 1
            if entries:
                if entries[0].index != last + 1 or entries[-1].index != last + len(entries):
                    raise ValueError(
                        f"entries {entries[0].index} to {entries[-1].index} do not follow {last}, the end of the log"
                    )
                rows.append_entries(connection, entries)
                last += len(entries)
            rows.put_state(connection, state, last)
        self.hard_state, self.last_index, self._snapshot_place = state, last, place
        self._entries = self._snapshot = None

    def compact(self, snapshot: Snapshot, keep: int = 0) -> None:
        """Puts a snapshot of this node's own state machine in place, and drops the entries up to it but for `keep`."""
        with self._transaction() as connection:
            last = self._put_snapshot(connection, snapshot, keep)
            rows.put_state(connection, self.hard_state, last)
        self.last_index, self._snapshot_place = last, (snapshot.index, snapshot.term)
        self._entries = self._snapshot = None

    def note(self, key: str, value: bytes) -> None:
        """Keeps a small fact beside the state, such as the addresses of the other nodes. Durable when it returns."""
        with self._transaction() as connection:
            rows.put_meta(connection, f"note:{key}", value)

    def noted(self, key: str) -> bytes | None:
        with self._reading():
            return rows.get_meta(self._db(), f"note:{key}")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        _open_here.discard(self)
        is_marked = False
        with suppress(sqlite3.Error):
            if self._failure is None:
                rows.put_meta(connection, "open", b"no")
                is_marked = True
        connection.close()
        if not is_marked:
            _leave_log(self.path)

    # --- within a transaction -----------------------------------------------------------------------------------

    def _put_snapshot(self, connection: sqlite3.Connection, snapshot: Snapshot, keep: int) -> int:
        """Returns the index at which the log ends from now on."""
        index, term = snapshot.index, snapshot.term
        if index < self._snapshot_place[0]:
            raise ValueError(f"the snapshot at {index} is older than the one at {self._snapshot_place[0]}")
        row = connection.execute("SELECT term FROM log WHERE position = ?", (index,)).fetchone()
        rows.put_snapshot(connection, snapshot)
        if row == (term,) or (row is None and self._snapshot_place == (index, term)):
            connection.execute("DELETE FROM log WHERE position <= ?", (index - keep,))
            return self.last_index
        connection.execute("DELETE FROM log")
        return index

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._db()
        if self._failure is not None:
            raise StorageError(
                f"{self.path} could not be written before, and is not written any more"
            ) from self._failure
        try:
            if self._has_remains:
                _checkpoint(connection)
                self._has_remains = False
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._has_remains = True
            if not isinstance(error, sqlite3.Error):
                raise
            if _code(error) == sqlite3.SQLITE_FULL:
                raise DiskFull(f"There is no room to write {self.path}: DATA_DIR is full.") from error
            # Whether it is on disk is not known; after a failed fsync the system may have dropped what it failed on.
            self._failure = error
            raise StorageError(
                f"{self.path} cannot be written: {error}. This node must stop; check the disk of DATA_DIR."
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, rows.Damaged) as error:
            raise StorageError(f"{self.path} cannot be read: {error}. {LOST_DISK}") from error

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self.path} is closed")
        return self._connection


# --- making and opening the file -----------------------------------------------------------------------------------


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _leave_log(path: Path) -> None:
    """SQLite takes its log away when it closes the database in good order, all of it being in the database then. One
    that is missing where the file says that it was open means a careless copy; so an empty one stays."""
    with suppress(OSError):
        _wal(path).touch(0o600)


def _create(path: Path, cluster: str, node_id: str) -> None:
    """Made under another name and then moved into place: an incomplete file is never found under `path`."""
    if _wal(path).exists():
        raise StorageError(f"{_wal(path)} is there and {path} itself is missing: bring it back. {LOST_DISK}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        connection = _connect(new)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN")
            rows.create(connection)
            for key, value in (("cluster", cluster), ("node_id", node_id), ("open", "no")):
                rows.put_meta(connection, key, value.encode())
            connection.execute("COMMIT")
        finally:
            connection.close()
        with suppress(FileExistsError):  # another process was first: its file is as good
            path.hardlink_to(new)
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be made: {error}. Check DATA_DIR.") from error
    finally:
        new.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _opened(kind: type[Storage], path: Path, cluster: str, node_id: str | None) -> Storage:
    has_log = _wal(path).exists()
    connection = None
    try:
        connection = _connect(path)
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            raise rows.Damaged("it is no file of dref_django")
        rows.check_layout(connection)
        _check_owner(connection, path, cluster, node_id)
        if rows.get_meta(connection, "open") != b"no" and not has_log:
            raise rows.Damaged("its write-ahead log is missing (a copy needs the -wal file, too)")
        storage = kind(path, connection, _text(connection, "node_id"), cluster)
        has_log = True
        # Moves what the log holds into the database, so that the log begins anew, without a torn rest.
        rows.put_meta(connection, "open", b"yes")
        _checkpoint(connection)
        _make_room(_wal(path))
    except BaseException as error:
        if connection is not None:
            connection.close()
        if has_log:
            _leave_log(path)
        if isinstance(error, (sqlite3.Error, rows.Damaged, rows.NewerLayout)):
            raise _refusal(path, error) from error
        raise
    return storage


def _check_owner(connection: sqlite3.Connection, path: Path, cluster: str, node_id: str | None) -> None:
    found, owner = (_text(connection, key) for key in ("cluster", "node_id"))
    if found != cluster:
        raise StorageError(f"{path} belongs to the cluster {found!r}, not to {cluster!r}: change DATA_DIR or CLUSTER.")
    if node_id not in (None, owner):
        raise StorageError(f"{path} belongs to the node {owner!r}, not to {node_id!r}: change DATA_DIR.")


def _refusal(path: Path, error: Exception) -> StorageError:
    if isinstance(error, rows.NewerLayout):
        return StorageError(f"{path}: {error}")
    code = _code(error) if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_CORRUPT
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(f"{path} is in use by another process: one node runs on a DATA_DIR.")
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"There is no room to open {path}: DATA_DIR is full.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorageError(f"{path} cannot be opened: {error}. Check DATA_DIR.")
    return StorageError(f"{path} is damaged or not ours: {error}. {LOST_DISK}")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; Python's own errors have none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _connect(path: Path) -> sqlite3.Connection:
    name = f"file:{quote(str(path.absolute()))}?mode=rw{'&vfs=unix-none' if path.absolute() in _of_the_parent else ''}"
    connection = sqlite3.connect(name, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        for setting in (
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "cache_spill = OFF",  # so that a transaction writes each page once, see wal.py
            "locking_mode = EXCLUSIVE",
            "synchronous = FULL",
            "fullfsync = ON",  # macOS
            f"wal_autocheckpoint = {WAL_PAGES}",
        ):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _checkpoint(connection: sqlite3.Connection) -> None:
    """The next transaction is the first of the log, with other salts: what is left of earlier ones does not count."""
    connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()


def _make_room(wal: Path) -> None:
    """A sync within a file costs half of one that makes it longer. Zeros behind the log are none of it."""
    with wal.open("ab") as file:
        file.write(bytes(max(0, WAL_ROOM - file.tell())))
        file.flush()
        os.fsync(file.fileno())


def _text(connection: sqlite3.Connection, key: str) -> str:
    if (value := rows.get_meta(connection, key)) is None:
        raise rows.Damaged(f"it does not name its {key}")
    return value.decode(errors="replace")


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- forked children -----------------------------------------------------------------------------------------------


def _leave_to_parent() -> None:
    """In a forked child: closing the connection, at the latest when the interpreter ends, would move the write-ahead
    log into the database and delete it under the parent's feet. So the child never lets go of it."""
    for storage in _open_here:
        _of_the_parent.add(storage.path.absolute())
        if (connection := storage._connection) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            storage._connection = None
    _open_here.clear()


_of_the_parent: set[Path] = set()
"""Files that a parent had open at a fork. SQLite, whose memory the child inherits, believes ever after that this
process has them locked; so it is told not to lock them. The lock of whoever hosts says that the parent is gone."""
_open_here: weakref.WeakSet[Storage] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_to_parent)
