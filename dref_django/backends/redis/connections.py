"""Connections of the back end's own, for threads and for event loops.

Nothing here is sent twice: retries of redis-py are off, and an error says whether a byte may have left (`outcome.py`).
A connection goes back to its pool only after its whole answer was read; after anything else, a cancellation included,
it is closed. A pool is last in, first out, so that a burst's surplus connections are the ones that stay idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.exceptions import RedisError

from dref_django.backends.delivery import NotSent

from . import outcome
from .options import Server
from .wire import WORTH_COUNTING, LoopWire, Wire

Address: TypeAlias = tuple[str, int] | None
"""One node of a cluster; None for the one server that there is."""
SyncConnection: TypeAlias = Any
"""redis-py's; only half of it is typed."""
AsyncConnection: TypeAlias = Any
SENTINEL: Any = redis.sentinel.Sentinel
ASYNC_SENTINEL: Any = redis.asyncio.sentinel.Sentinel
ERRORS = (RedisError, OSError, TimeoutError)


def connection_arguments(server: Server, address: Address, timeout: float) -> dict[str, Any]:
    arguments = dict(server.arguments)
    if address is not None:
        arguments["host"], arguments["port"] = address
    # RESP2: no pushes between replies, and no HELLO.
    return {**arguments, "protocol": 2, "socket_connect_timeout": timeout}


def _connection_class(module: Any, server: Server) -> Any:
    if "path" in server.arguments:
        return module.UnixDomainSocketConnection
    return module.SSLConnection if server.tls else module.Connection


def open_connection(server: Server, address: Address, timeout: float) -> SyncConnection:
    """A new connection, greeted and ready, within about `timeout` seconds."""
    deadline = time.monotonic() + timeout
    try:
        if server.sentinels:
            address = _ask_sentinels(server, timeout)
        left = max(deadline - time.monotonic(), WORTH_COUNTING)
        arguments = connection_arguments(server, address, left)
        connection: SyncConnection = _connection_class(redis.connection, server)(**arguments, socket_timeout=left)
        connect = connection._connect
        connection._connect = lambda: _Hurried(connect(), deadline)
        connection.connect()
        del connection._connect
        connection._sock = connection._sock.socket
        connection._sock.settimeout(timeout)
    except ERRORS as error:
        raise outcome.before_sending(error, server.where) from error
    return connection


class _Hurried:
    """A socket whose reads all end by one moment: redis-py gives each of a handshake's replies the whole time limit."""

    def __init__(self, connected: Any, deadline: float) -> None:
        self.socket = connected
        self._deadline = deadline

    def recv(self, size: int) -> bytes:
        self.socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
        data: bytes = self.socket.recv(size)
        return data

    def recv_into(self, buffer: Any) -> int:
        self.socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
        size: int = self.socket.recv_into(buffer)
        return size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)


def _sentinel_arguments(server: Server, timeout: float) -> dict[str, Any]:
    """A Sentinel that does not answer leaves time for the others, and for the primary."""
    share = timeout / (len(server.sentinels) + 1)
    return {"socket_timeout": share, "retry": None, **server.sentinel_arguments}


def _ask_sentinels(server: Server, timeout: float) -> Address:
    sentinel = SENTINEL(server.sentinels, sentinel_kwargs=_sentinel_arguments(server, timeout))
    try:
        host, port = sentinel.discover_master(server.service)
        return host, port
    finally:
        for client in sentinel.sentinels:
            client.close()


async def aopen_connection(server: Server, address: Address, timeout: float) -> AsyncConnection:
    """The same on the running loop. Reads on it have no time limit of their own."""
    try:
        if server.sentinels:
            address = await _aask_sentinels(server, timeout)
        arguments = connection_arguments(server, address, timeout)
        connection: AsyncConnection = _connection_class(redis.asyncio.connection, server)(
            **arguments, socket_timeout=None
        )
        try:
            async with asyncio.timeout(timeout):
                await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise TimeoutError("no connection within the time limit") from error
            raise
    except ERRORS as error:
        raise outcome.before_sending(error, server.where) from error
    return connection


async def _aask_sentinels(server: Server, timeout: float) -> Address:
    sentinel = ASYNC_SENTINEL(server.sentinels, sentinel_kwargs=_sentinel_arguments(server, timeout))
    try:
        host, port = await sentinel.discover_master(server.service)
        return host, port
    finally:
        for client in sentinel.sentinels:
            await client.aclose()


class ThreadPool:
    """Connections to one server for the threads of one process.

    Taking and giving back an idle connection are single operations on a list, so they need no lock.
    """

    def __init__(self, server: Server, address: Address, max_connections: int) -> None:
        self._server = server
        self._address = address
        self._max = max_connections
        self._idle: list[Wire] = []
        self._closed = 0  # times
        self._open = 0
        self._waiting = 0
        self._freed = threading.Condition()

    def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        """Sends the packed commands and reads as many replies; errors the server answers with stand among them.

        Raises `NotSent`, `ReplyLost`, or at once what no retry can mend.
        """
        started, closed = time.monotonic(), self._closed
        wire = self._take(timeout)
        waited = time.monotonic() - started
        left = timeout if waited < WORTH_COUNTING else max(timeout - waited, WORTH_COUNTING)
        try:
            answers = wire.exchange(payload, replies, left)
        except ERRORS as error:
            self._drop(wire)
            raise outcome.after_sending(error, self._server.where) from error
        except BaseException:
            self._drop(wire)
            raise
        for answer in answers:
            if isinstance(answer, outcome.DEMOTED):
                self._drop(wire)
                self.close()
                return answers
        self._idle.append(wire)
        if closed != self._closed:  # looked at after the append, as `close` looks for idle ones after its count
            self._close_idle()
        elif self._waiting:
            with self._freed:
                self._freed.notify()
        return answers

    def _take(self, timeout: float) -> Wire:
        deadline = time.monotonic() + timeout
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                if self._may_open(deadline):
                    return self._open_one(deadline)
            else:
                if not wire.is_dead():
                    return wire
                self._drop(wire)

    def _may_open(self, deadline: float) -> bool:
        """Whether the caller is to open a connection; False when one may have become idle."""
        with self._freed:
            if self._open < self._max:
                self._open += 1
                return True
            self._waiting += 1
            try:
                if self._freed.wait_for(lambda: self._idle or self._open < self._max, deadline - time.monotonic()):
                    return False
            finally:
                self._waiting -= 1
        raise NotSent(f"all {self._max} connections are busy (MAX_CONNECTIONS)")

    def _open_one(self, deadline: float) -> Wire:
        left = max(deadline - time.monotonic(), WORTH_COUNTING)
        try:
            return Wire(open_connection(self._server, self._address, left), left)
        except BaseException:
            self._forget_one()
            raise

    def _drop(self, wire: Wire) -> None:
        wire.close()
        self._forget_one()

    def _forget_one(self) -> None:
        with self._freed:
            self._open -= 1
            self._freed.notify()

    def close(self) -> None:
        """Closes what is idle now, and what is in use when it comes back."""
        self._closed += 1
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._drop(self._idle.pop())


class LoopPool:
    """Connections to one server for the tasks of one event loop."""

    def __init__(self, server: Server, address: Address, max_connections: int) -> None:
        self._server = server
        self._address = address
        self._max = max_connections
        self._idle: list[LoopWire] = []
        self._closed = 0  # times
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        """As `ThreadPool.exchange`. A cancelled exchange closes its connection."""
        started, closed = time.monotonic(), self._closed
        wire = await self._take(timeout)
        try:
            async with asyncio.timeout(max(timeout - (time.monotonic() - started), 0.001)):
                answers = await wire.exchange(payload, replies)
        except ERRORS as error:
            await self._drop(wire)
            raise outcome.after_sending(error, self._server.where) from error
        except BaseException:
            await self._drop(wire)
            raise
        if any(isinstance(answer, outcome.DEMOTED) for answer in answers):
            await self._drop(wire)
            await self.close()
            return answers
        if closed != self._closed:
            await self._drop(wire)
            return answers
        self._idle.append(wire)
        self._wake_one()
        return answers

    async def _take(self, timeout: float) -> LoopWire:
        deadline = time.monotonic() + timeout
        while True:
            while self._idle:
                wire = self._idle.pop()
                if not wire.is_dead():
                    return wire
                await self._drop(wire)
            if self._open < self._max:
                break
            await self._wait_for_one(deadline)
        self._open += 1
        try:
            left = max(deadline - time.monotonic(), 0.001)
            return LoopWire(await aopen_connection(self._server, self._address, left))
        except BaseException:
            self._forget_one()
            raise

    async def _wait_for_one(self, deadline: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await turn
        except TimeoutError:
            raise NotSent(f"all {self._max} connections are busy (MAX_CONNECTIONS)") from None
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._wake_one()  # the turn was given to us, and we do not take it
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(turn)

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _drop(self, wire: LoopWire) -> None:
        self._forget_one()
        with contextlib.suppress(*ERRORS):
            await wire.close()

    def _forget_one(self) -> None:
        self._open -= 1
        self._wake_one()

    async def close(self) -> None:
        """As `ThreadPool.close`."""
        self._closed += 1
        idle, self._idle = self._idle, []
        for wire in idle:
            self._forget_one()
            with contextlib.suppress(*ERRORS):
                await wire.close(wait=True)


class LoopPools:
    """All pools of one event loop. They close with it: a loop that shuts down finalizes asynchronous generators."""

    def __init__(self, server: Server, max_connections: int) -> None:
        self._server = server
        self._max = max_connections
        self._pools: dict[Address, LoopPool] = {}
        self._lifeline: AsyncGenerator[None, None] | None = None

    async def pool(self, address: Address) -> LoopPool:
        if self._lifeline is None:
            self._lifeline = self._until_the_loop_ends()
            await anext(self._lifeline)
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = LoopPool(self._server, address, self._max)
        return pool

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        for pool in list(self._pools.values()):
            await pool.close()

    def close_soon(self) -> None:
        """Closes what is idle; called on the loop by `call_soon_threadsafe`."""
        self._closing = asyncio.ensure_future(self.close())
