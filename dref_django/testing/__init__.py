"""Tests of projects that use refs: an isolated back end for each test, and a clock that tests move by hand.

    from dref_django.testing import ManualClock, isolate

`conformance` is the test suite for back ends. With pytest, the fixtures `dref_isolated` and `dref_clock` are there as
soon as the package is installed.
"""

from __future__ import annotations

from .clock import ManualClock
from .isolation import IsolatedRefsMixin, isolate

__all__ = ["IsolatedRefsMixin", "ManualClock", "isolate"]
