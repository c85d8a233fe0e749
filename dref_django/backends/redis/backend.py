"""The truth lives in Redis (or Valkey): one server, a primary found through Sentinel, or a Redis Cluster.

A batch is one call of a Lua script, so it is atomic, and the notice of a change is published by the same step. What is
said to the server is written once, in `conversation.py`; `send` holds it in the caller's thread, `asend` on the running
loop. Linearizable on one primary; what a fail-over of asynchronous replication loses is lost here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from redis.exceptions import RedisError

from dref_django.backends.base import Backend, Params, Sink
from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.exceptions import DRefError
from dref_django.protocol import MUTATIONS, Command, Reply, Scan, ScanLeases

from . import diagnosis, facts
from .cluster import Topology
from .connections import Address, LoopPools, ThreadPool, aopen_connection
from .conversation import Conversation, Conversations, Exchange, Request
from .keys import Keys
from .listener import RedisFeed
from .options import read_options
from .wire import LoopWire

if TYPE_CHECKING:
    from django.core.checks import CheckMessage

T = TypeVar("T")
LEAST_TIMEOUT = 0.001
NONSENSE = (DRefError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, StopIteration)
"""What comes of reading an answer that no script of ours gave, or that shows damaged fields."""
LEFT_TO_THE_PARENT: list[object] = []
"""What a forked child inherited and must not close: an asyncio transport would do so when it is collected."""


class RedisBackend(Backend):
    """Options: see `options.py`; `docs/format.md` tells what is stored."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.options = read_options(params)
        self.server = self.options.server
        self.keys = Keys(params.key_prefix, self.server.database)
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._topology = Topology(self.server, self.params.timeout) if self.server.cluster else None
        self.talk = Conversations(self.keys, self.options, self._topology)
        self._pool = ThreadPool(self.server, None, self.options.max_connections)
        self._node_pools: dict[Address, ThreadPool] = {None: self._pool}
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPools] = WeakKeyDictionary()
        self._layout_known = False
        self._direct = False  # whether `send` may take its short cut

    # --- in the caller's thread ---------------------------------------------------------------------------------

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        if self._pid != os.getpid():
            self.after_fork()
        deadline = time.monotonic() + timeout
        try:
            if self._direct and commands and not isinstance(commands[0], (Scan, ScanLeases)):
                # The fast path: one script call on one connection, no generator between.
                call = self.talk.short_cut(commands, now) or self.talk.call(commands, now)
                answer = self._pool.exchange(call.script.call(call.arguments), 1, timeout)[0]
                if isinstance(answer, RedisError):
                    replies = self.hold(self.talk.settle(call, answer, None), deadline - time.monotonic())
                else:
                    replies = call.decode(answer)
                if replies is not None:
                    return replies
                return self.hold(self.talk.whole_way(commands, now), deadline - time.monotonic())
            if not self._layout_known:
                self.hold(self.talk.layout(), timeout)
                self._note_layout()
            left = deadline - time.monotonic()
            return self.hold(self.talk.batch(commands, now, left), left)
        except NONSENSE as error:
            raise self._about(commands, error) from error

    def _about(self, commands: Sequence[Command], error: Exception) -> Exception:
        """Names what is damaged, where the error does not say more than that something is."""
        if isinstance(error, DRefError) and type(error) is not DRefError:
            return error
        names = ", ".join(sorted({repr(getattr(command, "name", "a scan")) for command in commands}))
        if isinstance(error, DRefError):
            return DRefError(f"{names}: {error}")
        what = f"{self.server.where} gave an answer that is none of ours ({type(error).__name__}: {error})"
        return (
            ReplyLost(what)
            if any(isinstance(command, MUTATIONS) for command in commands)
            else DRefError(f"{names}: {what}")
        )

    def _note_layout(self) -> None:
        self._layout_known = True
        self._direct = not self.server.cluster and not self.options.wait_replicas

    def hold(self, conversation: Conversation[T], timeout: float) -> T:
        """Holds a conversation in this thread."""
        deadline = time.monotonic() + timeout
        try:
            request = next(conversation)
            while True:
                request = conversation.send(self._satisfy(request, max(deadline - time.monotonic(), LEAST_TIMEOUT)))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _satisfy(self, request: Request, timeout: float) -> Any:
        if not isinstance(request, Exchange):
            return self._load_topology()
        try:
            return self._pool_of(request.address).exchange(request.payload, request.replies, timeout)
        except (NotSent, ReplyLost):
            self._suspect_topology()
            raise

    def _pool_of(self, address: Address) -> ThreadPool:
        pool = self._node_pools.get(address)
        if pool is None:
            with self._lock:
                pool = self._node_pools.setdefault(
                    address, ThreadPool(self.server, address, self.options.max_connections)
                )
        return pool

    def _load_topology(self) -> None:
        if self._topology is not None:
            self._topology.load()

    def _suspect_topology(self) -> None:
        if self._topology is not None:
            self._topology.mark_stale()

    # --- on the running loop ------------------------------------------------------------------------------------

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        if self._pid != os.getpid():
            self.after_fork()
        deadline = time.monotonic() + timeout
        try:
            if not self._layout_known:
                await self.ahold(self.talk.layout(), timeout)
                self._note_layout()
            left = deadline - time.monotonic()
            return await self.ahold(self.talk.batch(commands, now, left), left)
        except NONSENSE as error:
            raise self._about(commands, error) from error

    async def ahold(self, conversation: Conversation[T], timeout: float) -> T:
        """Holds a conversation on the running loop."""
        deadline = time.monotonic() + timeout
        try:
            request = next(conversation)
            while True:
                left = max(deadline - time.monotonic(), LEAST_TIMEOUT)
                request = conversation.send(await self._asatisfy(request, left))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _asatisfy(self, request: Request, timeout: float) -> Any:
        if not isinstance(request, Exchange):
            return await self._aload_topology(timeout)
        try:
            pool = await self._loop_pools().pool(request.address)
            return await pool.exchange(request.payload, request.replies, timeout)
        except (NotSent, ReplyLost):
            self._suspect_topology()
            raise

    async def _aload_topology(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await asyncio.to_thread(self._load_topology)
        except TimeoutError as error:
            raise NotSent(f"{self.server.where}: its nodes do not answer") from error

    def _loop_pools(self) -> LoopPools:
        loop = asyncio.get_running_loop()
        pools = self._loops.get(loop)
        if pools is None:
            with self._lock:
                # A loop that ended without `shutdown_asyncgens` has left its connections to the garbage collector.
                for ended in [other for other in self._loops if other.is_closed()]:
                    del self._loops[ended]
                pools = self._loops[loop] = LoopPools(self.server, self.options.max_connections)
        return pools

    async def open_listener(self) -> LoopWire:
        """A connection of its own for a feed; on a cluster to any primary, which hears what all others publish."""
        address = await self.ahold(self.talk.any_primary(), self.params.timeout)
        try:
            return LoopWire(await aopen_connection(self.server, address, self.params.timeout))
        except NotSent:
            self._suspect_topology()
            raise

    # --- the rest of the contract -------------------------------------------------------------------------------

    def feed(self, sink: Sink) -> RedisFeed:
        return RedisFeed(self, sink)

    def close(self) -> None:
        if self._pid != os.getpid():
            self.after_fork()
        with self._lock:
            loops = list(self._loops.items())
            pools = list(self._node_pools.values())
        for pool in pools:
            pool.close()
        for loop, loop_pools in loops:
            with contextlib.suppress(RuntimeError):  # it has ended; one that does not run closes them when it ends
                loop.call_soon_threadsafe(loop_pools.close_soon)

    def after_fork(self) -> None:
        LEFT_TO_THE_PARENT.extend(self._loops.values())
        self._start_anew()

    def slot(self, name: str) -> object:
        return self.keys.tag(name) if self.server.cluster else None

    def check(self) -> list[CheckMessage]:
        return diagnosis.check(self)

    def facts(self) -> dict[str, Any]:
        return facts.facts(self)
