"""How the processes of a machine find each other: the lock of whoever hosts the node, and the path of its socket.

The system frees the lock when its holder ends, however it ends. In its file the holder notes its session: what is
still noted when somebody else takes the lock is the session of a process that ended without a word. That is believed
of this boot of this machine only: a file may be copied, and on a network's file system two machines may each have the
lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

LOCK_FILE: Final = "node.lock"
SOCKET: Final = "node.sock"
LONGEST_PATH: Final = 100
"""Bytes of a socket's path; systems take a few more."""
MOST_NOTED: Final = 100
"""Sessions; older ones are left to their leases."""
LONGEST_NOTE: Final = 4096
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def socket_path(directory: Path) -> Path:
    """In the directory, or where its path is too long for a socket, under a name made from it among temporary files."""
    path = directory.resolve() / SOCKET
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return Path(tempfile.gettempdir(), f"dref-{digest}.sock")


class HostLock:
    """Held while the file is open, here and nowhere else: a forked child has to let go of its copy (`held`)."""

    held: ClassVar[set[int]] = set()
    """File descriptors of all locks of this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.held.add(descriptor)
        self._own = 0
        self.left = _read(os.pread(descriptor, LONGEST_NOTE, 0))
        """Sessions of holders that died."""

    @classmethod
    def take(cls, directory: Path) -> Self | None:
        """None when another process, or another thread of this one, has it. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def note(self, session: int) -> None:
        """This one ends with the process."""
        self._own = session
        self._write()

    def settle(self, session: int) -> None:
        """This one of those that were left is closed."""
        self.left.discard(session)
        self._write()

    def release(self) -> None:
        if self._descriptor in self.held:
            self.note(0)  # this process lives on
            self.held.discard(self._descriptor)
            os.close(self._descriptor)

    def _write(self) -> None:
        """Where the disk is full the sessions are left to their leases."""
        note = _note(self.left | {self._own} - {0})
        with suppress(OSError):
            os.pwrite(self._descriptor, note, 0)
            os.ftruncate(self._descriptor, len(note))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _note(sessions: set[int]) -> bytes:
    """A line: the boot, the sessions, a checksum. What is left of a longer one behind it does not count."""
    boot = _boot_id()
    if not sessions or not boot:
        return b""
    words = " ".join([boot, *map(str, sorted(sessions)[-MOST_NOTED:])])
    return f"{words} {zlib.crc32(words.encode())}\n".encode()


def _read(note: bytes) -> set[int]:
    line, end, _ = note.partition(b"\n")
    words, _, checksum = line.decode(errors="replace").rpartition(" ")
    if not end or checksum != str(zlib.crc32(words.encode())):
        return set()
    boot, *sessions = words.split(" ")
    return set(map(int, sessions)) if boot == _boot_id() else set()


def _boot_id() -> str:
    """Empty when the system does not tell."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
