"""Holds the checker to Jepsen logs whose verdicts are known.

A corpus is a directory of logs with a `verdicts.tsv`: a log's name, a tab, `linearizable` or `not-linearizable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .checker import check
from .history import parse_jepsen
from .models import Register

_VERDICTS = {"linearizable": True, "not-linearizable": False}


@dataclass(frozen=True, slots=True)
class Agreement:
    """The names of the logs on which checker and verdict agree, on which they differ, and which have no verdict."""

    agreed: tuple[str, ...]
    differing: tuple[str, ...]
    without_verdict: tuple[str, ...]


def verify(directory: Path, timeout: float = 60.0) -> Agreement:
    """Check every log that has a verdict; `timeout` is in seconds a log."""
    lines = (directory / "verdicts.tsv").read_text(encoding="utf-8").splitlines()
    verdicts = {name: _VERDICTS[verdict] for name, verdict in (line.split("\t") for line in lines)}
    agreed: list[str] = []
    differing: list[str] = []
    for name, expected in sorted(verdicts.items()):
        history = parse_jepsen((directory / name).read_text(encoding="utf-8"))
        same = check(Register(), history, timeout).ok is expected
        (agreed if same else differing).append(name)
    unjudged = sorted(path.name for path in directory.glob("*.log") if path.name not in verdicts)
    return Agreement(tuple(agreed), tuple(differing), tuple(unjudged))
