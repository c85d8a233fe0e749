"""What the pages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dref_django import Counter, DRef, Flag

ACTIVITIES: Final = 6


@dataclass(frozen=True)
class Moods:
    sunny: int = 0
    cloudy: int = 0
    stormy: int = 0


page_views = Counter("demo.page-views")
clicks = Counter("demo.clicks")
maintenance = Flag("demo.maintenance")
moods = DRef("demo.moods", default=Moods())
activity = DRef[list[str]]("demo.activity", default=list, type=list[str])
