"""Keeps a feed subscribed to what is wanted: one request at a time, each with all that gathered meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from .backends.base import Feed

logger = logging.getLogger("dref_django")

RETRY: Final = 1.0


class Topic(NamedTuple):
    text: str
    is_prefix: bool = False


class Topics:
    """On the background loop. A topic is asked for until it is let go; asking twice is asking once."""

    def __init__(self, feed: Feed, on_confirmed: Callable[[Topic], None]) -> None:
        self.is_up = False
        """Whether the feed is connected."""
        self._feed = feed
        self._on_confirmed = on_confirmed
        self._to_add: set[Topic] = set()
        self._to_drop: set[Topic] = set()
        self._asked: set[Topic] = set()  # of the feed, perhaps not confirmed yet
        self._confirmed: set[Topic] = set()
        self._waiting: dict[Topic, list[asyncio.Future[None]]] = {}
        self._work = asyncio.Event()

    def want(self, topic: Topic) -> None:
        self._to_drop.discard(topic)
        if topic not in self._asked:
            self._to_add.add(topic)
            self._work.set()

    def let_go(self, topic: Topic) -> None:
        self._to_add.discard(topic)
        if topic in self._asked:
            self._to_drop.add(topic)
            self._work.set()
        self._go_on(topic)

    def is_confirmed(self, topic: Topic) -> bool:
        return topic in self._confirmed

    async def confirmed(self, topic: Topic) -> None:
        """Returns when what changes from now on is noticed, or when nobody wants the topic any more.

        Of a name it may be noticed only after the next `up`, with which all names are read."""
        if not self._counts(topic):
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(topic, []).append(waiting)
            await waiting

    def up(self) -> None:
        self.is_up = True
        for topic in filter(self._counts, list(self._waiting)):
            self._go_on(topic)

    def down(self) -> None:
        self.is_up = False

    def _counts(self, topic: Topic) -> bool:
        """Whether the confirmation is there. A prefix is looked through once it is, so it must hold from then on."""
        return topic in self._confirmed and (self.is_up or not topic.is_prefix)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if self._to_add:
                    await self._add()
                elif self._to_drop:
                    await self._drop()
                else:
                    self._work.clear()
                    await self._work.wait()
            except Exception:
                logger.exception("dref: subscribing failed")
                await asyncio.sleep(RETRY)

    async def _add(self) -> None:
        batch, self._to_add = self._to_add, set()
        self._asked |= batch
        try:
            await self._feed.subscribe(*_sorted_out(batch))
        except Exception:
            self._asked -= batch
            self._to_add |= batch
            raise
        self._confirmed |= batch
        for topic in batch:
            self._on_confirmed(topic)
            if self._counts(topic):
                self._go_on(topic)

    async def _drop(self) -> None:
        batch, self._to_drop = self._to_drop, set()
        self._asked -= batch
        self._confirmed -= batch
        await self._feed.unsubscribe(*_sorted_out(batch))

    def _go_on(self, topic: Topic) -> None:
        for waiting in self._waiting.pop(topic, ()):
            if not waiting.done():
                waiting.set_result(None)


def _sorted_out(topics: Iterable[Topic]) -> tuple[set[str], set[str]]:
    names, prefixes = set[str](), set[str]()
    for topic in topics:
        (prefixes if topic.is_prefix else names).add(topic.text)
    return names, prefixes
