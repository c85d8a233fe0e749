"""Server-Sent Events: the stream of the websocket from a plain async view, under the same rights."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.sessions.backends.db import SessionStore
from django.http import StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from django.test import Client as HttpClient

from dref_django import Counter, DRef
from dref_django.live.sse import events
from tests.live.client import TIMEOUT, Person

pytestmark = pytest.mark.asyncio


class Events:
    """What an EventSource is told."""

    def __init__(self, response: StreamingHttpResponse) -> None:
        self._chunks: AsyncIterator[Any] = response.streaming_content  # type: ignore[assignment]
        self.last_id = ""

    async def hear(self) -> dict[str, Any]:
        while True:
            async with asyncio.timeout(TIMEOUT):
                chunk = (await anext(self._chunks)).decode()
            fields = dict(line.split(": ", 1) for line in chunk.strip().splitlines() if ": " in line)
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                message: dict[str, Any] = json.loads(fields["data"])
                return message

    async def expect(self, type_: str, **fields: Any) -> dict[str, Any]:
        while (message := await self.hear())["type"] == "ping" != type_:
            pass
        assert {"type": type_, **fields}.items() <= message.items(), message
        return message


@asynccontextmanager
async def listening(query: str, user: Any = None, *, session: Any = None, **headers: str) -> AsyncIterator[Events]:
    request = AsyncRequestFactory().get(f"/dref/events/?{query}", headers=headers)
    request.user = user
    if session is not None:
        request.session = session
    response = await events(request)
    assert isinstance(response, StreamingHttpResponse), response
    assert response["Content-Type"] == "text/event-stream"
    stream = Events(response)
    try:
        await stream.expect("hello")
        yield stream
    finally:
        await stream._chunks.aclose()  # type: ignore[attr-defined]


async def test_brings_the_snapshot_then_every_change() -> None:
    text = DRef("test.text", default="a" * 100)
    async with listening("name=test.text&prefix=test.open.") as stream:
        await stream.expect("watching", names=["test.text"], prefixes=["test.open."])
        await stream.expect("snapshot", name="test.text", deleted=True)
        await text.aset("a" * 99 + "b")
        await stream.expect("splice", name="test.text", insert="b")
        await Counter("test.open.count").aincrement()
        await stream.expect("snapshot", name="test.open.count", text="1")


async def test_last_event_id_resumes_all_that_the_page_holds() -> None:
    first, second = Counter("test.a"), Counter("test.b")
    await first.aset(1)
    async with listening("name=test.a&name=test.b") as stream:
        await stream.expect("watching")
        await stream.expect("snapshot")
        await stream.expect("snapshot")
        held = stream.last_id
    await second.aset(2)
    async with listening("name=test.a&name=test.b", **{"Last-Event-ID": held}) as stream:
        await stream.expect("watching")
        told = [await stream.hear(), await stream.hear()]
        assert {(message["type"], message["name"]) for message in told} == {
            ("current", "test.a"),
            ("snapshot", "test.b"),
        }


@pytest.mark.parametrize("held", ["", "7", "{", "[]", '{"test.a": 1}', '{"test.a": ["e", true]}', "[" * 5000])
async def test_foreign_last_event_id_is_ignored(held: str) -> None:
    async with listening("name=test.a", **{"Last-Event-ID": held}) as stream:
        await stream.expect("watching")
        await stream.expect("snapshot", name="test.a")


async def test_what_the_policy_denies_is_an_error_in_the_stream() -> None:
    async with listening("name=test.a&name=test.secret&name=%00") as stream:
        await stream.expect("error", code="invalid-name")
    async with listening("name=test.a&name=test.secret") as stream:
        await stream.expect("error", code="forbidden", names=["test.secret"])
        await stream.expect("watching", names=["test.a"])


async def test_heartbeat_tells_that_the_server_is_there_and_a_slow_page_stays(limits: Any) -> None:
    limits(HEARTBEAT=0.05)
    async with listening("name=test.a") as stream:
        await stream.expect("watching")
        await stream.expect("snapshot")
        for _ in range(3):
            await stream.expect("ping")


async def test_page_of_another_origin_is_refused(settings: Any) -> None:
    factory = AsyncRequestFactory()
    refused = await events(factory.get("/dref/events/", headers={"Origin": "http://evil.example"}))
    assert refused.status_code == 403
    async with listening("name=test.a", Origin="http://testserver") as stream:
        await stream.expect("watching")


async def test_other_methods_and_servers_without_asgi_are_refused() -> None:
    assert (await events(AsyncRequestFactory().post("/dref/events/"))).status_code == 405
    assert (await events(RequestFactory().get("/dref/events/"))).status_code == 501


@pytest.mark.usefixtures("default_policy")
async def test_default_policy_denies_strangers_and_lets_staff_listen() -> None:
    async with listening("name=anything", Person(is_staff=False)) as stream:
        await stream.expect("error", code="forbidden")
    async with listening("name=anything", Person()) as stream:
        await stream.expect("watching", names=["anything"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("default_policy")
async def test_logging_out_ends_the_rights_at_once() -> None:
    def log_in() -> HttpClient:
        user = get_user_model().objects.create_user("staff", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_ref"))
        http = HttpClient()
        http.force_login(user)
        return http

    http = await sync_to_async(log_in)()
    session = SessionStore(http.cookies[django_settings.SESSION_COOKIE_NAME].value)
    async with listening("name=anything", session=session) as stream:
        await stream.expect("watching", names=["anything"])
        await stream.expect("snapshot")
        await sync_to_async(http.logout)()
        await stream.expect("error", code="forbidden", names=["anything"])
