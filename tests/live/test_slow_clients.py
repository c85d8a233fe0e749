"""Clients that do not keep up: bounded, conflated, dropped when they are dead, and no burden to the others."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from dref_django import Counter, DRef
from dref_django.live.connection import Connection
from dref_django.live.limits import Limits
from tests.live.client import TIMEOUT, OnlyTest

pytestmark = pytest.mark.asyncio


FIRST, SECOND = Counter("test.slow.a"), Counter("test.slow.b")


class Carrier:
    """Carries one connection. What it sends piles up in `sent`; a closed gate stalls it as a full socket would."""

    def __init__(self, *, answers_pings: bool = True, **limits: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.characters = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers_pings = answers_pings
        self._news = asyncio.Condition()
        self.connection = Connection(
            "default", Limits(**limits), OnlyTest(), None, self._load_user, self._send, self._close
        )

    async def __aenter__(self) -> Self:
        await self.connection.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.connection.end()

    async def _load_user(self) -> None:
        return None

    async def _send(self, text: str) -> None:
        await self.gate.wait()
        message = json.loads(text)
        self.characters += len(text)
        async with self._news:
            self.sent.append(message)
            self._news.notify_all()
        if message["type"] == "ping" and self._answers_pings:
            self.connection.spawn(self.connection.receive(json.dumps({"type": "pong", "ping": message["ping"]})))

    async def _close(self, code: int) -> None:
        self.closed.set_result(code)

    async def say(self, type_: str, **message: Any) -> None:
        await self.connection.receive(json.dumps({"type": type_, **message}))

    def values(self, name: str) -> list[Any]:
        return [json.loads(each["text"]) for each in self.sent if each.get("name") == name and "text" in each]

    async def until(self, name: str, value: Any) -> None:
        async with asyncio.timeout(TIMEOUT), self._news:
            await self._news.wait_for(lambda: self.values(name)[-1:] == [value])


@pytest.fixture
async def prompt() -> AsyncIterator[Carrier]:
    """Somebody who keeps up, watching two counters."""
    async with Carrier() as carrier:
        await carrier.say("watch", names=["test.slow.a", "test.slow.b"])
        yield carrier


async def test_stalled_client_has_one_item_a_name_and_ends_on_the_last_value(prompt: Carrier) -> None:
    async with Carrier() as slow:
        await slow.say("watch", names=["test.slow.a", "test.slow.b"])
        await slow.until("test.slow.a", 0)
        await slow.until("test.slow.b", 0)
        slow.gate.clear()
        for number in range(1, 501):
            await FIRST.aset(number)
            await SECOND.aset(-number)
            if number % 100 == 0:  # the other one is on time all the while
                await prompt.until("test.slow.a", number)
                await prompt.until("test.slow.b", -number)
        slow.gate.set()
        await slow.until("test.slow.a", 500)
        await slow.until("test.slow.b", -500)
        # Each name: the snapshot, at most one change on its way when the gate closed, and the newest.
        assert len(slow.values("test.slow.a")) <= 3
        assert len(slow.values("test.slow.b")) <= 3


async def test_client_that_acknowledges_nothing_is_sent_no_more_than_the_window() -> None:
    large = DRef[str]("test.large")
    end = Counter("test.end")
    async with Carrier(answers_pings=False, window=10_000) as silent, Carrier(window=10_000) as prompt:
        for carrier in (silent, prompt):
            await carrier.say("watch", names=["test.large"])
        for number in range(100):
            value = chr(ord("a") + number % 26) * 1000 + str(number)
            await large.aset(value)
            await prompt.until("test.large", value)
        assert silent.characters < 10_000 + 1_500  # a message that began within the window may end beyond it
        last = max(message["ping"] for message in silent.sent if message["type"] == "ping")
        await silent.say("pong", ping=last)
        await silent.until("test.large", value)
        await silent.say("watch", names=["test.end"])
        await silent.until("test.end", await end.aget())


async def test_client_that_answers_no_pings_is_dropped() -> None:
    async with Carrier(answers_pings=False, heartbeat=0.05) as dead:
        async with asyncio.timeout(TIMEOUT):
            assert await dead.closed == 4408
        assert dead.sent[-1]["code"] == "unresponsive"


async def test_client_whose_socket_is_stuck_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dref_django.live.connection.CLOSE_TIMEOUT", 0.05)
    async with Carrier(heartbeat=0.05) as stuck:
        stuck.gate.clear()
        async with asyncio.timeout(TIMEOUT):
            assert await stuck.closed == 4408


async def test_client_that_answers_pings_stays() -> None:
    async with Carrier(heartbeat=0.05) as alive, Carrier(answers_pings=False, heartbeat=0.2) as dead:
        async with asyncio.timeout(TIMEOUT):
            await dead.closed  # in this time the other one has been pinged many times
        assert not alive.closed.done()
        assert len([message for message in alive.sent if message["type"] == "ping"]) >= 3


async def test_client_that_asks_and_takes_no_answers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dref_django.live.connection.CLOSE_TIMEOUT", 0.05)
    async with Carrier(rate=1e6, burst=1000) as greedy:
        greedy.gate.clear()
        for _ in range(300):
            await greedy.say("unwatch", names=["test.a"])
        async with asyncio.timeout(TIMEOUT):
            assert await greedy.closed == 4429
