"""Values that are gone by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from dref_django import Counter, DRef, InvalidValue
from dref_django.backends import Backend
from dref_django.testing import ManualClock
from tests.callers import Caller


@pytest.mark.usefixtures("any_backend")
class TestExpiry:
    def test_value_is_gone_after_its_ttl(self, any_backend: Backend, call: Caller) -> None:
        any_backend.clock = clock = ManualClock()
        ref = DRef("session", "none")
        call(ref, "set", "alive", ttl=30)
        assert call(ref, "peek") == "alive"
        clock.advance(29.9)
        assert call(ref, "get") == call(ref, "peek") == "alive"
        clock.advance(0.1)
        assert call(ref, "get") == call(ref, "peek") == "none"
        assert call(ref, "set_if_absent", "again") is True

    def test_set_clears_the_ttl_and_the_others_keep_it(self, any_backend: Backend, call: Caller) -> None:
        any_backend.clock = clock = ManualClock()
        refs = {name: Counter(name) for name in ("set", "update", "increment", "get_and_set", "compare_and_set")}
        for ref in refs.values():
            call(ref, "set", 1, ttl=30)
        call(refs["set"], "set", 2)
        call(refs["update"], "update", lambda value: value + 1)
        call(refs["increment"], "increment")
        call(refs["get_and_set"], "get_and_set", 2)
        call(refs["compare_and_set"], "compare_and_set", 1, 2)
        assert {call(ref, "get") for ref in refs.values()} == {2}
        clock.advance(31)
        assert [name for name, ref in refs.items() if call(ref, "get") == 2] == ["set"]

    def test_expire_sets_and_clears_the_ttl(self, any_backend: Backend, call: Caller) -> None:
        any_backend.clock = clock = ManualClock()
        ref = Counter("kept")
        assert call(ref, "expire", 10) is False
        call(ref, "set", 1)
        assert call(ref, "expire", 10) is True
        assert call(ref, "expire", None) is True
        clock.advance(11)
        assert call(ref, "get") == 1
        call(ref, "expire", 10)
        clock.advance(10)
        assert call(ref, "get") == 0

    @pytest.mark.parametrize("ttl", [0, -1, "10", True, float("nan"), float("inf"), 2**31])
    def test_ttl_is_a_positive_number_of_seconds(self, call: Caller, ttl: Any) -> None:
        with pytest.raises(InvalidValue, match="ttl is a positive number of seconds"):
            call(Counter("odd"), "set", 1, ttl=ttl)
