"""One LISTEN connection a feed, on the background loop, however many names are watched.

It sends itself a canary every heartbeat; when two have not come back, or the connection drops, the sink hears of it
and the feed connects again, with growing pauses. Nobody is told that the feed is up before everything is listened to.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import random
from collections.abc import Callable, Collection
from typing import Final

import psycopg
from django.core.exceptions import ImproperlyConfigured

from dref_django.backends.base import Params, Sink
from dref_django.exceptions import DRefError
from dref_django.protocol import Notice, Wake

from .address import Address
from .channels import Channels, canary, parse
from .pools import before_database_changes, databases_change, greet
from .session import Broken, Limit, Refused, Session, aconnect

logger = logging.getLogger("dref_django")

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
CHANGE_CHECK: Final = 0.05
"""Seconds between two looks whether Django is done with creating, cloning or dropping a database."""
CLOSE_TIMEOUT: Final = 2.0


class Ear(Session):
    """A session whose reader stays on the loop: what comes in without being asked for is heard at once."""

    def hear(self, heard: Callable[[str], None]) -> asyncio.Event:
        """Calls back with the payload of each notification; the event is set when the connection is of no use."""
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self._gone = asyncio.Event()
        self._ready = asyncio.Event()
        self._loop.add_reader(self._fd, self._readable)
        return self._gone

    def _readable(self) -> None:
        try:
            self.pgconn.consume_input()
            self._deliver()
        except psycopg.Error:
            self.deafen()
        self._ready.set()

    def _deliver(self) -> None:
        while (notification := self.pgconn.notifies()) is not None:
            self._heard(notification.extra.decode())

    async def ask(self, sql: str, timeout: float) -> None:
        """Runs statements that have no result. Raises Refused or Broken; not for two tasks at once."""
        steps = self.script(sql)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._ready.clear()
                    next(steps)  # a few hundred bytes, which the kernel takes at once: only the reply is waited for
                    self._deliver()
                    await self._ready.wait()
        except StopIteration:
            self._deliver()
        except BaseException as error:
            self.deafen()  # the reply is still to come: nothing else can be asked
            if isinstance(error, TimeoutError):
                raise Broken("no reply within the time limit") from None
            raise

    def deafen(self) -> None:
        self._loop.remove_reader(self._fd)
        self._gone.set()


class PostgresFeed:
    """The feed of one sink. Everything here runs on the background loop, but for `yield_database`."""

    def __init__(self, address: Address, channels: Channels, params: Params, node: str, sink: Sink) -> None:
        self._address = address
        self._channels = channels
        self._params = params
        self._own_channel = channels.of_node(node)
        self._sink = sink
        self._names: set[str] = set()
        self._prefixes: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ear: Ear | None = None
        self._order = asyncio.Lock()
        self._listening: set[str] = set()
        self._is_up = False
        self._epoch = ""
        self._echo = 0  # number of the newest canary that came back
        self._asked = 0

    # --- Feed ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        before_database_changes(self)
        pause = FIRST_PAUSE
        told = False
        while True:
            try:
                await self._serve()
            except (Broken, Refused, DRefError, ImproperlyConfigured) as error:
                reason = str(error)
            except Exception as error:
                logger.exception("dref_django: the listener on PostgreSQL failed")
                reason = repr(error)
            finally:
                was_up, self._is_up = self._is_up, False
                self._hang_up()
            if was_up:
                pause, told = FIRST_PAUSE, False
            if not told:
                told = True
                logger.info("dref_django: the listener on PostgreSQL is down: %s", reason)
                self._sink.down(reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (spreads reconnects)
            while databases_change():  # noqa: ASYNC110 - Django tells of its beginning only
                await asyncio.sleep(CHANGE_CHECK)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def subscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        self._names.update(names)
        self._prefixes.update(prefixes)
        await self._adjust()

    async def unsubscribe(self, names: Collection[str], prefixes: Collection[str]) -> None:
        self._names.difference_update(names)
        self._prefixes.difference_update(prefixes)
        await self._adjust()

    # --- one connection -----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Listens until the connection fails; raises its end."""
        limit = Limit.of(self._params.timeout)
        ear = Ear(await aconnect(self._address.direct_params(self._params.timeout), limit.end))
        try:
            await ear.await_(greet(ear, self._address), limit)
            epoch = await ear.await_(ear.script("SELECT dref_epoch()"), limit)
            if databases_change():
                raise Broken("the database is being created, cloned or dropped")
            gone = ear.hear(self._payload)
        except BaseException:
            ear.close()
            raise
        self._ear, self._listening = ear, set()
        self._echo = self._asked
        await self._adjust()
        if gone.is_set():
            raise Broken("the connection was closed")
        self._is_up = True
        self._epoch = (epoch.get_value(0, 0) or b"").decode()
        self._sink.up(self._epoch)
        while True:
            await self._sing(ear)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._params.heartbeat):
                    await gone.wait()
                raise Broken("the connection was closed")

    async def _sing(self, ear: Ear) -> None:
        if self._asked - self._echo >= 2:
            raise Broken("two messages to itself did not come back")
        self._asked += 1
        async with self._order:
            await ear.ask(f"NOTIFY {self._own_channel}, '{canary(self._asked)}'", self._params.timeout)

    async def _adjust(self) -> None:
        """Makes the server's list of channels the one that is wanted."""
        async with self._order:
            if self._ear is None:
                return
            wanted = self._wanted()
            orders = [f"LISTEN {channel}" for channel in sorted(wanted - self._listening)]
            orders += [f"UNLISTEN {channel}" for channel in sorted(self._listening - wanted)]
            if orders:
                with contextlib.suppress(Broken, Refused):  # the next connection listens to what is wanted then
                    await self._ear.ask("; ".join(orders), self._params.timeout)
                    self._listening = wanted

    def _wanted(self) -> set[str]:
        names = self._channels.all if self._prefixes else map(self._channels.of_name, self._names)
        return {self._own_channel, *names}

    def _payload(self, payload: str) -> None:
        try:
            items = parse(payload)
        except ValueError:
            logger.warning("dref_django: ignored a notification that no dref_django sent")
            return
        notices: list[Notice] = []
        for item in items:
            if isinstance(item, int):
                self._echo = max(self._echo, item)
            elif not self._is_up:
                pass  # `up` is still to come, and whoever hears it reads everything
            elif isinstance(item, Notice):
                if self._watches(item.name):
                    notices.append(item)
            elif isinstance(item, Wake):
                self._sink.wake(item)
            else:
                self._sink.up(self._epoch)
        if notices:
            self._sink.notice(notices)

    def _watches(self, name: str) -> bool:
        return name in self._names or any(map(name.startswith, self._prefixes))

    # --- the end of a connection --------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.deafen()
            ear.close()

    def yield_database(self) -> None:
        """From any thread: closes the connection. The next one waits until `databases_change` is over."""
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running():
            return
        if loop is _running_loop():
            self._hang_up()
            return
        done = concurrent.futures.Future[None]()

        def hang_up() -> None:
            self._hang_up()
            done.set_result(None)

        loop.call_soon_threadsafe(hang_up)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            done.result(CLOSE_TIMEOUT)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
