"""For projects with consumers of their own: refs in them, and changes of refs in channel-layer groups.

class Shop(DRefConsumerMixin, AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.accept()
        await self.dref_watch("shop.visits")

    async def dref_changed(self, change):
        await self.send_json({change.name: change.value})
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from dref_django import conf
from dref_django.elections import Election
from dref_django.exceptions import DRefError, LockLost
from dref_django.naming import parsed_pattern
from dref_django.refs import watch
from dref_django.streams import Change, Stream

from . import policy
from .policy import WATCH
from .sessions import session_key, user_of
from .view import view_of

if TYPE_CHECKING:
    _Consumer = Any
else:
    _Consumer = object

logger = logging.getLogger("dref_django")

RETRY: Final = 1.0
"""Seconds until the bridge tries again what a channel layer did not take."""


class DRefConsumerMixin(_Consumer):  # type: ignore[misc]
    """Before `AsyncWebsocketConsumer`, `AsyncJsonWebsocketConsumer` or another asynchronous consumer.

    What is watched is let go of with the connection. The consumer decides what it watches: where that comes from the
    client, ask `dref_allows` first.
    """

    _dref_tasks: dict[tuple[str, str], asyncio.Task[None]] | None = None

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().__call__(*args, **kwargs)
        finally:
            for pattern, using in list(self._dref_tasks or ()):
                await self.dref_unwatch(pattern, using=using)

    async def dref_watch(self, pattern: str, *, using: str = conf.DEFAULT_ALIAS) -> None:
        """Has `dref_changed` called with the value now and after each change; the newest when it does not keep up.

        `pattern`: as in `dref_django.watch`. Raises `Unavailable` when the value cannot be read.
        """
        if self._dref_tasks is None:
            self._dref_tasks = {}
        if (pattern, using) not in self._dref_tasks:
            stream = watch(pattern, using=using)
            await stream.__aenter__()
            self._dref_tasks[pattern, using] = asyncio.get_running_loop().create_task(self._dref_listen(stream))

    async def dref_unwatch(self, pattern: str, *, using: str = conf.DEFAULT_ALIAS) -> None:
        """Safe to call for what is not watched."""
        task = (self._dref_tasks or {}).pop((pattern, using), None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    async def dref_changed(self, change: Change[Any]) -> None:
        """To be overridden. Called for one pattern one after the other; what it raises is logged."""

    async def dref_allows(self, ref_name: str, action: str = WATCH) -> bool:
        """Whether `DREF_POLICY` lets the connection's user, as it is now, do that."""
        user = await user_of(session_key(self.scope.get("session")), self.scope.get("user"))
        return ref_name in await policy.allowed(policy.configured(), user, [ref_name], action)

    async def _dref_listen(self, stream: Stream[Any]) -> None:
        async with stream:
            async for change in stream:
                try:
                    await self.dref_changed(change)
                except Exception:
                    logger.exception("dref: dref_changed of %s raised", type(self).__name__)


class GroupBridge:
    """Sends the changes of refs into a group of a channel layer, for consumers that are there already.

        GroupBridge("shop.*", group="shop").start()

    Start it in every process: an election lets one of them send at a time. A message has the `type` (default
    "dref.changed", so consumers have a method `dref_changed`), `name`, `value` (the JSON view), `version` and
    `deleted`. Who takes over sends the values of then once more; a channel layer that is slow gets the newest ones.
    """

    def __init__(
        self,
        pattern: str,
        group: str,
        *,
        type: str = "dref.changed",  # noqa: A002 - the field's name in Channels
        layer: str = "default",
        using: str = conf.DEFAULT_ALIAS,
    ) -> None:
        parsed_pattern(pattern)  # raises for one that cannot be watched
        self.pattern, self.group, self.type = pattern, group, type
        self.layer, self.using = layer, using
        self._election = Election(f"dref.bridge:{layer}:{group}"[:200], using=using)

    def start(self) -> threading.Thread:
        """Runs it on a daemon thread with a loop of its own, to the end of the process."""
        thread = threading.Thread(target=lambda: asyncio.run(self.run()), name=f"dref-bridge-{self.group}", daemon=True)
        thread.start()
        return thread

    async def run(self) -> None:
        """Sends whenever this process is the elected one; until cancelled."""
        while True:
            try:
                async with self._election.lead(timeout=None):
                    await self._send_all()
            except LockLost:
                logger.info("dref: the bridge into %r is another process's from now on", self.group)
            except DRefError as error:
                logger.warning("dref: the bridge into %r waits: %s", self.group, error)
                await asyncio.sleep(RETRY)

    async def _send_all(self) -> None:
        async with watch(self.pattern, using=self.using) as stream:
            async for change in stream:
                while not await self._sent(change):  # noqa: ASYNC110 - nothing tells when a layer is back
                    await asyncio.sleep(RETRY)

    async def _sent(self, change: Change[Any]) -> bool:
        from channels.layers import get_channel_layer

        try:
            message = {"type": self.type, "name": change.name, "value": view_of(change.value)}
        except DRefError as error:
            logger.warning("dref: %r is not sent into %r: %s", change.name, self.group, error)
            return True
        try:
            layer = get_channel_layer(self.layer)
            await layer.group_send(self.group, {**message, "version": change.version, "deleted": change.deleted})
        except Exception:
            logger.exception("dref: the channel layer %r does not take %r", self.layer, change.name)
            return False
        return True
