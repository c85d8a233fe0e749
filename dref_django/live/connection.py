"""One client: what it asks, what it may, what it watches. Knows the protocol, not what carries it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from dref_django.catalog import is_reserved
from dref_django.exceptions import DRefError

from . import policy as policies
from . import wire, writes
from .counting import tally_of
from .fanout import get_fanout
from .limits import Limits
from .outbox import Outbox, Overrun
from .policy import COMPARE_AND_SET, INCREMENT, PRESENCE, SET, WATCH, Policy
from .rooms import Rooms, room_of

logger = logging.getLogger("dref_django")

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the last answers and the closing handshake of a client that is dropped."""

Send = Callable[[str], Awaitable[None]]
Close = Callable[[int], Awaitable[None]]
LoadUser = Callable[[], Awaitable[Any]]


class Connection:
    """The server's end of the protocol for one client, on one event loop.

    `send` and `close` reach the client; `load_user` reads the user anew. The carrier awaits `open`, then `receive` for
    every message, one after the other, and `end` when the client is gone, however it went.
    """

    def __init__(
        self, alias: str, limits: Limits, policy: Policy, user: Any, load_user: LoadUser, send: Send, close: Close
    ) -> None:
        self._alias = alias
        self._fanout = get_fanout(alias)
        self._tally = tally_of(alias)
        self._limits = limits
        self._policy = policy
        self._user = user
        self._load_user = load_user
        self._send, self._close = send, close
        self._outbox = Outbox(send, limits, lambda: self._fanout.stale, self._restart)
        self._rooms = Rooms(alias, limits.presence_lease, policy)
        self._names: set[str] = set()
        self._prefixes: set[str] = set()
        self._resumed: set[str] = set()
        """Names under a prefix that the client held before: watched by themselves, as they may be gone by now."""
        self._tokens = float(limits.burst)
        self._refilled = time.monotonic()
        self._closing = False
        self._rights = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._tally.came(self)
        self._outbox.reply(wire.hello(self._limits.heartbeat))
        self._sender = self.spawn(self._run_outbox())
        self.spawn(self._beat())
        self.spawn(self._recheck())
        self.spawn(self._join_own_rooms())

    async def end(self) -> None:
        """Lets go of everything. Safe to call twice."""
        self._closing = True
        self._tally.went(self)
        self._drop(set(self._names), set(self._prefixes))
        self._rooms.leave_all()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def subscriptions(self) -> int:
        """Names and prefixes that the client watches."""
        return len(self._names) + len(self._prefixes)

    @property
    def rooms(self) -> int:
        return len(self._rooms)

    @property
    def is_slow(self) -> bool:
        return self._outbox.is_full

    # --- what the client says -----------------------------------------------------------------------------------

    async def receive(self, text: str) -> None:
        if self._closing:
            return
        if len(text) > self._limits.max_message_size:
            limit = self._limits.max_message_size
            return self._fail(wire.TOO_BIG, "too-large", f"a message has up to {limit} characters, not {len(text)}")
        try:
            request = wire.parse(text)
            if isinstance(request, wire.Pong) and self._outbox.pong(request.ping):
                return
            if not self._may_ask():
                return self._fail(wire.TOO_MANY_REQUESTS, "rate", f"up to {self._limits.rate:g} messages a second")
            await self._answer(request)
        except wire.BadRequest as error:
            if not self._may_ask():
                return self._fail(wire.TOO_MANY_REQUESTS, "rate", f"up to {self._limits.rate:g} messages a second")
            self._reply(wire.error(error.code, str(error), error.request))

    def _may_ask(self) -> bool:
        now = time.monotonic()
        refill = (now - self._refilled) * self._limits.rate
        self._refilled, self._tokens = now, min(self._tokens + refill, self._limits.burst) - 1
        return self._tokens >= 0

    async def _answer(self, request: wire.Request) -> None:
        match request:
            case wire.Watch():
                async with self._rights:
                    await self._watch(request)
            case wire.Unwatch(names, prefixes, request_id):
                names_left, prefixes_left = self._names & set(names), self._prefixes & set(prefixes)
                self._drop(names_left, prefixes_left)
                self._reply(wire.unwatched(sorted(names_left), sorted(prefixes_left), request_id))
            case wire.Resync(names):
                for name in names:
                    entry = self._fanout.entries.get(name)
                    if entry is not None and self._watches(name):
                        self._outbox.resync(entry)
            case wire.Increment():
                await self._change(request, INCREMENT)
            case wire.Set():
                await self._change(request, SET)
            case wire.CompareAndSet():
                await self._change(request, COMPARE_AND_SET)
            case wire.Join():
                async with self._rights:
                    await self._join(request)
            case wire.Leave(rooms, request_id):
                self._reply(wire.left(self._rooms.leave(rooms), request_id))
            case wire.Pong():
                pass  # one that nobody waits for

    async def _change(self, change: wire.Change, action: str) -> None:
        name = change.name
        may = not is_reserved(name) and await policies.allowed(self._policy, self._user, [name], action)
        if self._closing:
            return
        if not may:
            return self._reply(wire.error("forbidden", "you may not change this", change.id, names=[name]))
        try:
            done = await writes.perform(change, self._alias)
        except DRefError as error:
            return self._reply(wire.error(writes.code_of(error), str(error), change.id, names=[name]))
        except Exception:  # of the ref's own type, say
            logger.exception("dref: a page could not change %r", name)
            text = "it was not changed; the server's log says why"
            return self._reply(wire.error("failed", text, change.id, names=[name]))
        self._reply(wire.written(name, done, change.id))

    async def _watch(self, request: wire.Watch) -> None:
        names = [name for name in request.names if name not in self._names]
        prefixes = [prefix for prefix in request.prefixes if prefix not in self._prefixes]
        limit = self._limits.max_subscriptions
        if self.subscriptions + self.rooms + len(names) + len(prefixes) > limit:
            text = f"a client watches up to {limit} names and prefixes (MAX_SUBSCRIPTIONS)"
            return self._reply(wire.error("too-many", text, request.id, names=names, prefixes=prefixes))
        may = await self._watchable(self._user, names)
        may_prefixes = await policies.allowed_prefixes(self._policy, self._user, prefixes, WATCH)
        if self._closing:
            return
        self._forbid(
            [name for name in names if name not in may], [p for p in prefixes if p not in may_prefixes], request.id
        )
        granted = [name for name in request.names if name in may or name in self._names]
        granted_prefixes = [prefix for prefix in request.prefixes if prefix in may_prefixes or prefix in self._prefixes]
        self._reply(wire.watching(granted, granted_prefixes, request.id))
        self._begin(may, may_prefixes, request)

    async def _watchable(self, user: Any, names: Iterable[str]) -> set[str]:
        """Those that the user may watch: refs, and rooms whose members it may see."""
        rooms = {room: name for name in names if (room := room_of(name)) is not None}
        refs = [name for name in names if room_of(name) is None]
        seen = await policies.allowed(self._policy, user, rooms, PRESENCE)
        return {rooms[room] for room in seen} | await policies.allowed(self._policy, user, refs, WATCH)

    async def _join(self, request: wire.Join) -> None:
        wanted = [room for room in request.rooms if room not in self._rooms]
        if self.subscriptions + self.rooms + len(wanted) > self._limits.max_subscriptions:
            text = f"a client is in up to {self._limits.max_subscriptions} rooms, less what it watches"
            return self._reply(wire.error("too-many", text, request.id, rooms=wanted))
        try:
            joined = await self._rooms.join(self._user, wanted)
        except DRefError as error:
            return self._reply(wire.error(writes.code_of(error), str(error), request.id, rooms=wanted))
        except Exception:  # of the policy's own
            logger.exception("dref: a page could not join its rooms")
            text = "you have not joined; the server's log says why"
            return self._reply(wire.error("failed", text, request.id, rooms=wanted))
        if refused := [room for room in wanted if room not in joined]:
            self._reply(wire.error("forbidden", "you may not join", request.id, rooms=refused))
        self._reply(wire.joined([room for room in request.rooms if room in self._rooms], request.id))

    async def _join_own_rooms(self) -> None:
        try:
            rooms = await policies.rooms(self._policy, self._user)
        except Exception:
            logger.exception("dref: the policy raised when it was asked for the rooms of a page")
            return
        if rooms:
            async with self._rights:
                await self._join(wire.Join(tuple(rooms)))

    def _begin(self, names: set[str], prefixes: set[str], request: wire.Watch) -> None:
        if self._fanout.ended:
            return self._restart()
        self._names |= names
        self._prefixes |= prefixes
        self._resumed -= names
        for name, position in request.resume.items():
            if name not in self._names:
                if not self._watches(name) or len(self._resumed) >= self._limits.max_names:
                    continue
                self._resumed.add(name)
            if not self._outbox.holds(name):
                self._outbox.resume(name, position)
        for name in names | (self._resumed & request.resume.keys()):
            self._fanout.watch(self._outbox, name=name)
        for prefix in prefixes:
            self._fanout.watch(self._outbox, prefix=prefix)

    def _watches(self, name: str) -> bool:
        return name in self._names or any(name.startswith(prefix) for prefix in self._prefixes)

    def _drop(self, names: set[str], prefixes: set[str]) -> None:
        self._names -= names
        self._prefixes -= prefixes
        if prefixes:
            left = {name for name in self._resumed if not self._watches(name)}
            self._resumed -= left
            names = names | left
        for name in names:
            self._fanout.unwatch(self._outbox, name=name)
        for prefix in prefixes:
            self._fanout.unwatch(self._outbox, prefix=prefix)
        for name in {*names, *(self._outbox.names if prefixes else ())}:
            if not self._watches(name):
                self._outbox.forget(name)

    def _forbid(self, names: list[str], prefixes: list[str], request: wire.RequestId = None) -> None:
        if names or prefixes:
            text = "you may not watch this"
            self._reply(wire.error("forbidden", text, request, names=names, prefixes=prefixes))

    # --- who may, as time goes by -------------------------------------------------------------------------------

    async def change_user(self, user: Any) -> None:
        """The client has another user now (logged out, lost a permission): the policy is asked again about all."""
        async with self._rights:
            self._user = user
            names, prefixes = set(self._names), set(self._prefixes)
            lost = names - await self._watchable(user, names)
            lost_prefixes = prefixes - await policies.allowed_prefixes(self._policy, user, prefixes, WATCH)
            self._drop(lost & self._names, lost_prefixes & self._prefixes)
            self._forbid(sorted(lost), sorted(lost_prefixes))
            try:
                lost_rooms = await self._rooms.change_user(user)
            except Exception:
                logger.exception("dref: the rooms of a websocket cannot be kept; the client is dropped")
                return self._fail(wire.TRY_LATER, "unavailable", "your rooms cannot be kept now")
            if lost_rooms:
                self._reply(wire.error("forbidden", "you may not be here any more", rooms=lost_rooms))

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(self._limits.recheck)
            try:
                user = await self._load_user()
            except Exception:
                logger.exception("dref: the user of a websocket cannot be read again; the client is dropped")
                return self._fail(wire.TRY_LATER, "unavailable", "your permission cannot be checked now")
            await self.change_user(user)

    # --- heartbeat and the end ----------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._limits.heartbeat)
            if not self._outbox.beat():
                return self._fail(wire.UNRESPONSIVE, "unresponsive", "pings were not answered")

    async def _run_outbox(self) -> None:
        try:
            await self._outbox.run()
        except Exception as error:  # what a server raises on a closed socket is its own affair; `end` follows
            logger.debug("dref: a websocket ended while it was sent to: %s", error)

    def _reply(self, message: str) -> None:
        try:
            self._outbox.reply(message)
        except Overrun:
            self._fail(wire.TOO_MANY_REQUESTS, "rate", "answers are not taken")

    def _restart(self) -> None:
        self._fail(wire.RESTARTING, "restarting", "connect again")

    def _fail(self, close_code: int, code: str, text: str) -> None:
        """Says why, then closes. Nothing more is read or sent."""
        if not self._closing:
            self._closing = True
            self._tally.drop(code)
            self.spawn(self._hang_up(close_code, wire.error(code, text)))

    async def _hang_up(self, close_code: int, farewell: str) -> None:
        self._drop(set(self._names), set(self._prefixes))
        self._rooms.leave_all()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                self._sender.cancel()
                await asyncio.wait([self._sender])
                await self._outbox.flush()
                await self._send(farewell)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._close(close_code)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it for this client, at most until the client is gone."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
