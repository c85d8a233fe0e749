"""What a node keeps, in memory, and the disk that it goes to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dref_django.backends.raft.core import Entry, HardState, Snapshot
from tests.raft.simulation.disk import Contents, Write


class MemoryStorage:
    """As `Storage`, of what was written to the end."""

    def __init__(self) -> None:
        self._contents = Contents()

    @property
    def hard_state(self) -> HardState:
        return self._contents.hard_state

    def snapshot(self) -> Snapshot | None:
        return self._contents.snapshot

    def entries(self) -> list[Entry]:
        return list(self._contents.entries)

    def save(
        self,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        entries: Sequence[Entry] = (),
        snapshot: Snapshot | None = None,
    ) -> None:
        self._contents.apply(Write(hard_state, truncate_from, tuple(entries), snapshot))

    def compact(self, snapshot: Snapshot, keep: int = 0) -> None:
        self._contents.apply(Write(snapshot=snapshot, keep=keep))

    def close(self) -> None:
        pass


class VirtualDisk:
    """As `Disk`: one call after the other, each after a while."""

    def __init__(self, random: Random, delay: float) -> None:
        self.delay = delay
        """Seconds that a call takes, about."""
        self._random = random
        self._calls: deque[Callable[[], Any]] = deque()
        self._free_at = 0.0
        self._is_lost = False
        self._futures: list[asyncio.Future[Any]] = []  # of a lost disk nobody else knows them: tasks wait for ever

    def call(self, function: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        loop = asyncio.get_running_loop()
        self._calls.append(function)
        self._free_at = max(self._free_at, loop.time()) + self._random.expovariate(1 / self.delay)
        loop.call_at(self._free_at, self._finish, then)

    def _finish(self, then: Callable[[Any, BaseException | None], None]) -> None:
        if not self._is_lost:
            then(self._calls.popleft()(), None)

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures.append(future)

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.cancelled():
                future.set_result(result)

        self.call(lambda: function(*args), settle)
        return future

    def crash(self) -> None:
        """Some of what was under way is written, in order, and nobody hears of it."""
        self._is_lost = True
        for _ in range(self._random.randint(0, len(self._calls))):
            self._calls.popleft()()

    def close(self) -> None:
        pass
