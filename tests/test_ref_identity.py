"""Refs as Python objects: names, comparison, binding; and the calls that are refused inside a loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from dref_django import Counter, DRef, InvalidName
from dref_django.backends.base import Params
from dref_django.backends.memory import MemoryBackend
from dref_django.binding import known_ref
from dref_django.testing import isolate
from tests.kinds import installed


class TestRefsThemselves:
    def test_making_a_ref_touches_no_back_end(self) -> None:
        ref: DRef[int] = DRef("far", using="no such alias")
        assert repr(ref) == "DRef('far', using='no such alias')"
        assert repr(Counter("visits")) == "Counter('visits')"

    def test_a_name_is_known_as_long_as_one_of_its_declarations_lives(self) -> None:
        first, second = Counter("declared twice"), Counter("declared twice")
        assert known_ref("declared twice") is first
        del first
        gc.collect()
        assert known_ref("declared twice") is second
        del second
        gc.collect()
        assert known_ref("declared twice") is None

    @pytest.mark.parametrize("name", ["", "x" * 201, "line\nbreak", "nul\0", "\x1f", "\x7f", "\x9f", "\ud800"])
    def test_bad_names_are_refused_at_once(self, name: str) -> None:
        with pytest.raises(InvalidName):
            DRef(name)

    def test_name_that_is_no_text_is_refused(self) -> None:
        with pytest.raises(InvalidName, match="must be a str"):
            DRef(7)  # type: ignore[arg-type]

    def test_class_attribute_gives_the_name(self) -> None:
        class Site:
            visitors = Counter()
            named = Counter("explicit")

        assert repr(Site.visitors).startswith("Counter('TestRefs")  # the back end's name needs the app registry
        assert Site.visitors.name == "tests.site.visitors"
        assert Site.named.name == "explicit"

    def test_class_attribute_of_an_app_carries_its_label(self) -> None:
        Site = type("Site", (), {"__module__": "django.contrib.auth.models", "visitors": (ref := Counter())})  # noqa: N806
        assert ref.name == "auth.site.visitors"
        assert Site is not None

    def test_ref_without_a_name_says_what_to_do(self) -> None:
        with pytest.raises(InvalidName, match="give it one, or make it a class attribute"):
            Counter().get()

    @pytest.mark.parametrize(
        "use",
        [
            bool,
            int,
            float,
            lambda ref: ref == 5,
            lambda ref: ref != 5,
            lambda ref: ref > 5,
            lambda ref: ref <= 5,
            lambda ref: range(10)[ref],
        ],
        ids=["bool", "int", "float", "==", "!=", ">", "<=", "index"],
    )
    def test_using_a_ref_as_its_value_is_an_error_with_a_hint(self, use: Callable[[Any], Any]) -> None:
        with pytest.raises(TypeError, match=r"use \.value or \.get\(\)"):
            use(Counter("visits"))

    def test_refs_compare_with_refs_and_can_be_keys(self) -> None:
        first, second = Counter("a"), Counter("a")
        assert first == second
        assert first != Counter("b")
        assert {first: 1}[first] == 1

    async def test_blocking_call_inside_a_loop_is_refused_with_the_way_out(self) -> None:
        counter = Counter("visits")
        calls: list[Callable[[], object]] = [
            counter.get,
            counter.increment,
            lambda: counter.set(1),
            lambda: counter.update(lambda value: value),
            lambda: counter.changes().__enter__(),
            lambda: next(counter.changes()),
            lambda: counter.edit().__enter__(),
        ]
        with isolate():
            for blocking in calls:
                with pytest.raises(SynchronousOnlyOperation, match="aget"):
                    blocking()

    def test_ref_binds_anew_when_the_back_end_changes(self) -> None:
        counter = Counter("visits")
        with installed(MemoryBackend(Params())):
            counter.increment()
            assert counter.peek() == 1
            with installed(MemoryBackend(Params())):
                assert counter.get() == 0
                assert counter.peek() == 0
            assert counter.get() == 1
