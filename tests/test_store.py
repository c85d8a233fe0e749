"""The store by itself: a pure function of what it was told. What each command means is in the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dref_django.exceptions import InvalidName
from dref_django.protocol import (
    GRAVE,
    MAX_NAME_LENGTH,
    Acquire,
    Add,
    Command,
    Delete,
    Notice,
    Patch,
    Read,
    Release,
    Reply,
    Scan,
    ScanLeases,
    Status,
    Wake,
    Write,
    check_name,
)
from dref_django.store import Store
from tests.model.commands import STEPS, batches, resolved

NOW = 1_790_000_000_000_000


def pages(store: Store, command: type[Scan] | type[ScanLeases], now: int) -> int:
    """How many pages of one name a scan takes: what still lies there takes one, dead or alive."""
    count, after = 0, ""
    while True:
        (reply,), _ = store.apply([command("", after, 1)], now)
        count += 1
        if not (after := reply.cursor):
            return count


class TestStore:
    @given(story=st.lists(st.tuples(st.sampled_from(STEPS), batches), max_size=20))
    def test_same_story_leads_to_the_same_replies_and_events(self, story: list[tuple[int, list[Command]]]) -> None:
        first, second, now = Store(), Store(), NOW
        for step, commands in story:
            now += step
            assert first.apply(commands, now) == second.apply(commands, now)

    @given(story=st.lists(st.tuples(st.sampled_from(STEPS), batches), max_size=30))
    def test_versions_and_tokens_rise_and_notices_continue_each_other(
        self, story: list[tuple[int, list[Command]]]
    ) -> None:
        store, now = Store(), NOW
        versions: dict[str, int] = {}
        tokens: dict[str, list[int]] = {}
        seen: tuple[list[int], list[int]] = ([], [])
        for step, drawn in story:
            now += step
            commands = [_with(command, resolved(command, *seen)) for command in drawn]
            replies, events = store.apply(commands, now)
            for event in events:
                if isinstance(event, Notice):
                    assert event.version > event.base >= 0
                    assert event.version > versions.get(event.name, 0)
                    assert event.base in (versions.get(event.name, 0), versions.get(event.name, 0) + 1, 0)
                    versions[event.name] = event.version
            for command, reply in zip(commands, replies, strict=True):
                if isinstance(command, Acquire) and reply.status is Status.APPLIED:
                    granted = tokens.setdefault(command.name, [])
                    assert not granted or reply.token >= granted[-1]
                    granted.append(reply.token)
            seen[0].extend(reply.version for reply in replies if reply.version)
            seen[1].extend(reply.token for reply in replies if reply.token)

    @given(story=st.lists(st.tuples(st.sampled_from(STEPS[:5]), batches), max_size=20), failing=batches)
    def test_aborted_batch_leaves_no_trace(
        self, story: list[tuple[int, list[Command]]], failing: list[Command]
    ) -> None:
        with_it, without, now = Store(), Store(), NOW
        for step, commands in story:
            now += step
            assert with_it.apply(commands, now) == without.apply(commands, now)
        replies, events = with_it.apply(failing, now)
        if any(reply.status is Status.ABORTED for reply in replies):
            assert events == []
            for scan in (Scan(values=True), ScanLeases()):
                assert with_it.apply([scan], now) == without.apply([scan], now)
            names = {command.name for command in failing if not isinstance(command, Scan | ScanLeases)}
            for name in names:
                assert with_it.apply([Read(name)], now) == without.apply([Read(name)], now)

    def test_graves_are_collected_a_few_at_a_time(self) -> None:
        store = Store()
        for number in range(20):
            store.apply([Write(f"n{number}", 1, ttl=1000)], NOW)
            store.apply([Acquire(f"l{number}", "n/1", 1000)], NOW)
        later = NOW + GRAVE + 1000
        assert (pages(store, Scan, NOW), pages(store, ScanLeases, NOW)) == (21, 21)
        for _ in range(25):
            store.apply([Read("other")], later)
        assert (pages(store, Scan, later), pages(store, ScanLeases, later)) == (1, 1)

    def test_name_that_is_alive_again_is_not_collected(self) -> None:
        store = Store()
        store.apply([Write("n", 1)], NOW)
        store.apply([Delete("n")], NOW)
        store.apply([Write("n", 2)], NOW)
        store.apply([Acquire("l", "n/1", 1000)], NOW)
        store.apply([Release("l", "n/1")], NOW)
        store.apply([Acquire("l", "n/2", 2 * GRAVE)], NOW)
        later = NOW + GRAVE + 1
        for _ in range(5):
            store.apply([Read("other")], later)
        assert store.apply([Read("n")], later)[0][0].data == 2
        assert store.apply([Acquire("l", "n/3", 1000)], later)[0][0].status is Status.HELD

    def test_scan_of_names_that_are_gone_goes_on_behind_them(self) -> None:
        store = Store()
        for number in range(5):
            store.apply([Write(f"n{number}", 1)], NOW)
        for number in range(4):
            store.apply([Delete(f"n{number}")], NOW)
        (page,), _ = store.apply([Scan(limit=2)], NOW)
        assert (page.page, page.cursor) == ((), "n1")

    def test_events_come_in_the_order_of_the_commands(self) -> None:
        store = Store()
        _, events = store.apply([Write("b", 1), Add("a", 2)], NOW)
        assert events == [Notice("b", NOW, 0, Patch.FULL, 1), Notice("a", NOW, 0, Patch.FULL, 2)]
        store.apply([Acquire("l", "n/1", 1000), Acquire("l", "n/2", 1000, 1000), Acquire("m", "n/1", 1000)], NOW)
        _, events = store.apply([Release("m", "n/1"), Release("l", "n/1")], NOW)
        assert events == [Wake("l", "n/2")]

    def test_refused_batch_touches_nothing(self) -> None:
        store = Store()
        with pytest.raises(ValueError, match="changed twice"):
            store.apply([Write("n", 1), Write("n", 2)], NOW)
        assert store.apply([Read("n")], NOW)[0] == [Reply(Status.APPLIED)]


def _with(command: Command, changes: dict[str, int]) -> Command:
    fields: dict[str, Any] = {field: getattr(command, field) for field in type(command).__dataclass_fields__}
    return type(command)(**{**fields, **changes})


class TestNames:
    @pytest.mark.parametrize("name", ["n", "a b/c", "{x}", "größe 値 🎉", "x" * MAX_NAME_LENGTH, "\xa0", "\U0010ffff"])
    def test_names_of_any_script_are_taken(self, name: str) -> None:
        assert check_name(name) == name

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("", "1 to 200 characters, this one has 0"),
            ("x" * (MAX_NAME_LENGTH + 1), "this one has 201"),
            ("a\nb", "control characters"),
            ("a\x1fb", "control characters"),
            ("\x85", "control characters"),
            ("\udc00", "lone surrogates"),
            (b"n", "must be a str, not bytes"),
            (None, "must be a str, not NoneType"),
        ],
    )
    def test_others_are_refused_with_the_reason(self, name: object, reason: str) -> None:
        with pytest.raises(InvalidName, match=reason):
            check_name(name)
