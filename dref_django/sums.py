"""Watching a sum: readers of several names that hand out one change whenever one of them changed."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import Any

from .hub import Hub, Raw
from .protocol import Data
from .streams import Buffer, Change, Decode, Stream, Subscription


class SumBuffer(Buffer):
    """Keeps the newest of each name and hands out their sum, under the name of the first."""

    def __init__(self, names: Sequence[str], default: int, ring: Callable[[], None]) -> None:
        super().__init__(False, 1, ring)
        self._names = names
        self._default = default
        self._latest: dict[str, Raw] = {}
        self._gap = self._fresh = False
        self._first = True

    def push(self, raw: Raw) -> None:
        with self._mutex:
            self._latest[raw.name] = raw
            self._fresh = True
            self._gap = self._gap or raw.gap
            self._first = self._first and raw.first
        self._ring()

    def pop(self) -> Raw | None:
        with self._mutex:
            if not self._fresh or len(self._latest) < len(self._names):
                return None  # a sum of some is no sum
            latest = [self._latest[name] for name in self._names]
            newest = max(latest, key=lambda raw: raw.version)
            total = sum_of([raw.data for raw in latest], self._default)
            absent = all(raw.data is None for raw in latest)
            raw = Raw(
                self._names[0], newest.version, 0, None if absent else total, self._gap, self._first, newest.epoch
            )
            self._gap = self._fresh = False
            self._first = True
            return raw


def sum_of(data: Sequence[Data | None], default: int) -> int:
    """The first absent one counts as the default. Anything but integers adds nothing."""
    first = default if data[0] is None else 0
    return first + sum(number for number in data if isinstance(number, int))


class SumStream(Stream[int]):
    """The changes of a sum. `change.version` is the newest of its parts'."""

    def __init__(
        self, alias: str, decode: Decode[int], names: Sequence[str], default: int, timeout: float | None
    ) -> None:
        super().__init__(alias, decode, name=names[0], timeout=timeout)
        self._names = names
        self._buffer = SumBuffer(names, default, self._waker.set)

    def _listen(self, hub: Hub) -> concurrent.futures.Future[None]:
        return _all_of([hub.add(self._buffer, name=name) for name in self._names])


class SumSubscription(Subscription[int]):
    def __init__(
        self,
        alias: str,
        decode: Decode[int],
        callback: Callable[[Change[int]], Any],
        names: Sequence[str],
        default: int,
    ) -> None:
        self._names = names
        self._default = default
        super().__init__(alias, decode, callback, name=names[0])

    def _listen(self, hub: Hub) -> Buffer:
        buffer = SumBuffer(self._names, self._default, self._schedule)
        for name in self._names:
            hub.add(buffer, name=name)
        return buffer


def _all_of(futures: Sequence[concurrent.futures.Future[None]]) -> concurrent.futures.Future[None]:
    """Done when the last of them is, or the first fails."""
    done: concurrent.futures.Future[None] = concurrent.futures.Future()
    mutex = threading.Lock()
    left = len(futures)

    def count(future: concurrent.futures.Future[None]) -> None:
        nonlocal left
        error = None if future.cancelled() else future.exception()
        with mutex:
            left -= 1
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            elif not left:
                done.set_result(None)

    for future in futures:
        future.add_done_callback(count)
    return done
