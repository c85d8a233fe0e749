"""The hub on a line that loses, delays, doubles and breaks: watchers end on the true value, and holes are announced."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dref_django import Change, Counter, DRef, Unavailable, background, watch
from dref_django.protocol import Delete, Notice, Patch, Write
from dref_django.streams import Stream, get_hub
from dref_django.testing import ManualClock
from tests.kinds import installed
from tests.processes import wait_until
from tests.scripted import PATIENCE, ScriptedBackend, settle


@pytest.fixture
def line() -> Iterator[ScriptedBackend]:
    with installed(ScriptedBackend()) as backend:
        assert isinstance(backend, ScriptedBackend)
        yield backend


@pytest.fixture
def unordered() -> Iterator[ScriptedBackend]:
    with installed(ScriptedBackend(ordered=False)) as backend:
        assert isinstance(backend, ScriptedBackend)
        yield backend


@pytest.fixture
def beating() -> Iterator[ScriptedBackend]:
    """Compares versions twenty times a second."""
    with installed(ScriptedBackend(heartbeat=0.05)) as backend:
        assert isinstance(backend, ScriptedBackend)
        yield backend


def changes(ref: DRef[Any], *, every: bool = True) -> Stream[Any]:
    """An open stream of which the snapshot was taken."""
    stream = ref.changes(every=every, timeout=PATIENCE)
    next(stream.__enter__())
    return stream


def told(stream: Stream[Any], count: int) -> list[tuple[Any, bool]]:
    found = [next(stream) for _ in range(count)]
    return [(change.value, change.gap) for change in found]


class TestOrder:
    def test_doubled_and_old_notices_are_passed_over(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        stream = changes(counter)
        line.hold()
        for _ in range(3):
            counter.increment()
        line.release(lambda events: [*events[:2], *events, *events])
        assert told(stream, 3) == [(1, False), (2, False), (3, False)]
        settle()
        assert stream._pop() is None

    def test_lost_notice_is_a_gap_and_the_true_value(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        stream = changes(counter)
        line.hold()
        for _ in range(3):
            counter.increment()
        line.release(lambda events: [events[0], events[2]])
        assert told(stream, 2) == [(1, False), (3, True)]

    def test_splice_on_a_missing_base_is_never_guessed(self, line: ScriptedBackend) -> None:
        ref = DRef("text", "")
        ref.set("a" * 100)
        stream = changes(ref)
        line.hold()
        ref.set("b" * 90)
        ref.update(lambda text: text[:50] + "X" + text[50:])
        line.release(lambda events: events[1:])
        assert told(stream, 1) == [("b" * 50 + "X" + "b" * 40, True)]

    def test_splice_that_does_not_fit_is_a_gap_and_the_true_value(self, line: ScriptedBackend) -> None:
        ref = DRef("text", "")
        ref.set("short")
        stream = changes(ref)
        base = ref.version()
        line.hold()
        ref.set("a much longer text")
        forged = Notice("text", ref.version(), base, Patch.SPLICE, None, (500, 600, b"x"))  # type: ignore[arg-type]
        line.release(lambda events: [forged])
        assert told(stream, 1) == [("a much longer text", True)]

    def test_notices_out_of_order_are_put_into_order(self, unordered: ScriptedBackend) -> None:
        counter = Counter("n")
        stream = changes(counter)
        unordered.hold()
        for _ in range(5):
            counter.increment()
        unordered.release(lambda events: [events[place] for place in (1, 3, 0, 2, 4)])
        assert told(stream, 5) == [(number, False) for number in range(1, 6)]

    def test_conflating_readers_do_not_wait_for_order(self, unordered: ScriptedBackend) -> None:
        counter = Counter("n")
        stream = changes(counter, every=False)
        unordered.hold()
        for _ in range(3):
            counter.increment()
        unordered.release(lambda events: [events[2]])
        assert told(stream, 1) == [(3, False)]

    def test_notice_that_never_comes_is_a_gap_after_a_while(self, unordered: ScriptedBackend) -> None:
        counter = Counter("n")
        stream = changes(counter)
        unordered.hold()
        for _ in range(3):
            counter.increment()
        unordered.release(lambda events: events[1:])
        assert told(stream, 1) == [(3, True)]

    def test_notice_that_overtakes_the_first_read_is_not_lost(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        counter.increment()
        line.answering.shut()
        stream = counter.changes(every=True, timeout=PATIENCE)
        _, snapshot = stream._open()
        wait_until(lambda: line.reads > 0, "the first read", PATIENCE)
        counter.increment()
        counter.increment()
        settle()
        line.answering.open()
        snapshot.result(PATIENCE)
        assert told(stream, 3) == [(1, False), (2, False), (3, False)]

    def test_hints_lead_to_reading(self, line: ScriptedBackend) -> None:
        ref = DRef("large", "")
        stream = changes(ref)
        _write_as_hints(line, ref, ["one"])
        assert told(stream, 1) == [("one", False)]

    def test_value_between_two_hints_is_a_gap_for_who_wants_every_change(self, line: ScriptedBackend) -> None:
        ref = DRef("large", "")
        each, newest = changes(ref), changes(ref, every=False)
        _write_as_hints(line, ref, ["one", "two"])
        assert told(each, 1) == [("two", True)]
        assert told(newest, 1) == [("two", False)]


def _write_as_hints(line: ScriptedBackend, ref: DRef[str], values: list[str]) -> None:
    line.hold()
    for value in values:
        ref.set(value)
    line.release(
        lambda events: [
            event._replace(patch=Patch.HINT, data=None, splice=None) for event in events if isinstance(event, Notice)
        ]
    )


class TestLostConnections:
    def test_change_during_an_outage_is_told_as_a_gap_and_the_rest_as_nothing(self, line: ScriptedBackend) -> None:
        changed, same = Counter("changed"), Counter("same")
        first, second = changes(changed), changes(same)
        line.cut()
        assert changed.status == "STALE"
        changed.increment()
        changed.increment()
        line.restore()
        assert told(first, 1) == [(2, True)]
        wait_until(lambda: changed.status == "READY", "READY", PATIENCE)
        same.increment()
        assert told(second, 1) == [(1, False)]

    def test_gap_that_was_not_read_yet_stays_a_gap_when_a_change_replaces_it(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        newest, each = changes(counter, every=False), changes(counter)
        line.cut()
        counter.increment()
        line.restore()
        assert told(each, 1) == [(1, True)]
        counter.increment()
        assert told(each, 1) == [(2, False)]
        assert told(newest, 1) == [(2, True)]

    def test_value_that_was_set_back_under_a_new_epoch_is_believed(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        counter.set(1)
        version = counter.version()
        counter.set(2)
        stream = changes(counter)
        assert counter.peek() == 2
        line.cut()
        line.set_back("n", 1, version)
        line.restore("another epoch")
        change = next(stream)
        assert (change.value, change.version, change.gap) == (1, version, True)
        assert counter.peek() == 1

    def test_older_value_under_the_same_epoch_is_not(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        counter.set(1)
        version = counter.version()
        counter.set(2)
        stream = changes(counter)
        line.cut()
        line.set_back("n", 1, version)
        line.restore()
        wait_until(lambda: counter.status == "READY", "READY", PATIENCE)
        assert stream._pop() is None
        assert counter.peek() == 2

    def test_created_and_deleted_names_of_a_prefix_are_found_after_an_outage(self, line: ScriptedBackend) -> None:
        Counter("shop.old").set(1)
        Counter("shop.kept").set(5)
        with watch("shop.*", every=True, timeout=PATIENCE) as stream:
            assert {next(stream).name, next(stream).name} == {"shop.old", "shop.kept"}
            line.cut()
            Counter("shop.old").delete()
            Counter("shop.new").set(2)
            line.restore()
            found = {change.name: change for change in (next(stream), next(stream))}
        assert found["shop.new"].value == 2
        assert found["shop.old"].deleted
        assert found["shop.old"].gap

    def test_prefix_that_is_watched_during_an_outage_waits_for_its_end(self, line: ScriptedBackend) -> None:
        line.params = line.params.__class__(timeout=0.05, heartbeat=3600.0)
        changes(Counter("n"))
        line.cut()
        with pytest.raises(Unavailable, match="cannot be watched"):
            watch("shop.*").__enter__()
        line.restore()
        Counter("shop.a").set(1)
        with watch("shop.*", timeout=PATIENCE) as stream:
            assert next(stream).value == 1

    def test_name_that_is_known_is_shown_during_an_outage(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        counter.set(7)
        first = changes(counter)
        line.cut()
        with counter.changes(timeout=PATIENCE) as second:
            assert next(second).value == 7
        assert first._pop() is None

    def test_changes_before_a_name_was_found_are_a_gap_for_who_wants_every_change(self, line: ScriptedBackend) -> None:
        with watch("shop.*", every=True, timeout=PATIENCE) as stream:
            line.cut()
            Counter("shop.a").set(1)
            Counter("shop.a").set(2)
            line.restore()
            change = next(stream)
            assert (change.value, change.gap) == (2, True)

    def test_lost_hint_is_found_by_the_heartbeat(self, beating: ScriptedBackend) -> None:
        counter = Counter("n")
        stream = changes(counter)
        beating.write_silently("n", 7)
        assert told(stream, 1) == [(7, True)]

    def test_lost_hint_under_a_prefix_is_found_by_the_heartbeat(self, beating: ScriptedBackend) -> None:
        Counter("shop.a").set(1)
        with watch("shop.*", timeout=PATIENCE) as stream:
            assert next(stream).value == 1
            beating.write_silently("shop.a", 7)
            beating.write_silently("shop.b", 8)
            assert {(change.name, change.value) for change in (next(stream), next(stream))} == {
                ("shop.a", 7),
                ("shop.b", 8),
            }

    def test_reads_that_fail_are_repeated(self, line: ScriptedBackend, caplog: pytest.LogCaptureFixture) -> None:
        counter = Counter("n")
        stream = changes(counter)
        line.cut()
        line.params = line.params.__class__(timeout=0.05, heartbeat=3600.0)
        line.unreachable_now = True
        counter.increment()
        with caplog.at_level(logging.INFO, logger="dref_django"):
            line.restore()
            wait_until(lambda: "cannot be read yet" in caplog.text, "a failed read", PATIENCE)
        assert counter.status == "STALE"
        line.unreachable_now = False
        assert told(stream, 1) == [(1, True)]

    def test_surprising_error_does_not_end_the_reading(
        self, line: ScriptedBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        counter = Counter("n")
        stream = changes(counter)
        line.cut()
        line.fault = ZeroDivisionError("a bug")
        counter.increment()
        line.restore()
        wait_until(lambda: "a bug" in caplog.text, "the error in the log", PATIENCE)
        line.fault = None
        assert told(stream, 1) == [(1, True)]


class TestExpiry:
    def test_watchers_hear_of_an_expiry_as_a_deletion_without_a_gap(self, line: ScriptedBackend) -> None:
        line.clock = clock = ManualClock()
        counter = Counter("n")
        counter.set(5, ttl=10)
        stream = changes(counter)
        clock.advance(10.1)
        change = next(stream)
        assert (change.value, change.deleted, change.gap) == (0, True, False)

    def test_new_deadline_moves_the_expiry(self, line: ScriptedBackend) -> None:
        line.clock = clock = ManualClock()
        counter = Counter("n")
        counter.set(5, ttl=10)
        stream = changes(counter)
        counter.expire(100)
        assert told(stream, 1) == [(5, False)]
        clock.advance(50)
        counter.increment()
        assert told(stream, 1) == [(6, False)]
        clock.advance(50.1)
        assert next(stream).deleted

    def test_write_that_overtakes_the_timer_tells_of_the_expiry_first(self, line: ScriptedBackend) -> None:
        line.clock = clock = ManualClock()
        counter = Counter("n")
        counter.set(5, ttl=10)
        stream = changes(counter)
        line.answering.shut()
        clock.advance(11)
        counter.set(6)
        expired, written = next(stream), next(stream)
        assert (expired.deleted, expired.gap) == (True, False)
        assert (written.value, written.gap) == (6, False)
        line.answering.open()

    def test_expiry_of_a_name_under_a_prefix_is_told(self, line: ScriptedBackend) -> None:
        line.clock = clock = ManualClock()
        with watch("shop.*", timeout=PATIENCE) as stream:
            Counter("shop.a").set(1, ttl=10)
            assert next(stream).value == 1
            clock.advance(11)
            assert next(stream).deleted


class TestComingAndGoing:
    def test_names_nobody_watches_any_more_are_let_go(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        first, second = changes(counter), changes(counter)
        assert line.subscribed == ["n"]
        first.close()
        settle()
        assert line.subscribed == ["n"]
        second.close()
        wait_until(lambda: not line.subscribed, "the subscription to end", PATIENCE)
        assert not get_hub(line).cells

    def test_name_that_is_let_go_and_wanted_again_at_once_is_watched(self, line: ScriptedBackend) -> None:
        counter = Counter("n")
        first = changes(counter)
        busy, idle = threading.Event(), threading.Event()

        def occupy() -> None:
            busy.set()
            idle.wait(PATIENCE)

        background.get_loop().call_soon_threadsafe(occupy)
        busy.wait(PATIENCE)
        first.close()
        second = counter.changes(every=True, timeout=PATIENCE)
        _, snapshot = second._open()
        idle.set()
        snapshot.result(PATIENCE)
        counter.increment()
        assert told(second, 2) == [(0, False), (1, False)]

    def test_forgotten_streams_are_let_go(self, line: ScriptedBackend) -> None:
        stream = changes(Counter("n"))
        assert line.subscribed
        del stream
        gc.collect()
        wait_until(lambda: not line.subscribed, "the subscription to end", PATIENCE)

    def test_name_goes_on_after_the_prefix_that_covered_it(self, line: ScriptedBackend) -> None:
        counter = Counter("shop.a")
        counter.set(1)
        prefix = watch("shop.*", timeout=PATIENCE)
        next(prefix.__enter__())
        stream = changes(counter)
        prefix.close()
        settle()
        counter.increment()
        assert told(stream, 1) == [(2, False)]

    def test_prefix_goes_on_after_a_name_under_it(self, line: ScriptedBackend) -> None:
        counter = Counter("shop.a")
        counter.set(1)
        stream = changes(counter)
        with watch("shop.*", timeout=PATIENCE) as prefix:
            assert next(prefix).value == 1
            stream.close()
            settle()
            counter.increment()
            assert next(prefix).value == 2

    def test_stream_that_cannot_open_leaves_nothing_behind(self, line: ScriptedBackend) -> None:
        line.params = line.params.__class__(timeout=0.05, heartbeat=3600.0)
        line.answering.shut()
        with pytest.raises(Unavailable, match="'n' cannot be watched"):
            Counter("n").changes().__enter__()
        line.answering.open()
        wait_until(lambda: not line.subscribed, "the subscription to end", PATIENCE)
        assert not get_hub(line).cells

    @pytest.mark.parametrize("pattern", ["n", "n*"])
    def test_stream_that_gives_up_before_its_subscription_is_confirmed_leaves_nothing_behind(
        self, line: ScriptedBackend, pattern: str
    ) -> None:
        line.params = line.params.__class__(timeout=0.05, heartbeat=3600.0)
        line.confirming.shut()
        with pytest.raises(Unavailable):
            watch(pattern).__enter__()
        line.confirming.open()
        settle()
        wait_until(lambda: not line.subscribed, "the subscription to end", PATIENCE)
        hub = get_hub(line)
        assert not hub.cells
        assert not hub.prefixes

    def test_streams_end_when_their_back_end_is_replaced(self) -> None:
        with installed(ScriptedBackend()):
            stream = changes(Counter("n"))
        with pytest.raises(StopIteration):
            next(stream)

    def test_name_created_again_after_it_was_forgotten_is_a_change(self, line: ScriptedBackend) -> None:
        heard: list[Change[Any]] = []
        hub = get_hub(line)
        counter = Counter("shop.a")
        with watch("shop.*", timeout=PATIENCE) as stream:
            counter.set(1)
            heard.append(next(stream))
            counter.delete()
            heard.append(next(stream))
            line.cut()
            line.restore()  # finds the name gone, and forgets it
            wait_until(lambda: "shop.a" not in hub.cells, "the name to be forgotten", PATIENCE)
            counter.set(2)
            heard.append(next(stream))
        assert [change.value for change in heard] == [1, 0, 2]

    def test_batch_of_names_is_read_together(self, line: ScriptedBackend) -> None:
        streams = [changes(Counter(f"n{number}")) for number in range(150)]
        line.cut()
        line.execute([Write("n7", 7)])
        line.execute([Delete("n8")])
        line.restore()
        assert told(streams[7], 1) == [(7, True)]
        wait_until(lambda: Counter("n7").status == "READY", "READY", PATIENCE)
        assert all(stream._pop() is None for stream in (streams[0], streams[8], streams[149]))
