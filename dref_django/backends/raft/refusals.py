"""What was turned away: all of it counted, some of it logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("dref_django")

LOG_PERIOD: Final = 10.0
"""Seconds between two log lines about the same kind of refusal."""


class Refusals:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}  # kind -> when, and the count then

    def note(self, kind: str, whom: str, why: object) -> None:
        self.counts[kind] += 1
        now = self._clock()
        when, count = self._logged.get(kind, (now - LOG_PERIOD, 0))
        if now - when < LOG_PERIOD:
            return
        others = self.counts[kind] - count - 1
        self._logged[kind] = now, self.counts[kind]
        logger.warning("dref: turned away %s: %s%s", whom, why, f" (and {others} others before)" if others else "")
