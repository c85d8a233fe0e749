"""The end of a connection that listens.

What strangers can do is bounded: they get one small frame, `HANDSHAKE_TIMEOUT` seconds, and a place among
`MAX_PENDING`, out of which the next one pushes whoever waits longest. So somebody who opens connections and says
nothing keeps no place for long, while a node, whose handshake takes a millisecond, comes through. TLS, where it is on,
lies within the same bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets as random_bytes
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from .channel import Channel
from .frames import FrameError, TransportError
from .handshake import NONCE_SIZE, HandshakeError, Hello, Reason, Secrets, acceptor
from .refusals import Refusals
from .resolving import join_address

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds."""
MAX_PENDING: Final = 64
"""Connections that are not authenticated yet."""
MAX_CHANNELS: Final = 2000
"""Connections that are."""
BACKLOG: Final = 256
OWNER_ONLY: Final = 0o600
OUT_OF_FILES_PAUSE: Final = 0.2
"""Seconds without accepting when the system has no file descriptor left."""


class Acceptor:
    """Runs `welcome(channel)` as a task for each authenticated connection, and closes the channel when it ends."""

    def __init__(
        self,
        secrets: Secrets,
        hello: Callable[[], Hello],
        welcome: Callable[[Channel], Awaitable[None]],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.refusals = Refusals(asyncio.get_running_loop().time)
        """`refusals.counts` by kind: the names of `Reason` in lower case, and "tls"."""
        self._loop = asyncio.get_running_loop()
        self._secrets = secrets
        self._hello = hello
        self._welcome = welcome
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._pending: dict[asyncio.Task[None], str] = {}  # the longest waiting first, and who it is
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self, bind: str, port: int) -> int:
        """Listens on an address of this machine; port 0 is any free one. Returns the port. Raises `TransportError`."""
        try:
            found = await self._loop.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            listening = socket.socket(family, kind, protocol)
        except OSError as error:
            raise TransportError(f"{bind!r} is no address to listen on ({error}); see BIND.") from error
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError as error:
            listening.close()
            raise TransportError(
                f"This node cannot listen on {join_address(bind, port)}: {error.strerror}. Set PORT (or DREF_PORT) to "
                "a free port, BIND to an address of this machine."
            ) from error
        self._listen(listening)
        bound: int = listening.getsockname()[1]
        return bound

    async def listen_unix(self, path: Path) -> None:
        """Listens on a Unix socket for the owner of this process; takes the path over. Raises `TransportError`."""
        self._listen(self._bound_to(path))

    def _bound_to(self, path: Path) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.fchmod(listening.fileno(), OWNER_ONLY)  # Linux makes the file with it
            listening.bind(str(path))
            path.chmod(OWNER_ONLY)  # elsewhere; a umask would count for the files of all threads of the process
        except OSError as error:
            listening.close()
            raise TransportError(f"This node cannot listen on {path}: {error}. Check DATA_DIR.") from error
        return listening

    def _listen(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._sockets.append(listening)
        self._accepting.append(self._loop.create_task(self._accept(listening)))

    async def close(self) -> None:
        """Stops listening, and ends every connection and its `welcome`."""
        tasks = [*self._accepting, *self._pending, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        self._accepting.clear()

    # --- within -------------------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                accepted, address = await self._loop.sock_accept(listening)
            except ConnectionError:
                continue  # gone before it was accepted
            except OSError as error:
                self.refusals.note("files", "a connection", error)
                await asyncio.sleep(OUT_OF_FILES_PAUSE)
                continue
            if len(self._pending) >= MAX_PENDING:
                longest = next(iter(self._pending))
                longest.cancel()
                self.refusals.note(
                    Reason.CROWDED.name.lower(), self._pending.pop(longest), "too many others came after it"
                )
            whom = join_address(*address[:2]) if isinstance(address, tuple) else "a process of this machine"
            task = self._loop.create_task(self._receive(accepted, whom))
            self._pending[task] = whom
            task.add_done_callback(lambda done: self._pending.pop(done, None))
            await asyncio.sleep(0)  # a crowd at the door does not keep the rest of the loop waiting

    async def _receive(self, accepted: socket.socket, whom: str) -> None:
        try:
            channel = await self._authenticated(accepted, whom)
        except HandshakeError as error:
            self.refusals.note(error.reason.name.lower(), whom, error)
        except FrameError as error:
            self.refusals.note(Reason.GARBAGE.name.lower(), whom, error)
        except ssl.SSLError as error:
            self.refusals.note("tls", whom, error)
        except OSError as error:
            self.refusals.note(Reason.CLOSED.name.lower(), whom, error)
        else:
            if channel is not None:
                task = self._loop.create_task(self._serve(channel))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _authenticated(self, accepted: socket.socket, whom: str) -> Channel | None:
        def make() -> Channel:
            exchange = acceptor(self._secrets, self._hello(), random_bytes.token_bytes(NONCE_SIZE))
            return Channel(
                exchange, lambda error: self.refusals.note(Reason.FRAME.name.lower(), whom, error), tells_why=True
            )

        accepted.setblocking(False)
        channel = None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                _, channel = await self._loop.connect_accepted_socket(make, accepted, ssl=self._tls)
                await channel.opened
        except BaseException as error:
            if channel is None:
                accepted.close()
            elif not isinstance(error, HandshakeError):  # that one is told why
                channel.abort()
            if isinstance(error, TimeoutError):
                raise HandshakeError(Reason.TIMEOUT) from None
            raise
        if len(self._serving) >= MAX_CHANNELS:
            channel.abort()
            raise HandshakeError(Reason.CROWDED)
        return channel

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._welcome(channel)
        finally:
            channel.close()
