"""Fixtures for pytest, found through the entry point `dref_django`.

Loaded before the settings are known and whether or not a project's tests use refs: so it imports nothing of ours at
the top.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import ManualClock, isolate

pytest.register_assert_rewrite("dref_django.testing.conformance")


@pytest.fixture
def dref_isolated() -> Iterator[isolate]:
    """Refs and locks live in an empty memory back end of the test's own."""
    from .testing import isolate

    with isolate() as isolation:
        yield isolation


@pytest.fixture
def dref_clock() -> Iterator[ManualClock]:
    """As `dref_isolated`, on a clock that stands still until `dref_clock.advance(seconds)`."""
    from .testing import ManualClock, isolate

    clock = ManualClock()
    with isolate(clock=clock):
        yield clock
