"""The websocket consumer for Channels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.conf import settings

from dref_django import conf

from . import limits, origin, policy, wire
from .connection import Connection
from .sessions import Login, session_key, user_of

try:
    from channels.auth import get_user
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
                self._login.end()
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
        self._login = Login(session_key(self.scope.get("session")), self._connection)
        await self._connection.open()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._connection is not None:
            await self._connection.receive(text_data if text_data is not None else "")

    async def _load_user(self) -> Any:
        """The user as the session or the database has it now, not as it was when the socket opened."""
        key = session_key(self.scope.get("session"))
        if key:
            store = import_module(settings.SESSION_ENGINE).SessionStore
            return await get_user({"session": store(key)})
        return await user_of("", self.scope.get("user"))
