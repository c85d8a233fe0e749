"""One authenticated connection: whole frames in, whole frames out, nothing unbounded.

An asyncio protocol rather than streams: a frame that arrives is handed on in the same step of the loop that read it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from .frames import MAX_FRAME, FrameError, Opener, Sealer, TransportError, plain, take_plain
from .handshake import MAX_PLAIN, Exchange, HandshakeError, Reason, Session, refusal

MAX_UNSENT: Final = 2 * MAX_FRAME
"""Bytes that wait for a peer that does not read; beyond them `send` refuses."""
MAX_UNREAD: Final = 8 * 1024 * 1024
"""Bytes of frames that wait for `receive`; beyond them the socket is not read."""
PING: Final = 3.0
"""Seconds without anything to send after which an empty frame goes out."""
SILENCE: Final = 5
"""Periods of `PING` without a word of the peer after which the connection counts as dead."""


class Channel(asyncio.Protocol):
    """Made by `Acceptor` and `dial`. Methods run on its loop."""

    def __init__(
        self,
        exchange: Exchange,
        on_trouble: Callable[[TransportError], None] | None = None,
        *,
        tells_why: bool = False,
    ) -> None:
        """`on_trouble` hears of frames that are not genuine. `tells_why`: a stranger is told why it is refused."""
        self.peer: dict[str, str | int | bool] = {}
        """What the other side said of itself, proven by its knowledge of the secret."""
        self.is_open = False
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._ended: asyncio.Future[None] = loop.create_future()
        self._exchange: Exchange | None = exchange
        self._on_trouble = on_trouble
        self._tells_why = tells_why
        self._transport: asyncio.Transport | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._buffer = bytearray()
        self._frames: deque[bytes] = deque()
        self._unread = 0
        self._is_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._deliver: Callable[[bytes], None] = self._queue
        self._heard = self._spoke = True
        self._silent = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- for its user -------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> bool:
        """Sends, or says False: it is closed, its buffer is full, or the frame is too large. Never waits."""
        transport, sealer = self._transport, self._sealer
        if sealer is None or transport is None or transport.is_closing() or len(frame) > MAX_FRAME:
            return False
        if transport.get_write_buffer_size() + len(frame) > MAX_UNSENT:
            return False
        self._spoke = True
        transport.write(sealer.seal(frame))
        return True

    async def receive(self) -> bytes:
        """The next frame. Raises EOFError when the connection has ended. One caller at a time."""
        while not self._frames:
            if self._ended.done():
                raise EOFError("the connection has ended")
            self._reader = self._loop.create_future()
            await self._reader
        frame = self._frames.popleft()
        self._unread -= len(frame)
        if self._is_paused and self._unread <= MAX_UNREAD // 2:
            self._pause(False)
        return frame

    def deliver_to(self, on_frame: Callable[[bytes], None]) -> None:
        """From now on frames go to `on_frame`, in the step that read them, instead of to `receive`.

        A ValueError of its own ends the connection.
        """
        self._deliver = on_frame
        self._unread = 0
        try:
            while self._frames:
                on_frame(self._frames.popleft())
        except ValueError as error:
            self._give_up(FrameError(str(error)))
        if self._is_paused:
            self._pause(False)

    async def closed(self) -> None:
        """Returns when the connection has ended, whoever ended it."""
        await asyncio.shield(self._ended)

    @property
    def raw(self) -> socket.socket | None:
        """To be looked at only."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def close(self) -> None:
        """What was sent before still goes out."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- for asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._exchange is not None and (opening := next(self._exchange)):
            self._write_plain(opening)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            if self._opener is None:
                self._buffer += data
                self._shake_hands()
                data = b""
            if self._opener is not None:
                for frame in self._opener.open(data):
                    if frame:
                        self._deliver(frame)
        except TransportError as error:
            self._give_up(error)
        except ValueError as error:  # what the frame says is nonsense
            self._give_up(FrameError(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(HandshakeError(Reason.CLOSED))
            self.opened.exception()  # nobody may be waiting
        if not self._ended.done():
            self._ended.set_result(None)
        self._wake_reader()

    # --- within -------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        while self._exchange is not None and (body := take_plain(self._buffer, MAX_PLAIN)) is not None:
            try:
                answer = self._exchange.send(body)
            except StopIteration as stop:
                self._begin(stop.value)
            else:
                self._write_plain(answer)

    def _begin(self, session: Session) -> None:
        if session.last:
            self._write_plain(session.last)
        self._exchange = None
        self.peer = session.peer
        self._sealer = Sealer(session.sending)
        self._opener = Opener(session.receiving, self._buffer)
        self.is_open = True
        self._timer = self._loop.call_later(PING, self._watch)
        if not self.opened.done():
            self.opened.set_result(None)

    def _give_up(self, error: TransportError) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.is_open:
            if self._on_trouble is not None:
                self._on_trouble(error)
        elif not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # nobody may be waiting
        if self._tells_why and isinstance(error, HandshakeError) and error.reason is not Reason.GARBAGE:
            self._write_plain(refusal(error.reason))
            transport.close()
        else:
            transport.abort()

    def _write_plain(self, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(plain(body))

    def _queue(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._unread += len(frame)
        if self._unread > MAX_UNREAD and not self._is_paused:
            self._pause(True)
        self._wake_reader()

    def _pause(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        if self._transport is not None and not self._transport.is_closing():
            if is_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _watch(self) -> None:
        """However late this is called, it counts one period: a busy process does not find its peers silent."""
        self._silent = 0 if self._heard or self._is_paused else self._silent + 1
        if self._silent >= SILENCE:
            self.abort()
            return
        if not self._spoke:
            self.send(b"")
        self._heard = self._spoke = False
        self._timer = self._loop.call_later(PING, self._watch)
