"""The line of a number's history."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.test import Client

from dref_django import Counter, DRef
from dref_django.admin.sparkline import HEIGHT, MARGIN, WIDTH, Sparkline, sparkline
from dref_django.history import TOO_LARGE, Record
from tests.admin.conftest import change_url
from tests.admin.test_refs import text_of

LEFT, RIGHT = f"{MARGIN}.0", f"{WIDTH - MARGIN}.0"
LOW, MIDDLE, HIGH = f"{HEIGHT - MARGIN}.0", f"{HEIGHT / 2:.1f}", f"{MARGIN}.0"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def drawn(*values: Any) -> Sparkline | None:
    """The line of a ref that had these values one after the other."""
    return sparkline(records(values))


def records(values: Sequence[Any]) -> list[Record]:
    return [Record(NOW, "", old, new) for old, new in pairwise(values)][::-1]


def test_goes_from_the_oldest_value_on_the_left_to_the_newest_on_the_right() -> None:
    line = drawn(10, 30)
    assert line is not None
    assert line.line == f"M{LEFT} {LOW}h0L{RIGHT} {HIGH}"
    assert line.end == f"M{RIGHT} {HIGH}h0"
    assert line.text == "1 change: from 10 to 30, between 10 and 30"


def test_begins_with_the_first_number() -> None:
    line = drawn(None, "unknown", 10, 30)
    assert line is not None
    assert line.line == f"M{LEFT} {LOW}h0L{RIGHT} {HIGH}"


def test_value_that_never_differs_is_a_level_line() -> None:
    line = drawn(5, 5, 5)
    assert line is not None
    assert set(re.findall(r"\d+\.\d+ (\d+\.\d+)", line.line)) == {MIDDLE}


def test_flags_are_0_and_1() -> None:
    line = drawn(False, True)
    assert line is not None
    assert line.line == f"M{LEFT} {LOW}h0L{RIGHT} {HIGH}"


@pytest.mark.parametrize("hole", [None, TOO_LARGE, "many", [1], math.nan, math.inf, 10**400, Decimal("sNaN")])
def test_what_is_no_number_leaves_a_hole(hole: Any) -> None:
    line = drawn(0, 1, hole, 1)
    assert line is not None
    assert re.sub(r"[\d. ]+", "", line.line) == "MhLMh"
    ended = drawn(0, 1, hole)
    assert ended is not None
    assert ended.end == ""


@pytest.mark.parametrize("values", [(), (1,), (None, 1), ("a", "b"), (None, 1, None)])
def test_there_is_none_without_two_numbers(values: Sequence[Any]) -> None:
    assert drawn(*values) is None


def test_widest_range_of_floats_is_drawn() -> None:
    line = drawn(-1.7e308, Decimal(0), 1.7e308)
    assert line is not None
    assert re.findall(r" (\d+\.\d)", line.line) == [LOW, MIDDLE, HIGH]


@pytest.mark.django_db
@pytest.mark.usefixtures("any_backend")
def test_page_of_a_number_with_history_shows_it(superuser: Client) -> None:
    rollout = DRef("rollout", 0, history=10)
    for percent in (10, 50, 25):
        rollout.set(percent)
    page = text_of(superuser.get(change_url("rollout")))
    assert '<svg class="dref-spark" role="img" aria-labelledby="dref-spark"' in page
    assert '<title id="dref-spark">3 changes: from 10 to 25, between 10 and 50</title>' in page
    assert "style=" not in page[page.index("<svg") : page.index("</svg>")]
    Counter("visits").set(1)
    assert "dref-spark" not in text_of(superuser.get(change_url("visits")))
