"""Refs in a project's own consumers, and in channel-layer groups."""

import asyncio
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from dref_django import Counter, backends
from dref_django.hub import Hub
from dref_django.live.mixin import DRefConsumerMixin, GroupBridge
from dref_django.streams import Change, get_hub
from tests.listening import until
from tests.live.client import TIMEOUT

pytestmark = pytest.mark.asyncio


class Shop(DRefConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Watches what it is told to watch, as the policy allows."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if "unwatch" in content:
            await self.dref_unwatch(content["unwatch"])
        elif await self.dref_allows(content["watch"]):
            await self.dref_watch(content["watch"])
        else:
            await self.send_json({"refused": content["watch"]})

    async def dref_changed(self, change: Change[Any]) -> None:
        if change.value == 13:
            raise RuntimeError("unlucky")
        await self.send_json({change.name: change.value})


class Plain(DRefConsumerMixin, AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.accept()
        await self.dref_watch("test.a")

    async def dref_changed(self, change: Change[Any]) -> None:
        await self.send(text_data=f"{change.name}={change.value}")


async def test_own_consumer_hears_the_value_and_each_change_until_it_unwatches(hub: Hub) -> None:
    counter = Counter("test.a")
    socket = WebsocketCommunicator(Shop.as_asgi(), "/")
    assert (await socket.connect(TIMEOUT))[0]
    await socket.send_json_to({"watch": "test.a"})
    assert await socket.receive_json_from(TIMEOUT) == {"test.a": 0}
    await counter.aincrement()
    assert await socket.receive_json_from(TIMEOUT) == {"test.a": 1}
    await socket.send_json_to({"unwatch": "test.a"})
    await until(lambda: "test.a" not in hub.cells)
    await socket.send_json_to({"watch": "test.secret"})
    assert await socket.receive_json_from(TIMEOUT) == {"refused": "test.secret"}
    await socket.disconnect(timeout=TIMEOUT)


class Both(Plain):
    """Watches one name on two back ends."""

    async def connect(self) -> None:
        await super().connect()
        await self.dref_watch("test.a", using="fast")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.dref_unwatch("test.a", using="fast")


async def test_one_name_is_watched_on_several_back_ends(settings: Any) -> None:
    settings.DREF_BACKENDS = {"fast": "memory"}
    here, there = Counter("test.a"), Counter("test.a", using="fast")
    await here.aset(1)
    await there.aset(2)
    watched = get_hub(backends.get_backend("fast")).cells
    socket = WebsocketCommunicator(Both.as_asgi(), "/")
    assert (await socket.connect(TIMEOUT))[0]
    assert {await socket.receive_from(TIMEOUT) for _ in range(2)} == {"test.a=1", "test.a=2"}
    await there.aincrement()
    assert await socket.receive_from(TIMEOUT) == "test.a=3"
    await socket.send_to("no more of those")
    await until(lambda: "test.a" not in watched)
    await here.aincrement()
    assert await socket.receive_from(TIMEOUT) == "test.a=2"
    await socket.disconnect(timeout=TIMEOUT)


async def test_error_in_a_handler_is_logged_and_the_next_change_comes(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter("test.a")
    await counter.aset(13)
    socket = WebsocketCommunicator(Shop.as_asgi(), "/")
    assert (await socket.connect(TIMEOUT))[0]
    await socket.send_json_to({"watch": "test.a"})
    await until(lambda: "unlucky" in caplog.text)
    await counter.aincrement()
    assert await socket.receive_json_from(TIMEOUT) == {"test.a": 14}
    await socket.disconnect(timeout=TIMEOUT)


async def test_connection_that_ends_lets_go_of_what_it_watched(hub: Hub) -> None:
    counter = Counter("test.a")
    await counter.aset(3)
    socket = WebsocketCommunicator(Plain.as_asgi(), "/")
    assert (await socket.connect(TIMEOUT))[0]
    assert await socket.receive_from(TIMEOUT) == "test.a=3"
    await socket.disconnect(timeout=TIMEOUT)
    await until(lambda: "test.a" not in hub.cells)


async def test_bridge_sends_each_change_once_into_the_group_however_many_processes_run_it(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("shop", channel)
    counter = Counter("test.shop.visits")
    await counter.aset(5)
    bridges = [asyncio.create_task(GroupBridge("test.shop.*", group="shop").run()) for _ in range(2)]
    try:
        async with asyncio.timeout(TIMEOUT):
            told = await layer.receive(channel)
            assert told.pop("version") > 0
            assert told == {"type": "dref.changed", "name": "test.shop.visits", "value": 5, "deleted": False}
            await counter.aincrement()
            assert (await layer.receive(channel))["value"] == 6
            await counter.adelete()
            assert (await layer.receive(channel))["deleted"] is True
    finally:
        for bridge in bridges:
            bridge.cancel()
        await asyncio.wait(bridges)


async def test_bridge_tries_again_what_the_layer_did_not_take(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dref_django.live.mixin.RETRY", 0.01)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("shop", channel)
    group_send = layer.group_send

    async def away(group: str, message: Any) -> None:
        layer.group_send = group_send
        raise ConnectionError("the layer is away")

    layer.group_send = away
    await Counter("test.shop.visits").aset(7)
    bridge = asyncio.create_task(GroupBridge("test.shop.visits", group="shop").run())
    try:
        async with asyncio.timeout(TIMEOUT):
            assert (await layer.receive(channel))["value"] == 7
    finally:
        bridge.cancel()
        await asyncio.wait([bridge])
    assert "the layer is away" in caplog.text
