"""What the pages share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from dref_django import Counter, DRef, Flag

ACTIVITIES: Final = 6
ARTICLES: Final = 100
MESSAGES: Final = 30
MESSAGE_SIZE: Final = 200  # characters
NODE_TTL: Final = 4.0  # seconds after its last word a process counts as gone


@dataclass(frozen=True)
class Moods:
    sunny: int = 0
    cloudy: int = 0
    stormy: int = 0


@dataclass(frozen=True)
class Message:
    by: str
    text: str
    at: str


@dataclass(frozen=True)
class Pulse:
    """What the leader says once a second. `at`: when, in seconds since 1970; `write_ms`: how long the last one took."""

    port: str = ""
    token: int = 0
    since: str = ""
    at: float = 0.0
    write_ms: float = 0.0


@dataclass(frozen=True)
class Node:
    """What a process says of itself. `lag_ms`: from the leader's word to this process's ear."""

    pid: int
    role: str
    since: str
    lag_ms: float
    beat: int


@dataclass(frozen=True)
class Report:
    """The job that runs once at a time; while it runs, who runs it and how far it is (percent)."""

    port: str = ""
    token: int = 0
    progress: int = 0


page_views = Counter("demo.page-views")
visitors = Counter("demo.visitors")
clicks = Counter("demo.clicks")
maintenance = Flag("demo.maintenance")
moods = DRef("demo.moods", default=Moods())
activity = DRef[list[str]]("demo.activity", default=list, type=list[str])
chat = DRef[list[Message]]("demo.chat", default=list, type=list[Message])
pulse = DRef("demo.pulse", default=Pulse())
report = DRef("demo.report", default=Report())
truth = DRef[dict[str, str]]("demo.truth", default=dict, type=dict[str, str])
"""What the back end says of itself: its server, or the cluster that the processes are."""
articles_shown = DRef("demo.articles-shown", default=ARTICLES, history=50)
"""Up to how many rows the page of articles shows. For who runs the site: the admin changes it, and knows who did."""
step_down = DRef("demo.step-down", default=0)
"""The token of the leader that is asked to make room."""


@cache
def node_of(port: str) -> DRef[Node | None]:
    return DRef(f"demo.node.{port}", default=None, type=Node | None)
