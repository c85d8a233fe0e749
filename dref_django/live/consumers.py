"""The websocket consumer for Channels."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_out

from dref_django import conf

from . import limits, origin, policy, wire
from .connection import Connection

try:
    from channels.auth import get_user
    from channels.db import database_sync_to_async
    from channels.generic.websocket import AsyncWebsocketConsumer
except ImportError as error:
    raise ImportError(
        "Live pages need Channels, which is not installed: pip install 'dref-django[channels]'"
    ) from error


class DRefConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Serves the protocol of docs/live.md to one websocket. Stand it behind `AuthMiddlewareStack`.

    `DRefConsumer.as_asgi(using="fast")` serves the refs of another alias.
    """

    using = conf.DEFAULT_ALIAS
    # The fan-out does not go through a channel layer, so no socket takes a queue in one.
    channel_layer_alias = "dref_django does not use one"

    def __init__(self, using: str = conf.DEFAULT_ALIAS) -> None:
        super().__init__()
        self.using = using
        self._connection: Connection | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also when the server cancels us, and when a handler raised
            if self._connection is not None:
                _forget(self, self._key)
                await self._connection.end()

    async def connect(self) -> None:
        bounds = limits.configured()
        if not origin.is_allowed(self.scope, bounds.origins):
            await self.close()  # before it was accepted: the handshake is answered with 403
            return
        offered = self.scope.get("subprotocols") or []
        supported = not offered or wire.SUBPROTOCOL in offered
        await self.accept(wire.SUBPROTOCOL if offered and supported else None)
        if not supported:
            text = f"this server speaks {wire.SUBPROTOCOL}, not {', '.join(offered)}"
            await self.send(wire.error("unsupported-protocol", text[:200]))
            await self.close(wire.UNSUPPORTED)
            return
        user = await self._load_user()
        self._connection = Connection(
            self.using, bounds, policy.configured(), user, self._load_user, self.send, self.close
        )
        self._loop, self._key = asyncio.get_running_loop(), _session_key(self.scope)
        if self._key:
            _by_session.setdefault(self._key, set()).add(self)
        await self._connection.open()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._connection is not None:
            await self._connection.receive(text_data if text_data is not None else "")

    def log_out(self) -> None:
        """The session has ended; from any thread. What only its user may see is not sent any more."""
        # In a context of its own: the view that logs out may occupy the one thread in which the policy has to be asked,
        # and asgiref takes what inherits its context for a deadlock.
        context = contextvars.Context()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the socket with it
            self._loop.call_soon_threadsafe(self._forget_user, context=context)

    def _forget_user(self) -> None:
        if self._connection is not None:
            self._connection.spawn(self._connection.change_user(AnonymousUser()))

    async def _load_user(self) -> Any:
        """The user as the session or the database has it now, not as it was when the socket opened."""
        key = _session_key(self.scope)
        if key:
            store = import_module(settings.SESSION_ENGINE).SessionStore
            return await get_user({"session": store(key)})
        return await _read_again(self.scope.get("user"))


_by_session: dict[str, set[DRefConsumer]] = {}


def _forget(consumer: DRefConsumer, key: str) -> None:
    consumers = _by_session.get(key, set())
    consumers.discard(consumer)
    if not consumers:
        _by_session.pop(key, None)


def _session_key(scope: Any) -> str:
    return getattr(scope.get("session"), "session_key", None) or ""


@database_sync_to_async  # type: ignore[untyped-decorator]
def _read_again(user: Any) -> Any:
    """A user that some other middleware than Django's sessions has put into the scope."""
    if user is None or user.pk is None:
        return AnonymousUser() if user is None else user
    return user._meta.default_manager.filter(pk=user.pk).first() or AnonymousUser()


def _logged_out(*, request: Any, **_: object) -> None:
    """The sockets of a session end their user's rights at once in this process; in others with the next recheck."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    for consumer in list(_by_session.get(key or "", ())):
        consumer.log_out()


user_logged_out.connect(_logged_out, dispatch_uid="dref_django.live")
