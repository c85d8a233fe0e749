"""Every reply, number and event is the store's, command by command, with the clock as an argument."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from dref_django.backends.postgres import PostgresBackend
from dref_django.protocol import (
    GRAVE,
    INT_MAX,
    INT_MIN,
    KEEP,
    Acquire,
    Add,
    Break,
    Check,
    Command,
    Delete,
    Expire,
    Find,
    Inspect,
    Read,
    Release,
    Renew,
    Reply,
    Scan,
    ScanLeases,
    Splice,
    Ttl,
    Write,
    check_batch,
)
from dref_django.store import Event, Store
from tests.postgres.conftest import MakeBackend

STEPS = 250
NAMES = ("a", "b", "é", "z z")
OWNERS = ("n/1", "n/2", "m/3")
START = 1_795_382_557_000_000
FORWARDS = (0, 0, 1, 5, 60, 1000, 10**6, 10**6)
BACKWARDS = (-3, -1000, -(10**6))
OVER_GRAVES = (GRAVE // 2, GRAVE)
ENTRY_KINDS = (Read, Check, Write, Write, Write, Add, Add, Delete, Expire, Find)
LEASE_KINDS = (Acquire, Acquire, Acquire, Renew, Release, Release, Inspect, Break)


class Commands:
    """Random commands, of which most meet what earlier ones left."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._versions = [0, 1]
        self._tokens = [0]
        self._ops = [b""]

    def learn(self, replies: Sequence[Reply]) -> None:
        self._versions += [reply.version for reply in replies if reply.version]
        self._tokens += [reply.token for reply in replies if reply.token]

    def batch(self) -> list[Command]:
        kind, count = self._chance.random(), self._chance.randint(2, 4)
        if kind < 0.55:
            return [self._entry()]
        if kind < 0.7:
            return [self._entry() for _ in range(count)]
        if kind < 0.9:
            return [self._lease() for _ in range(self._chance.randint(1, 3))]
        if kind < 0.95:
            return [Scan(self._chance.choice(("", "a", "z ")), self._chance.choice(("", "a")), 50, kind < 0.92)]
        return [ScanLeases("", self._chance.choice(("", "b")), 50)]

    def _version(self) -> int:
        return self._chance.choice(self._versions[-4:])

    def _op(self) -> bytes:
        op = self._chance.choice((b"", self._chance.randbytes(8)))
        self._ops.append(op or self._ops[-1])
        return op

    def _ttl(self) -> Ttl:
        return self._chance.choice((None, None, KEEP, 1, 100, 10**6, GRAVE))

    def _expect(self) -> int | None:
        return self._chance.choice((None, None, 0, self._version(), self._version()))

    def _entry(self) -> Command:
        choose = self._chance.choice
        name, kind = choose(NAMES), choose(ENTRY_KINDS)
        if kind is Read:
            return Read(name, choose((None, 0, self._version())))
        if kind is Check:
            return Check(name, choose((0, self._version())))
        if kind is Write and self._chance.random() < 0.3:
            start = self._chance.randint(0, 6)
            splice = Splice(start, start + self._chance.randint(-1, 3), choose((b"", b"XY")))
            return Write(name, splice, self._version(), self._ttl(), self._op())
        if kind is Write:
            data = choose((0, 1, -5, INT_MAX, INT_MIN, b"", b"abc", b"hello world" * 3))
            return Write(name, data, self._expect(), self._ttl(), self._op())
        if kind is Add:
            return Add(name, choose((1, -1, 7, INT_MAX, INT_MIN)), choose((0, 0, INT_MAX, -3)), self._op())
        if kind is Delete:
            return Delete(name, self._expect(), self._op())
        if kind is Expire:
            return Expire(name, choose((None, 1, 50, 10**6)), self._op())
        return Find(name, choose(self._ops[-12:]))

    def _lease(self) -> Command:
        choose = self._chance.choice
        name, owner, kind = choose(NAMES), choose(OWNERS), choose(LEASE_KINDS)
        token = choose((0, *self._tokens[-3:]))
        if kind is Acquire:
            wait = choose((0, 0, 50, 10**6, 3 * 10**6))
            return Acquire(name, owner, choose((10, 1000, 2 * 10**6)), wait, choose(("", "{}")))
        if kind is Renew:
            return Renew(name, owner, token, choose((10, 1000)))
        if kind is Release:
            return Release(name, owner, token, choose((0, 0, 500)))
        return Break(name, token) if kind is Break else Inspect(name)


def legal(batch: Sequence[Command]) -> bool:
    try:
        check_batch(batch)
    except ValueError:
        return False
    return True


def listen_in(backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events that the back end hands to its dispatcher."""
    events: list[Event] = []
    monkeypatch.setattr(backend.dispatcher, "post", events.extend)
    return events


@pytest.mark.parametrize("seed", range(12))
def test_random_commands_answer_and_tell_as_the_store_does(
    seed: int, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The store has forgotten a grave that a clock stepped back over again would still show; so never both in a run.
    moves = FORWARDS + (BACKWARDS if seed % 2 else OVER_GRAVES)
    chance = random.Random(seed)
    backend, store, commands = make_backend(key_prefix=f"store-{seed}", LOCKS="lease"), Store(), Commands(chance)
    told = listen_in(backend, monkeypatch)
    now = START if seed % 3 else 1
    for _ in range(STEPS):
        now = max(1, now + chance.choice(moves))
        batch = commands.batch()
        if not legal(batch):
            continue
        told.clear()
        replies, events = store.apply(batch, now)
        assert backend.execute(batch, now=now) == replies, (batch, now)
        assert told == events, (batch, now)
        commands.learn(replies)


async def test_async_twin_answers_as_the_store_does(make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(99)
    backend, store, commands = make_backend(LOCKS="lease"), Store(), Commands(chance)
    told = listen_in(backend, monkeypatch)
    now = START
    for batch in filter(legal, (commands.batch() for _ in range(STEPS))):
        now += chance.choice(FORWARDS)
        told.clear()
        replies, events = store.apply(batch, now)
        assert await backend.aexecute(batch, now=now) == replies, (batch, now)
        assert told == events, (batch, now)
        commands.learn(replies)


def test_pages_of_a_scan_hold_every_name_once_in_the_order_of_code_points(backend: PostgresBackend) -> None:
    names = ["", "\ue000", "\ud7ff", "a", "a\U0010ffff", "a\U0010ffffz", "ab", "b", "z" * 199, "é", "日本", "😀"]
    for name in names:
        backend.execute([Write("p" + name, name.encode(), op=b"12345678")])
    backend.execute([Write("q", 1)])
    found: list[str] = []
    cursor = ""
    while True:
        (reply,) = backend.execute([Scan("p", cursor, 3, True)])
        found += [row.name for row in reply.page]
        if not (cursor := reply.cursor):
            break
    assert found == sorted("p" + name for name in names)
    (reply,) = backend.execute([Scan("pa\U0010ffff", "", 10)])
    assert [row.name for row in reply.page] == ["pa\U0010ffff", "pa\U0010ffffz"]


def test_server_clock_stamps_what_no_clock_is_given_for(backend: PostgresBackend) -> None:
    versions = [backend.execute([Add("n", 1, op=bytes([step] * 8))])[0].version for step in range(1, 30)]
    assert all(before < after for before, after in pairwise(versions))
    assert backend.execute([Write("v", b"x", ttl=10**6)])[0].left == 10**6
    (left,) = (backend.execute([Read("v")])[0].left,)
    assert left is not None
    assert 0 < left < 10**6
    assert backend.execute([Write("v", 1, ttl=KEEP, op=b"12345678")])[0].left in range(1, left + 1)
