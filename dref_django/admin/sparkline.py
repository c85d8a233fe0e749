"""The history of a number as a line, for the page of one ref."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import dropwhile
from typing import Any, Final, NamedTuple

from dref_django.history import Record

WIDTH: Final = 320
HEIGHT: Final = 48
MARGIN: Final = 4
"""Around the line, so that its dots are not cut off. All are in the units of the picture."""


class Sparkline(NamedTuple):
    """`line` and `end` are paths in SVG's words, `text` says the same to who does not see them."""

    line: str
    end: str
    text: str
    width: int = WIDTH
    height: int = HEIGHT


def sparkline(records: Sequence[Record]) -> Sparkline | None:
    """Of the values before and after each of the records, which come newest first; None unless two are numbers.

    The steps are equally wide, however long each took. Flags are 0 and 1. What is no number
    leaves a hole, unless it was before the first number.
    """
    values = [records[-1].old, *(record.new for record in reversed(records))] if records else []
    values = list(dropwhile(lambda value: _number(value) is None, values))
    heights = [_number(value) for value in values]
    numbers = [height for height in heights if height is not None]
    if len(numbers) < 2:
        return None
    least, most = min(numbers), max(numbers)
    points = [_point(place, len(values), height, least, most) for place, height in enumerate(heights)]
    known = [str(value) for value, height in zip(values, heights, strict=True) if height is not None]
    changes = "1 change" if len(records) == 1 else f"{len(records)} changes"
    bounds = f"{known[numbers.index(least)]} and {known[numbers.index(most)]}"
    return Sparkline(
        line=_path(points),
        end=f"M{points[-1]}h0" if points[-1] else "",
        text=f"{changes}: from {known[0]} to {known[-1]}, between {bounds}",
    )


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # an integer of hundreds of digits; a signalling NaN
        return None
    return number if math.isfinite(number) else None


def _point(place: int, count: int, height: float | None, least: float, most: float) -> str:
    """ "x y", or "" where there is no number."""
    if height is None:
        return ""
    # Halved first: the distance between two finite numbers may be infinite.
    share = (height / 2 - least / 2) / (most / 2 - least / 2) if most > least else 0.5
    x = MARGIN + (WIDTH - 2 * MARGIN) * place / (count - 1)
    y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share
    return f"{x:.1f} {y:.1f}"


def _path(points: Sequence[str]) -> str:
    """One line from number to number; a number between two holes is a dot."""
    steps = []
    for before, point in zip(["", *points], points, strict=False):
        if point:
            steps.append(f"L{point}" if before else f"M{point}h0")
    return "".join(steps)
