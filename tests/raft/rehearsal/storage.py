"""What a node keeps, in memory, and the disk that it goes to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dref_django.backends.raft.core import Entry, HardState, Snapshot


class MemoryStorage:
    """As `Storage`, of what was written to the end."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self._snapshot: Snapshot | None = None
        self._entries: list[Entry] = []

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    def entries(self) -> list[Entry]:
        return list(self._entries)

    def save(
        self,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        entries: Sequence[Entry] = (),
        snapshot: Snapshot | None = None,
    ) -> None:
        if hard_state is not None:
            self.hard_state = hard_state
        if snapshot is not None:
            fits = any((entry.index, entry.term) == (snapshot.index, snapshot.term) for entry in self._entries)
            self._entries = [entry for entry in self._entries if fits and entry.index > snapshot.index]
            self._snapshot = snapshot
        if truncate_from is not None:
            self._entries = [entry for entry in self._entries if entry.index < truncate_from]
        self._entries += entries

    def compact(self, snapshot: Snapshot, keep: int = 0) -> None:
        self._snapshot = snapshot
        self._entries = [entry for entry in self._entries if entry.index > snapshot.index - keep]

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
