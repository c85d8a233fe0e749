"""The Lua scripts against the model: with `now` given, replies and events are those of `Store`, number for number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgpack
import pytest
import redis

from dref_django.backends.redis import RedisBackend
from dref_django.backends.redis.listener import decode_notice
from dref_django.protocol import (
    GRAVE,
    INT_MAX,
    INT_MIN,
    KEEP,
    RESERVATION,
    Acquire,
    Add,
    Break,
    Check,
    Command,
    Delete,
    Expire,
    Find,
    Inspect,
    Notice,
    Patch,
    Read,
    Release,
    Renew,
    Reply,
    Scan,
    ScanLeases,
    Splice,
    Wake,
    Write,
    check_batch,
)
from dref_django.store import Event, Store

NAMES = ("a", "b{}", "b%7B", "gruppe\x1fé", "gruppe\x1f", "ünïcode/☃ *?[x]", "gruppe")
TIMES = (0, 1, 1000, RESERVATION, GRAVE // 2, GRAVE, GRAVE + 1)
OWNERS = ("node/1", "node/2", "other/1", "")
AMOUNTS = (0, 1, -1, 7, INT_MAX, INT_MIN, 2**53, 2**53 + 1, INT_MAX + 1, 2**64)
STEPS = 400


class Events:
    """Listens to everything a back end publishes."""

    def __init__(self, backend: RedisBackend, url: str) -> None:
        connect: Any = redis.Redis.from_url
        self._client = connect(url)
        self._pubsub = self._client.pubsub()
        self._opening = backend.keys.channels.split("@")[0]
        self._keys = backend.keys
        self._pubsub.psubscribe(f"{self._opening}@*")
        self._pubsub.get_message(timeout=5)

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()

    def take(self) -> list[Event]:
        """All since the last call: a mark published now comes after them."""
        self._client.publish(f"{self._opening}@mark", b"")
        events: list[Event] = []
        while True:
            message: Any = self._pubsub.get_message(timeout=5)
            channel = message["channel"].decode()
            if channel.endswith("@mark"):
                return events
            if channel.startswith(self._keys.wakes):
                name, owner = msgpack.unpackb(message["data"])
                assert channel == self._keys.wakes + owner.split("/")[0]
                events.append(Wake(name, owner))
            else:
                events.append(decode_notice(channel.removeprefix(self._keys.channels), message["data"]))


@pytest.fixture
def events(backend: RedisBackend, redis_server: Any) -> Iterator[Events]:
    listening = Events(backend, redis_server.url)
    yield listening
    listening.close()


class Chooser:
    """Random commands that often meet the state they are about."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.versions: list[int] = [0]
        self.tokens: list[int] = [0]
        self.ops: list[bytes] = [b""]

    def pick(self, choices: Any) -> Any:
        return self.random.choice(choices)

    def name(self) -> str:
        return str(self.pick(NAMES))

    def expect(self) -> int | None:
        return self.pick((None, 0, self.versions[-1], self.pick(self.versions[-5:])))  # type: ignore[no-any-return]

    def op(self) -> bytes:
        if self.random.random() < 0.3:
            return b""
        self.ops.append(self.random.randbytes(8))
        return self.ops[-1]

    def data(self) -> int | bytes | Splice:
        size = self.pick((0, 1, 10, 300))
        whole = self.random.randbytes(size)
        start = self.random.randrange(-1, 12)
        splice = Splice(start, start + self.random.randrange(-1, 8), whole)
        return self.pick((whole, whole, splice, splice, self.random.randrange(-5, 5), INT_MAX, INT_MIN))  # type: ignore[no-any-return]

    def ttl(self) -> Any:
        return self.pick((None, None, KEEP, KEEP, 1, 1500, GRAVE, -3, 0))

    def mutation(self, name: str) -> Command:
        match self.random.randrange(4):
            case 0:
                return Write(name, self.data(), self.expect(), self.ttl(), self.op())
            case 1:
                return Add(name, self.pick(AMOUNTS), self.pick((0, 0, 5, -8, INT_MIN)), self.op())
            case 2:
                return Delete(name, self.expect(), self.op())
            case _:
                return Expire(name, self.pick((None, 1, 1500, GRAVE, 0)), self.op())

    def lease(self) -> Command:
        name, owner, token = self.name(), self.pick(OWNERS[:3]), self.pick((0, *self.tokens[-4:]))
        match self.random.randrange(6):
            case 0 | 1:
                wait = self.pick((0, 1, 1000, RESERVATION, GRAVE))
                return Acquire(name, owner, self.pick((1000, RESERVATION, GRAVE)), wait, self.pick(("", '{"é": 1}')))
            case 2:
                return Renew(name, owner, token, self.pick((1000, GRAVE)))
            case 3:
                return Release(name, self.pick(OWNERS), token, self.pick((0, 0, 1000)))
            case 4:
                return Break(name, token)
            case _:
                return Inspect(name)

    def entry(self) -> Command:
        match self.random.randrange(7):
            case 0:
                return Read(self.name(), self.pick((None, *self.versions[-3:])))
            case 1:
                return Find(self.name(), self.pick(self.ops[-30:]))
            case 2:
                return Check(self.name(), self.expect() or 0)
            case _:
                return self.mutation(self.name())

    def batch(self) -> list[Command]:
        make = self.lease if self.random.random() < 0.35 else self.entry
        while True:
            commands = [make() for _ in range(self.pick((1, 1, 1, 2, 3)))]
            try:
                check_batch(commands)
            except ValueError:
                continue
            return commands


class LeaseChooser(Chooser):
    """One lease that is often held, seldom awaited, and mostly released by its holder: where the short cuts lead."""

    def batch(self) -> list[Command]:
        owner, token = self.pick(OWNERS), self.pick((0, self.tokens[-1], self.tokens[-1], 5))
        match self.random.randrange(6):
            case 0 | 1:
                wait = self.pick((0, 0, 0, 0, 1, RESERVATION, GRAVE))
                return [Acquire("a", owner or "n", self.pick((1, RESERVATION, GRAVE)), wait, self.pick(("", "é")))]
            case 2 | 3 | 4:
                return [Release("a", owner, token, self.pick((0, 0, 0, 1000)))]
            case _:
                return [Inspect("a")]


def scanned(execute: Any, command: type[Scan] | type[ScanLeases], prefix: str, limit: int) -> list[Any]:
    rows: list[Any] = []
    after = ""
    while True:
        page = execute(command(prefix, after, limit))
        rows += page.page
        if not page.cursor:
            return rows
        after = page.cursor


def execute_one(backend: RedisBackend, now: int, command: Command) -> Reply:
    return backend.execute([command], now=now)[0]


def apply_one(store: Store, now: int, command: Command) -> Reply:
    return store.apply([command], now)[0][0]


def shrunk(event: Event) -> Event:
    """The model has no limit to what travels along; here is nothing that is too large."""
    assert isinstance(event, Wake) or event.patch is not Patch.HINT
    return event


@pytest.mark.parametrize("seed", range(8))
def test_random_commands_are_answered_as_the_model_does(backend: RedisBackend, events: Events, seed: int) -> None:
    store, chooser = Store(), Chooser(seed)
    now = chooser.pick((1_000_000, 1_790_000_000_000_000))
    for _ in range(STEPS):
        now += chooser.pick(TIMES)
        commands = chooser.batch()
        expected, expected_events = store.apply(commands, now)
        assert backend.execute(commands, now=now) == expected, commands
        assert events.take() == [shrunk(event) for event in expected_events], commands
        chooser.versions += [reply.version for reply in expected if reply.version]
        chooser.tokens += [reply.token for reply in expected if reply.token]
        if chooser.random.random() < 0.1:
            prefix, limit = chooser.pick(("", "b", "grup", "gruppe\x1f", "ü", "zz")), chooser.pick((1, 2, 100))
            for command in (Scan, ScanLeases):
                found = scanned(partial(execute_one, backend, now), command, prefix, limit)
                assert found == scanned(partial(apply_one, store, now), command, prefix, limit)


@pytest.mark.parametrize("seed", range(4))
def test_lease_in_quick_use_is_answered_as_the_model_does(backend: RedisBackend, events: Events, seed: int) -> None:
    store, chooser = Store(), LeaseChooser(seed)
    now = 1_790_000_000_000_000
    for _ in range(2 * STEPS):
        now += chooser.pick((0, 0, 1, 1, 1, 1000, RESERVATION, 2 * GRAVE))
        commands = chooser.batch()
        expected, expected_events = store.apply(commands, now)
        assert backend.execute(commands, now=now) == expected, commands
        assert events.take() == expected_events, commands
        chooser.tokens += [reply.token for reply in expected if reply.token]


@pytest.mark.parametrize("seed", range(4))
def test_page_of_reads_is_answered_as_the_model_does(backend: RedisBackend, seed: int) -> None:
    store, chooser = Store(), Chooser(seed)
    now = 1_790_000_000_000_000
    for _ in range(STEPS // 2):
        now += chooser.pick(TIMES)
        change = chooser.mutation(chooser.pick(NAMES))
        assert execute_one(backend, now, change) == apply_one(store, now, change)
        now += chooser.pick((0, 0, *TIMES))
        page = [Read(chooser.pick(NAMES)) for _ in range(chooser.pick((2, 3, 20)))]
        assert backend.execute(page, now=now) == store.apply(page, now)[0], page


def test_clock_of_the_server_is_used_when_no_now_is_given(backend: RedisBackend, events: Events) -> None:
    (first,) = backend.execute([Add("n", 1)])
    (second,) = backend.execute([Add("n", 1)])
    assert 1_700_000_000_000_000 < first.version < second.version < 2**53
    assert [event.version for event in events.take() if isinstance(event, Notice)] == [first.version, second.version]
