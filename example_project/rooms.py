"""Who is here: everybody with the dashboard open is in one room, over all processes."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from channels.db import database_sync_to_async

from dref_django import DRefError, Presence
from dref_django.live import limits
from dref_django.live.consumers import DRefConsumer

from .policy import ROOM

VISITOR: Final = "visitor"
room = Presence(ROOM, ttl=limits.configured().presence_lease)


class DashboardConsumer(DRefConsumer):
    """The stream of changes, whose visitor is in the room as long as it is open."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        visitor = await _visitor_of(scope)
        joined = False
        try:
            if visitor:
                with contextlib.suppress(DRefError):  # the page is of use without it
                    await room.ajoin(visitor)
                    joined = True
            await super().__call__(scope, receive, send)
        finally:
            if joined:
                room.leave_soon(visitor)


@database_sync_to_async  # type: ignore[untyped-decorator]
def _visitor_of(scope: Any) -> str:
    return str(scope["session"].get(VISITOR, ""))
