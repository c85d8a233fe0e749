"""How the processes of a machine find each other: the lock of whoever hosts the node, and the path of its socket.

The system frees the lock when its holder ends, however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

LOCK_FILE: Final = "node.lock"
SOCKET: Final = "node.sock"
LONGEST_PATH: Final = 100
"""Bytes of a socket's path; systems take a few more."""


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

    def release(self) -> None:
        if self._descriptor in self.held:
            self.held.discard(self._descriptor)
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
