"""Whether the process at the other end of a Unix socket has ended: for certain, or it is taken to live.

A connection that closes proves nothing, as a client changes its host. The kernel says who connected (SO_PEERCRED), and
a pidfd, which means that process and never another one with its number, says when it is gone. Where there is neither,
as beyond Linux, or the process is one of another PID namespace, nothing is known.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from typing import Final, Self

DYING: Final = 5.0
"""Seconds between the end of a process's connections, which comes first when it dies, and its own."""
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


class Peer:
    """To be closed."""

    def __init__(self, pidfd: int | None) -> None:
        self._pidfd = pidfd

    @classmethod
    def behind(cls, connected: socket.socket | None) -> Self:
        if sys.platform != "linux" or connected is None or connected.family != socket.AF_UNIX:
            return cls(None)
        try:
            said = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, _, _ = _CREDENTIALS.unpack(said)
            return cls(os.pidfd_open(pid) if pid > 0 else None)
        except OSError:
            return cls(None)

    async def has_ended(self) -> bool:
        """Once its connection has closed: whether the process ended with it."""
        if self._pidfd is None:
            return False
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            async with asyncio.timeout(DYING):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._pidfd)
        return True

    def close(self) -> None:
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)
