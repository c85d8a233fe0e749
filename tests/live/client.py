"""A client of the live protocol for tests, the way dref.js is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from channels.testing import WebsocketCommunicator

from dref_django.live.consumers import DRefConsumer
from dref_django.live.policy import WATCH, Policy
from dref_django.live.wire import SUBPROTOCOL

TIMEOUT = 10.0  # seconds
ORIGIN = "http://testserver"


@dataclass
class Person:
    """A user as the default policy asks it, without a database."""

    is_active: bool = True
    is_staff: bool = True
    permissions: set[str] = field(default_factory=lambda: {"dref_django.view_ref"})
    pk: int | None = None

    def has_perm(self, permission: str) -> bool:
        return permission in self.permissions


class OnlyTest(Policy):
    """Everybody may watch what is named `test.`..., except `test.secret...`."""

    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        return action == WATCH and ref_name.startswith("test.") and not ref_name.startswith("test.secret")

    def allows_prefix(self, user: Any, prefix: str, action: str) -> bool:
        return action == WATCH and prefix == "test.open."


class Refused(Exception):
    """The handshake was."""


class Closed(Exception):
    """The server has closed the websocket, with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """One websocket. Keeps the texts that it was sent, and applies splices to them."""

    def __init__(
        self,
        user: Any = None,
        *,
        origin: str | None = ORIGIN,
        host: str = "testserver",
        subprotocols: tuple[str, ...] = (SUBPROTOCOL,),
        cookie: str = "",
        application: Any = None,
    ) -> None:
        headers = [(b"host", host.encode()), (b"cookie", cookie.encode())]
        if origin is not None:
            headers.append((b"origin", origin.encode()))
        self._communicator = WebsocketCommunicator(
            application or _as_user(user), "/dref/ws/", headers=headers, subprotocols=list(subprotocols)
        )
        self.subprotocol: str | None = None
        self.texts: dict[str, str] = {}
        self.positions: dict[str, list[Any]] = {}

    async def __aenter__(self) -> Self:
        accepted, self.subprotocol = await self._communicator.connect(TIMEOUT)
        if not accepted:
            raise Refused
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if exc_info[0] is None:
            await self._communicator.disconnect(timeout=TIMEOUT)
        else:
            self._communicator.stop(exceptions=False)

    async def say(self, type_: str, **message: Any) -> None:
        await self.say_text(json.dumps({"type": type_, **message}))

    async def say_text(self, text: str) -> None:
        await self._communicator.send_to(text_data=text)

    async def hear(self) -> dict[str, Any]:
        """The next message, pings included. Raises `Closed`."""
        output = await self._communicator.receive_output(TIMEOUT)
        if output["type"] == "websocket.close":
            raise Closed(output.get("code", 1000))
        message: dict[str, Any] = json.loads(output["text"])
        message["length"] = len(output["text"])
        self._apply(message)
        return message

    async def expect(self, type_: str, **fields: Any) -> dict[str, Any]:
        """The next message, which is of that type and has those fields; pings are answered on the way."""
        while (message := await self.hear())["type"] == "ping" != type_:
            await self.say("pong", ping=message["ping"])
        assert {"type": type_, **fields}.items() <= message.items(), message
        return message

    async def value(self, name: str) -> Any:
        """The next message brings a value of that name: the value."""
        message = await self.hear()
        assert message.get("name") == name, message
        return json.loads(self.texts[name])

    async def until(self, name: str, value: Any) -> None:
        """Returns when the client holds that value."""
        while name not in self.texts or json.loads(self.texts[name]) != value:
            message = await self.hear()
            if message["type"] == "ping":
                await self.say("pong", ping=message["ping"])

    async def watch(self, *names: str, **more: Any) -> dict[str, Any]:
        await self.say("watch", names=list(names), **more)
        return await self.expect("watching")

    def _apply(self, message: dict[str, Any]) -> None:
        name = message.get("name", "")
        if message["type"] == "snapshot":
            self.texts[name] = message["text"]
            self.positions[name] = [message["epoch"], message["version"]]
        elif message["type"] == "splice":
            text = self.texts[name]
            assert message["base"] == self.positions[name][1]
            self.texts[name] = text[: message["start"]] + message["insert"] + text[message["end"] :]
            assert len(self.texts[name]) == message["size"]
            self.positions[name][1] = message["version"]


def _as_user(user: Any) -> Callable[..., Any]:
    application = DRefConsumer.as_asgi()

    async def with_user(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "user": user}, receive, send)

    return with_user
