"""Connections of the back end's own, for threads and for event loops.

Nothing here is sent twice: retries of redis-py are off, and an error says whether a byte may have left (`outcome.py`).
A connection goes back to its pool only after its whole answer was read; after anything else, a cancellation included,
it is closed. A pool is last in, first out, so that a burst's surplus connections are the ones that stay idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.exceptions import RedisError, ResponseError

from dref_django.backends.delivery import NotSent

from . import outcome
from .options import Server

Address: TypeAlias = tuple[str, int] | None
"""One node of a cluster; None for the one server that there is."""
SyncConnection: TypeAlias = Any
"""redis-py's; only half of it is typed."""
AsyncConnection: TypeAlias = Any
SENTINEL: Any = redis.sentinel.Sentinel
ASYNC_SENTINEL: Any = redis.asyncio.sentinel.Sentinel
ERRORS = (RedisError, OSError, TimeoutError)
WORTH_COUNTING = 0.05
"""Seconds: a shorter wait for a connection does not change the exchange's time limit, as that is a system call."""


def connection_arguments(server: Server, address: Address, timeout: float) -> dict[str, Any]:
    arguments = dict(server.arguments)
    if address is not None:
        arguments["host"], arguments["port"] = address
    # RESP2: no pushes between replies, and no handshake when there is neither a password nor a database to select.
    return {**arguments, "protocol": 2, "socket_connect_timeout": timeout}


def _connection_class(module: Any, server: Server) -> Any:
    if "path" in server.arguments:
        return module.UnixDomainSocketConnection
    return module.SSLConnection if server.tls else module.Connection


def open_connection(server: Server, address: Address, timeout: float) -> SyncConnection:
    """A new connection, greeted and ready, within about `timeout` seconds."""
    try:
        if server.sentinels:
            address = _ask_sentinels(server, timeout)
        arguments = connection_arguments(server, address, timeout)
        connection: SyncConnection = _connection_class(redis.connection, server)(**arguments, socket_timeout=timeout)
        connection.connect()
    except ERRORS as error:
        raise outcome.before_sending(error, server.where) from error
    return connection


def _ask_sentinels(server: Server, timeout: float) -> Address:
    sentinel = SENTINEL(
        server.sentinels,
        sentinel_kwargs={"socket_timeout": timeout, "retry": None, **server.sentinel_arguments},
    )
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
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
    except ERRORS as error:
        raise outcome.before_sending(error, server.where) from error
    return connection


async def _aask_sentinels(server: Server, timeout: float) -> Address:
    sentinel = ASYNC_SENTINEL(
        server.sentinels,
        sentinel_kwargs={"socket_timeout": timeout, "retry": None, **server.sentinel_arguments},
    )
    try:
        host, port = await sentinel.discover_master(server.service)
        return host, port
    finally:
        for client in sentinel.sentinels:
            await client.aclose()


class _Wire:
    """A connection and what tells cheaply that the server has closed it meanwhile."""

    __slots__ = ("connection", "poll", "timeout")

    def __init__(self, connection: SyncConnection, timeout: float) -> None:
        self.connection = connection
        self.timeout = timeout
        self.poll = select.poll()
        self.poll.register(connection._sock, select.POLLIN)

    def is_dead(self) -> bool:
        """An idle connection has nothing to read, except its end. One system call."""
        return bool(self.poll.poll(0))

    def limit(self, timeout: float) -> None:
        if timeout != self.timeout:
            self.timeout = timeout
            self.connection._sock.settimeout(timeout)


class ThreadPool:
    """Connections to one server for the threads of one process."""

    def __init__(self, server: Server, address: Address, max_connections: int) -> None:
        self._server = server
        self._address = address
        self._max = max_connections
        self._idle: list[_Wire] = []
        self._open = 0
        self._freed = threading.Condition(threading.Lock())

    def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        """Sends the packed commands and reads as many replies; errors the server answers with stand among them.

        Raises `NotSent`, `ReplyLost`, or at once what no retry can mend.
        """
        started = time.monotonic()
        wire = self._take(timeout)
        connection = wire.connection
        waited = time.monotonic() - started
        answers: list[Any] = []
        try:
            wire.limit(timeout if waited < WORTH_COUNTING else max(timeout - waited, WORTH_COUNTING))
            connection.send_packed_command((payload,), check_health=False)
            for _ in range(replies):
                try:
                    answers.append(connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    answers.append(error)
        except ERRORS as error:
            self._drop(wire)
            raise outcome.after_sending(error, self._server.where) from error
        except BaseException:
            self._drop(wire)
            raise
        if any(isinstance(answer, outcome.DEMOTED) for answer in answers):
            self._drop(wire)
            self.close_idle()
            return answers
        # As nobody waits while a connection is free, only a full pool needs to be told.
        with self._freed:
            self._idle.append(wire)
            if self._open >= self._max:
                self._freed.notify()
        return answers

    def _take(self, timeout: float) -> _Wire:
        while True:
            with self._freed:
                if self._idle:
                    wire = self._idle.pop()
                elif self._open < self._max:
                    self._open += 1
                    break
                elif self._freed.wait_for(lambda: self._idle or self._open < self._max, timeout):
                    continue
                else:
                    raise NotSent(f"all {self._max} connections are busy (MAX_CONNECTIONS)")
            if not wire.is_dead():
                return wire
            self._drop(wire)
        try:
            return _Wire(open_connection(self._server, self._address, timeout), timeout)
        except BaseException:
            self._forget_one()
            raise

    def _drop(self, wire: _Wire) -> None:
        wire.connection.disconnect()
        self._forget_one()

    def _forget_one(self) -> None:
        with self._freed:
            self._open -= 1
            self._freed.notify()

    def close_idle(self) -> None:
        with self._freed:
            idle, self._idle = self._idle, []
        for wire in idle:
            self._drop(wire)


class LoopPool:
    """Connections to one server for the tasks of one event loop."""

    def __init__(self, server: Server, address: Address, max_connections: int) -> None:
        self._server = server
        self._address = address
        self._max = max_connections
        self._idle: list[AsyncConnection] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        """As `ThreadPool.exchange`. A cancelled exchange closes its connection."""
        started = time.monotonic()
        connection = await self._take(timeout)
        answers: list[Any] = []
        try:
            async with asyncio.timeout(max(timeout - (time.monotonic() - started), 0.001)):
                await connection.send_packed_command((payload,), check_health=False)
                for _ in range(replies):
                    try:
                        answers.append(await connection.read_response(disable_decoding=True))
                    except ResponseError as error:
                        answers.append(error)
        except ERRORS as error:
            await self._drop(connection)
            raise outcome.after_sending(error, self._server.where) from error
        except BaseException:
            await self._drop(connection)
            raise
        if any(isinstance(answer, outcome.DEMOTED) for answer in answers):
            await self._drop(connection)
            await self.close_idle()
            return answers
        self._idle.append(connection)
        self._wake_one()
        return answers

    async def _take(self, timeout: float) -> AsyncConnection:
        deadline = time.monotonic() + timeout
        while True:
            while self._idle:
                connection = self._idle.pop()
                reader = connection._reader
                if connection.is_connected and reader is not None and not reader.at_eof():
                    return connection
                await self._drop(connection)
            if self._open < self._max:
                break
            await self._wait_for_one(deadline)
        self._open += 1
        try:
            return await aopen_connection(self._server, self._address, max(deadline - time.monotonic(), 0.001))
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

    async def _drop(self, connection: AsyncConnection) -> None:
        self._forget_one()
        with contextlib.suppress(*ERRORS):
            await connection.disconnect(nowait=True)

    def _forget_one(self) -> None:
        self._open -= 1
        self._wake_one()

    async def close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            self._forget_one()
            with contextlib.suppress(*ERRORS):
                await connection.disconnect()


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
            await pool.close_idle()

    def close_soon(self) -> None:
        """Closes what is idle; called on the loop by `call_soon_threadsafe`."""
        self._closing = asyncio.ensure_future(self.close())
