"""The same stream as Server-Sent Events, for pages without websockets: an async view, no Channels.

path("dref/events/", dref_django.live.sse.events)

GET /dref/events/?name=visits&prefix=shop.public.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseForbidden, StreamingHttpResponse

from dref_django import conf

from . import limits, origin, policy
from .connection import Connection
from .sessions import Login, session_key, user_of

MAX_ID: Final = 2048
"""Characters of an event's id. A client that holds more positions than fit is sent snapshots when it comes again."""
RETRY: Final = 1000
"""Milliseconds after which the browser connects again."""


async def events(request: HttpRequest, using: str = conf.DEFAULT_ALIAS) -> HttpResponseBase:
    """Streams the messages of docs/live.md about what `name` and `prefix` in the query ask for.

    Needs an ASGI server. The rights are those of the websocket; `Last-Event-ID` resumes.
    """
    if not isinstance(request, ASGIRequest):
        return HttpResponse("Server-Sent Events need an ASGI server.\n", status=501, content_type="text/plain")
    if request.method != "GET":
        return HttpResponse(status=405, headers={"Allow": "GET"})
    bounds = limits.configured()
    request.get_host()  # raises DisallowedHost
    if "Origin" in request.headers and not origin.is_allowed(request.scope, bounds.origins):
        return HttpResponseForbidden("This origin may not listen here.\n", content_type="text/plain")
    response = StreamingHttpResponse(_Stream(request, using, bounds).run(), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx
    return response


class _Stream:
    """One client. A message counts as received when the server asks for the next one."""

    def __init__(self, request: HttpRequest, using: str, bounds: limits.Limits) -> None:
        self._request, self._using, self._bounds = request, using, bounds
        self._key = session_key(getattr(request, "session", None))
        self._texts: asyncio.Queue[str | None] = asyncio.Queue(1)
        self._positions: dict[str, list[Any]] = {}

    async def run(self) -> AsyncIterator[str]:
        user = await self._load_user()
        connection = Connection(
            self._using, self._bounds, policy.configured(), user, self._load_user, self._texts.put, self._close
        )
        login = Login(self._key, connection)
        try:
            yield f"retry: {RETRY}\n\n"
            await connection.open()
            await connection.receive(self._watch())
            while (text := await self._texts.get()) is not None:
                message = json.loads(text)
                if message["type"] == "ping":
                    yield f"event: ping\ndata: {text}\n\n"
                    await connection.receive(json.dumps({"type": "pong", "ping": message["ping"]}))
                else:
                    yield self._event(message, text)
        finally:
            login.end()
            await connection.end()

    def _watch(self) -> str:
        query = self._request.GET
        message = {"type": "watch", "names": query.getlist("name"), "prefixes": query.getlist("prefix")}
        return json.dumps({**message, "resume": _resumed(self._request.headers.get("Last-Event-ID", ""))})

    def _event(self, message: dict[str, Any], text: str) -> str:
        name, version = message.get("name"), message.get("version")
        if name is None or version is None:
            return f"data: {text}\n\n"
        epoch = message.get("epoch", self._positions.get(name, [""])[0])
        self._positions[name] = [epoch, version]
        known = json.dumps(self._positions, separators=(",", ":"))
        return f"id: {known if len(known) <= MAX_ID else ''}\ndata: {text}\n\n"

    async def _load_user(self) -> Any:
        return await user_of(self._key, getattr(self._request, "user", None))

    async def _close(self, code: int) -> None:
        await self._texts.put(None)


def _resumed(last: str) -> dict[str, Any]:
    """The positions in a `Last-Event-ID`; none when it is not one of ours."""
    try:
        positions = json.loads(last) if len(last) <= MAX_ID else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(positions, dict):
        return {}
    return {
        name: position
        for name, position in positions.items()
        if isinstance(position, list) and [type(part) for part in position] == [str, int]
    }
