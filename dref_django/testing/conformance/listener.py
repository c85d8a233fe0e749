"""A sink that records what a feed delivers, and waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from dref_django import background
from dref_django.backends import Backend
from dref_django.deltas import apply_splice
from dref_django.protocol import Data, Notice, Patch, Wake

PATIENCE: Final = 10.0
"""Seconds that a test waits for what must come."""


class Listener:
    """One feed on the background loop; what it delivered, in the order in which it did."""

    def __init__(self, backend: Backend) -> None:
        self.epochs: list[str] = []
        self.notices: list[Notice] = []
        self.wakes: list[Wake] = []
        self.threads: set[int] = set()
        self._ordered = backend.ordered_notices
        self._condition = threading.Condition()
        self._feed = backend.feed(self)
        self._running = background.submit(self._feed.run())

    # --- the sink -----------------------------------------------------------------------------------------------

    def up(self, epoch: str) -> None:
        self._record(lambda: self.epochs.append(epoch))

    def down(self, reason: str) -> None:
        """The tests of the suite break no connection."""

    def notice(self, notices: Sequence[Notice]) -> None:
        self._record(lambda: self.notices.extend(notices))

    def wake(self, wake: Wake) -> None:
        self._record(lambda: self.wakes.append(wake))

    def _record(self, record: Callable[[], None]) -> None:
        with self._condition:
            self.threads.add(threading.get_ident())
            record()
            self._condition.notify_all()

    # --- what tests ask -----------------------------------------------------------------------------------------

    def subscribe(self, *names: str, prefixes: Collection[str] = ()) -> None:
        """Returns when the back end says that it is done."""
        background.submit(self._feed.subscribe(names, prefixes)).result(PATIENCE)

    def unsubscribe(self, *names: str, prefixes: Collection[str] = ()) -> None:
        background.submit(self._feed.unsubscribe(names, prefixes)).result(PATIENCE)

    def wait_until_up(self) -> None:
        self._wait(lambda: bool(self.epochs), "the feed to be up")

    def wait_for_version(self, name: str, version: int, *, base: int | None = None) -> list[Notice]:
        """Everything of a name up to the notice of that version, after `base` if that is given.

        Where notices have no order they are sorted, and all that lead from `base` to `version` are waited for.
        """

        def complete() -> bool:
            bases = {notice.version: notice.base for notice in self.of(name)}
            if self._ordered or base is None:
                return version in bases
            at = version
            while at in bases and at > base:
                at = bases[at]
            return at == base

        self._wait(complete, f"version {version} of {name!r} after {base}")
        return [notice for notice in self.of(name) if (base or 0) < notice.version <= version]

    def wait_for_versions(self, name: str, versions: Collection[int]) -> list[Notice]:
        """Everything of a name, once the notices of all these versions have come."""
        self._wait(
            lambda: {notice.version for notice in self.of(name)} >= set(versions), f"versions {versions} of {name!r}"
        )
        return self.of(name)

    def wait_for_wake(self, wake: Wake, times: int = 1) -> None:
        self._wait(lambda: self.wakes.count(wake) >= times, repr(wake))

    def forget(self) -> None:
        """Everything so far."""
        with self._condition:
            self.notices.clear()
            self.wakes.clear()

    def of(self, name: str) -> list[Notice]:
        notices = [notice for notice in self.notices if notice.name == name]
        return notices if self._ordered else sorted(notices, key=lambda notice: notice.version)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        with self._condition:
            while not self._condition.wait_for(condition, 0.05):
                if self._running.done():
                    raise AssertionError(f"the feed ended: {self._running.exception()!r}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"waited {PATIENCE:g} s for {what}; there is {self.notices} {self.wakes}")

    def close(self) -> None:
        self._running.cancel()


def replay(data: Data | None, version: int, notices: Sequence[Notice], read: Callable[[], Data | None]) -> Data | None:
    """The value after the notices, which must continue each other from `version` on. `read` answers a hint."""
    for notice in notices:
        assert notice.base == version, f"{notice} does not continue version {version}"
        assert notice.version > notice.base
        version = notice.version
        match notice.patch:
            case Patch.FULL:
                data = notice.data
            case Patch.GONE:
                data = None
            case Patch.HINT:
                data = read()
            case Patch.SPLICE:
                assert isinstance(data, bytes)
                assert notice.splice is not None
                data = apply_splice(data, notice.splice)
    return data
