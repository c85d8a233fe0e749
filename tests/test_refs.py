"""Refs on every back end: what each operation does and answers, from threads and from coroutines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from dref_django import (
    Counter,
    CounterOverflow,
    DRef,
    Flag,
    InvalidValue,
    NotFound,
    ValueTooLarge,
    WrongKind,
)
from tests.callers import Caller

INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


@dataclass
class Settings:
    beta: bool = False
    rollout: int = 0
    teams: list[str] = field(default_factory=list)


@pytest.mark.usefixtures("any_backend")
class TestValues:
    def test_absent_ref_reads_as_its_default_and_stays_absent(self, call: Caller) -> None:
        ref = DRef("greeting", "hello")
        assert call(ref, "get") == "hello"
        assert call(ref, "version") == 0
        assert call(ref, "delete") is False

    def test_absent_ref_without_default_is_not_found(self, call: Caller) -> None:
        with pytest.raises(NotFound, match="'nothing' has no value and no default"):
            call(DRef("nothing"), "get")
        with pytest.raises(LookupError):
            call(DRef("nothing"), "peek")

    def test_default_may_be_made_by_a_callable(self, call: Caller) -> None:
        ref: DRef[list[str]] = DRef("names", list)
        call(ref, "get").append("lost")
        assert call(ref, "get") == []
        assert call(ref, "update", lambda names: [*names, "ada"]) == ["ada"]

    def test_mutable_default_is_never_shared(self, call: Caller) -> None:
        ref = DRef("tags", ["a"])
        call(ref, "get").append("b")
        assert call(ref, "get") == ["a"]

    @pytest.mark.parametrize(
        "value",
        [
            "text",
            "",
            0,
            -1,
            INT_MAX,
            INT_MIN,
            1.5,
            None,
            True,
            b"\0\xff",
            [1, [2]],
            {"a": {"b": 1}},
            (1, 2),
            {3, 4},
        ],
    )
    def test_value_comes_back_equal_and_of_its_type(self, call: Caller, value: object) -> None:
        ref: DRef[Any] = DRef("anything")
        call(ref, "set", value)
        assert call(ref, "get") == value
        assert type(call(ref, "get")) is type(value)
        assert type(call(ref, "peek")) is type(value)

    def test_value_property_is_get(self) -> None:
        ref = DRef("greeting", "hello")
        ref.set("hi")
        assert ref.value == ref.get() == "hi"

    def test_other_ref_object_of_the_name_sees_the_value(self, call: Caller, peer: str) -> None:
        call(DRef("shared", 0), "set", 5)
        assert call(DRef("shared", 0), "get") == 5
        assert call(DRef("shared", 0, using=peer), "get") == 5
        assert call(DRef("shared.other", 0, using=peer), "get") == 0

    def test_set_if_absent_sets_once(self, call: Caller) -> None:
        ref = DRef("owner", "")
        assert call(ref, "set_if_absent", "first") is True
        assert call(ref, "set_if_absent", "second") is False
        assert call(ref, "get") == "first"

    def test_compare_and_set_compares_values(self, call: Caller) -> None:
        ref = DRef("phase", "idle")
        assert call(ref, "compare_and_set", "busy", "done") is False
        assert call(ref, "compare_and_set", "idle", "busy") is True
        assert call(ref, "compare_and_set", "idle", "done") is False
        assert call(ref, "get") == "busy"

    def test_get_and_set_answers_with_the_old_value(self, call: Caller) -> None:
        ref = DRef("state", "default")
        assert call(ref, "get_and_set", "one") == "default"
        assert call(ref, "get_and_set", "two") == "one"
        assert call(ref, "get") == "two"

    def test_update_answers_with_the_new_value(self, call: Caller) -> None:
        ref = DRef("list", [1])
        assert call(ref, "update", lambda old: [*old, 2]) == [1, 2]
        assert call(ref, "update_and_get", lambda old: [*old, 3]) == [1, 2, 3]
        assert call(ref, "get") == [1, 2, 3]

    def test_get_and_update_answers_with_the_old_value_even_if_it_is_changed_in_place(self, call: Caller) -> None:
        ref = DRef("list", [1])

        def append(old: list[int]) -> list[int]:
            old.append(2)
            return old

        assert call(ref, "get_and_update", append) == [1]
        assert call(ref, "get") == [1, 2]

    def test_modify_answers_with_the_result(self, call: Caller) -> None:
        ref = DRef("queue", ["a", "b"])
        assert call(ref, "modify", lambda old: (old[0], old[1:])) == "a"
        assert call(ref, "get") == ["b"]

    def test_function_that_raises_changes_nothing(self, call: Caller) -> None:
        ref = DRef("steady", 1)

        def fail(old: int) -> int:
            raise ZeroDivisionError(old)

        with pytest.raises(ZeroDivisionError):
            call(ref, "update", fail)
        assert call(ref, "version") == 0

    def test_function_that_forgets_to_return_is_told_so(self, call: Caller) -> None:
        ref = DRef("list", [1])
        with pytest.raises(InvalidValue, match="must return the new value"):
            call(ref, "update", lambda old: old.append(2))
        assert call(ref, "get") == [1]

    def test_delete_makes_it_absent(self, call: Caller) -> None:
        ref = DRef("temporary", "default")
        call(ref, "set", "value")
        assert call(ref, "delete") is True
        assert call(ref, "get") == "default"
        assert call(ref, "delete") is False

    def test_version_rises_with_every_change(self, call: Caller) -> None:
        ref = DRef("counted", 0)
        versions = [call(ref, "version")]
        for step in (lambda: call(ref, "set", 1), lambda: call(ref, "delete"), lambda: call(ref, "set", 1)):
            step()  # type: ignore[no-untyped-call]
            versions.append(call(ref, "version"))
        assert versions == sorted(set(versions))

    def test_too_large_a_value_is_refused_before_it_travels(self, call: Caller) -> None:
        ref: DRef[bytes] = DRef("large", b"")
        overhead = 5  # msgpack's header of bytes this long
        call(ref, "set", b"x" * (1024 * 1024 - overhead))
        with pytest.raises(ValueTooLarge, match=r"^large: "):
            call(ref, "set", b"x" * (1024 * 1024 - overhead + 1))
        assert len(call(ref, "get")) == 1024 * 1024 - overhead

    def test_value_that_no_codec_can_store_is_refused(self, call: Caller) -> None:
        with pytest.raises(InvalidValue, match=r"^odd: "):
            call(DRef("odd"), "set", object())

    def test_names_of_every_script_work(self, call: Caller) -> None:
        for name in ("a b/c", "{braces}", "größe 値段 🎉", "x" * 200, "%_*?[", "shop:user:1"):
            ref = DRef(name, 0)
            call(ref, "set", 7)
            assert call(ref, "get") == 7
            assert ref.name == name

    def test_refs_of_a_group_are_apart_from_those_of_their_name(self, call: Caller) -> None:
        call(DRef("total", 0, group="cart"), "set", 1)
        assert call(DRef("total", 0), "get") == 0
        assert call(DRef("total", 0, group="cart"), "get") == 1


@pytest.mark.usefixtures("any_backend")
class TestTyped:
    def test_default_gives_the_type(self, call: Caller) -> None:
        ref = DRef("settings", default=Settings())
        call(ref, "set", Settings(True, 5, ["a"]))
        assert call(ref, "get") == Settings(True, 5, ["a"])
        assert call(ref, "peek") == Settings(True, 5, ["a"])

    def test_what_does_not_fit_is_refused_with_the_name(self, call: Caller) -> None:
        ref = DRef("settings", default=Settings())
        with pytest.raises(InvalidValue, match=r"^settings: "):
            call(ref, "set", {"beta": "maybe"})
        DRef[Any]("settings").set("a plain string")
        with pytest.raises(InvalidValue, match=r"^settings: "):
            call(ref, "get")

    def test_optional_and_nested_types(self, call: Caller) -> None:
        ref: DRef[Settings | None] = DRef("maybe", None, type=Settings | None)
        assert call(ref, "get") is None
        assert call(ref, "update", lambda _: Settings(rollout=3)) == Settings(rollout=3)
        assert call(ref, "update", lambda _: None) is None
        assert call(ref, "get") is None

    def test_field_unknown_to_this_process_survives_its_update(self, call: Caller) -> None:
        """A rolling deploy: the old program knows two fields, the new one three."""

        @dataclass
        class Newer:
            beta: bool = False
            rollout: int = 0
            teams: list[str] = field(default_factory=list)
            region: str = "eu"

        old, new = DRef("flags", default=Settings()), DRef("flags", default=Newer())
        call(new, "set", Newer(True, 1, [], "us"))
        assert call(old, "get") == Settings(True, 1, [])
        call(old, "update", lambda flags: Settings(flags.beta, flags.rollout + 1, flags.teams))
        assert call(new, "get") == Newer(True, 2, [], "us")

    def test_field_with_a_default_may_be_added(self, call: Caller) -> None:
        DRef[Any]("flags").set({"beta": True})
        assert call(DRef("flags", default=Settings()), "get") == Settings(True, 0, [])


@pytest.mark.usefixtures("any_backend")
class TestNumbersAndFlags:
    def test_counter_counts(self, call: Caller) -> None:
        visits = Counter("visits")
        assert call(visits, "increment") == 1
        assert call(visits, "increment", 5) == 6
        assert call(visits, "decrement") == 5
        assert call(visits, "decrement", 7) == -2
        assert call(visits, "get") == -2

    def test_counter_starts_from_its_default(self, call: Caller) -> None:
        assert call(Counter("stock", 100), "decrement") == 99

    @pytest.mark.parametrize(("start", "method"), [(INT_MAX, "increment"), (INT_MIN, "decrement")])
    def test_counter_at_the_end_of_64_bits_overflows_and_keeps_its_value(
        self, call: Caller, start: int, method: str
    ) -> None:
        counter = Counter("full")
        call(counter, "set", start)
        with pytest.raises(CounterOverflow, match="'full'"):
            call(counter, method)
        assert call(counter, "get") == start
        assert call(counter, "increment", 0) == start

    def test_amounts_beyond_64_bits_and_other_things_are_refused(self, call: Caller) -> None:
        counter = Counter("strict")
        for amount, error in ((2**63, CounterOverflow), (1.5, InvalidValue), (True, InvalidValue), ("1", InvalidValue)):
            with pytest.raises(error, match="'strict'"):
                call(counter, "increment", amount)
        with pytest.raises(CounterOverflow):
            call(counter, "decrement", INT_MIN)
        with pytest.raises(CounterOverflow):
            call(counter, "set", 2**63)
        assert call(counter, "version") == 0

    def test_counting_what_is_no_number_is_refused(self, call: Caller) -> None:
        DRef[Any]("words").set("many")
        with pytest.raises(WrongKind, match="'words'"):
            call(Counter("words"), "increment")
        assert DRef("words").get() == "many"

    def test_counter_takes_part_in_updates(self, call: Caller) -> None:
        counter = Counter("doubling", 1)
        assert call(counter, "update", lambda value: value * 2) == 2
        assert call(counter, "increment") == 3

    def test_flag_toggles(self, call: Caller) -> None:
        flag = Flag("maintenance")
        assert call(flag, "get") is False
        assert call(flag, "toggle") is True
        assert call(flag, "toggle") is False
        call(flag, "set", True)
        assert flag.value is True
        with pytest.raises(InvalidValue):
            call(flag, "set", 1)
