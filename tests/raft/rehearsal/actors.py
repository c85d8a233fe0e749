"""What processes do all the time, and what none of them may ever see."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from random import Random
from typing import NamedTuple

from dref_django.backends.raft.copies import WORTH
from dref_django.held import MARGIN
from dref_django.protocol import Acquire, Add, Read, Release, Renew, Reply, Status, Write

from .stage import Process
from .timeline import RATE

TTL = 1.0
"""Seconds of a lease."""
NAMES = ("one", "other")


class Term(NamedTuple):
    """A holder's: between these moments, of nobody's clock but the loop's, it had proof that it holds the lease."""

    token: int
    begin: float
    end: float
    owner: str


class Play:
    """The actors of a run, and what they saw."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.seen: Counter[str] = Counter()
        self.terms: dict[str, list[Term]] = defaultdict(list)
        self._totals: set[int] = set()
        self._highest = 0
        self._doubtful = 0
        self._written: Counter[str] = Counter()
        """By key: the last value that was acknowledged."""
        self._attempted: Counter[str] = Counter()

    @property
    def acknowledged(self) -> int:
        """Increments."""
        return len(self._totals)

    def live(self, process: Process) -> None:
        holders = [self._hold(process, name) for name in NAMES]
        for action in (self._count(process), self._write(process), self._read(process), *holders):
            process.start(action)

    async def _think(self, seconds: float) -> None:
        await asyncio.sleep(self.random.expovariate(1 / seconds))

    # --- exactly once, and never the past -----------------------------------------------------------------------

    async def _count(self, process: Process) -> None:
        while True:
            await self._think(0.2)
            floor = self._highest
            self._doubtful += 1
            replies = await process.ask(Add("n", 1))
            if replies is None:
                self.seen["outcomes unknown"] += 1
                continue
            self._doubtful -= 1
            total = replies[0].data
            assert isinstance(total, int)
            assert total > floor, f"{total} was answered after {floor} was known"
            assert total not in self._totals, f"two increments made {total}"
            self._totals.add(total)
            self._highest = max(self._highest, total)

    async def _write(self, process: Process) -> None:
        """A value that is large enough to be read from a follower's copy."""
        key = f"value of {process.name}"
        while True:
            await self._think(0.4)
            self._attempted[key] += 1
            number = self._attempted[key]
            if await process.ask(Write(key, b"%*d" % (WORTH + 1, number))) is not None:
                self._written[key] = max(number, self._written[key])

    async def _read(self, process: Process) -> None:
        while True:
            await self._think(0.1)
            key = self.random.choice(["n", *self._written])
            floor = self._highest if key == "n" else self._written[key]
            replies = await process.ask(Read(key))
            if replies is not None:
                self.seen["reads"] += 1
                found = int(replies[0].data or 0)
                ceiling = len(self._totals) + self._doubtful if key == "n" else self._attempted[key]
                assert floor <= found <= ceiling, f"{key}: {found}, where {floor} to {ceiling} are possible"

    # --- one holder ---------------------------------------------------------------------------------------------

    async def _hold(self, process: Process, name: str) -> None:
        number = 0
        while True:
            await self._think(0.5)
            number += 1
            owner = f"{process.name}/{name}-{number}"
            wait = self.random.choice((0, 2_000_000))
            for _ in range(5 if wait else 1):
                sent = process.stage.clock.monotonic()
                replies = await process.ask(Acquire(name, owner, int(TTL * 1e6), wait))
                if replies is not None and replies[0].status is Status.APPLIED:
                    await _Holder(self, process, name, owner, replies[0], sent).hold()
                    break
                await self._think(0.2)
            else:
                await process.ask(Release(name, owner))

    def check(self) -> None:
        """What can only be seen at the end."""
        assert max(self._totals) <= len(self._totals) + self._doubtful, "more was counted than was asked for"
        for name, terms in self.terms.items():
            for one, next_one in itertools.pairwise(sorted(terms)):
                assert one.token < next_one.token, f"{name}: {one} and {next_one} have one token"
                assert one.end <= next_one.begin, f"{name} had two holders: {one} and {next_one}"
            self.seen["terms"] += len(terms)


class _Holder:
    """Trusts its lease as `Held` does, by its own clock; renews it, and gives it back or dies."""

    def __init__(self, play: Play, process: Process, name: str, owner: str, granted: Reply, sent: float) -> None:
        self._play = play
        self._process = process
        self._name = name
        self._owner = owner
        self._token = granted.token
        self._begin = process.stage.loop.time()
        self._deadline = sent + TTL * (1 - MARGIN)
        self._rate = RATE.get()
        self._is_over = False

    async def hold(self) -> None:
        process, clock = self._process, self._process.stage.clock
        process.leave.append(self._end)
        leaves_at = clock.monotonic() + self._play.random.expovariate(1 / TTL)
        while clock.monotonic() < min(leaves_at, self._deadline):
            await asyncio.sleep(TTL / 3)
            sent = clock.monotonic()
            if sent >= self._deadline:
                break
            replies = await process.ask(Renew(self._name, self._owner, self._token, int(TTL * 1e6)))
            if replies is None:
                continue
            if replies[0].status is not Status.APPLIED:
                self._play.seen["leases lost"] += 1
                break
            if clock.monotonic() < self._deadline:
                self._play.seen["renewals"] += 1
                self._deadline = sent + TTL * (1 - MARGIN)
        self._end()
        await process.ask(Release(self._name, self._owner, self._token))

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            end = min(self._process.stage.loop.time(), self._deadline / self._rate)
            if end > self._begin:
                self._play.terms[self._name].append(Term(self._token, self._begin, end, self._owner))
