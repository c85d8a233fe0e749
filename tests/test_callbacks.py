"""`on_change`: callbacks on a thread of their own, which may do anything, and whose failures stay their own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import request_started

from dref_django import Change, Counter, DRef, start, streams
from dref_django.backends.base import Params
from dref_django.backends.memory import MemoryBackend
from dref_django.streams import Subscription
from tests.kinds import installed
from tests.processes import wait_until
from tests.scripted import PATIENCE, ScriptedBackend, settle


class Heard:
    """A callback that remembers, and lets a test wait for what it heard."""

    def __init__(self) -> None:
        self.changes: queue.Queue[Change[Any]] = queue.Queue()
        self.threads: set[str] = set()

    def __call__(self, change: Change[Any]) -> None:
        self.threads.add(threading.current_thread().name)
        self.changes.put(change)

    def next(self) -> Change[Any]:
        return self.changes.get(timeout=PATIENCE)

    def until(self, value: Any) -> list[Any]:
        found: list[Any] = []
        while not found or found[-1] != value:
            found.append(self.next().value)
        return found


@pytest.fixture
def heard() -> Heard:
    return Heard()


def drained() -> None:
    """Returns when every callback that was due has run."""
    settle()
    done = threading.Event()
    streams.call_back(done.set)
    assert done.wait(PATIENCE)


def occupied() -> threading.Event:
    """The callback thread does nothing else until the event is set."""
    busy, idle = threading.Event(), threading.Event()

    def wait() -> None:
        busy.set()
        idle.wait(PATIENCE)

    streams.call_back(wait)
    assert busy.wait(PATIENCE)
    return idle


def listening(subscription: Subscription[Any]) -> Subscription[Any]:
    """The subscription once it has its snapshot: what comes now is a change."""
    subscription.bind()
    hub = subscription._hub
    assert hub is not None
    name = str(subscription._name)
    wait_until(lambda: name in hub.cells and hub.cells[name].known, "the snapshot", PATIENCE)
    return subscription


@pytest.mark.usefixtures("any_backend")
class TestEveryBackend:
    def test_callback_hears_of_changes_by_any_process(self, heard: Heard, peer: str) -> None:
        here, there = Counter("n"), Counter("n", using=peer)
        with listening(here.on_change(heard)):
            there.set(5)
            change = heard.next()
            assert (change.name, change.value, change.deleted, change.gap) == ("n", 5, False, False)
            there.delete()
            assert heard.next().deleted
            here.increment()
            assert heard.next().value == 1
        assert heard.threads == {"dref-callbacks"}

    def test_every_change_is_told_when_asked_for(self, heard: Heard, peer: str) -> None:
        with listening(Counter("n").on_change(heard, every=True)):
            for _ in range(50):
                Counter("n", using=peer).increment()
            assert heard.until(50) == list(range(1, 51))

    def test_callback_may_use_refs(self, heard: Heard) -> None:
        source, total = Counter("source"), Counter("total")

        def add(change: Change[int]) -> None:
            total.update(lambda value: value + change.value)
            heard(change)

        with listening(source.on_change(add, every=True)):
            for number in (1, 2, 3):
                source.set(number)
            heard.until(3)
        assert total.get() == 6


@pytest.fixture
def line() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    with installed(backend):
        yield backend


@pytest.mark.usefixtures("line")
class TestRules:
    def test_value_of_the_start_is_no_change(self, heard: Heard) -> None:
        counter = Counter("n")
        counter.set(5)
        with listening(counter.on_change(heard)):
            drained()
            assert heard.changes.empty()

    def test_change_right_after_the_start_is_not_taken_for_the_start(self, line: ScriptedBackend, heard: Heard) -> None:
        """The callback's thread is busy while snapshot and change arrive: they conflate, and it is a change."""
        counter = Counter("n")
        idle = occupied()
        with listening(counter.on_change(heard)):
            settle()
            counter.set(1)
            settle()
            idle.set()
            assert heard.next().value == 1

    def test_callback_that_raises_is_logged_and_called_again(
        self, heard: Heard, caplog: pytest.LogCaptureFixture
    ) -> None:
        counter = Counter("n")

        def fail(change: Change[int]) -> None:
            heard(change)
            raise SystemExit if change.value == 1 else ZeroDivisionError

        with listening(counter.on_change(fail, every=True)):
            for number in (1, 2, 3):
                counter.set(number)
            assert heard.until(3) == [1, 2, 3]
            drained()
        assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
        assert "a callback on changes of 'n' raised" in caplog.text

    def test_closed_subscription_hears_nothing(self, heard: Heard) -> None:
        counter = Counter("n")
        subscription = listening(counter.on_change(heard))
        subscription.close()
        subscription.close()
        counter.set(1)
        drained()
        assert heard.changes.empty()

    def test_callback_may_close_its_own_subscription(self, heard: Heard) -> None:
        counter = Counter("n")

        def once(change: Change[int]) -> None:
            heard(change)
            subscription.close()

        subscription = listening(counter.on_change(once, every=True))
        for number in (1, 2, 3):
            counter.set(number)
        assert heard.next().value == 1
        drained()
        assert heard.changes.empty()

    def test_callback_may_subscribe_and_write(self, heard: Heard) -> None:
        first, second = Counter("first"), Counter("second")
        made: list[Subscription[Any]] = []

        def follow(_: Change[int]) -> None:
            if not made:
                made.append(listening(second.on_change(heard, every=True)))
                second.set(7)

        with listening(first.on_change(follow)):
            first.set(1)
            assert heard.next().value == 7
        made[0].close()

    def test_decorator_leaves_the_function_callable(self, heard: Heard) -> None:
        counter = Counter("n")

        @counter.on_change
        def report(change: Change[int]) -> None:
            heard(change)

        listening(report)
        counter.set(1)
        change = heard.next()
        report(change)
        assert heard.next() is change
        report.close()

    def test_what_is_no_function_is_refused(self) -> None:
        with pytest.raises(TypeError, match="on_change takes a callable"):
            Counter("n").on_change(5)  # type: ignore[arg-type]

    def test_busy_callback_does_not_starve_the_others(self, heard: Heard) -> None:
        busy, other = Counter("busy"), Counter("other")
        stop = threading.Event()

        def feed_itself(_: Change[int]) -> None:
            if not stop.is_set():
                busy.increment()
                settle()

        with listening(busy.on_change(feed_itself, every=True)), listening(other.on_change(heard)):
            busy.increment()
            other.set(1)
            assert heard.next().value == 1
            stop.set()

    def test_value_that_cannot_be_decoded_fails_in_the_callback_alone(
        self, heard: Heard, caplog: pytest.LogCaptureFixture
    ) -> None:
        counter = Counter("n")
        values: list[int] = []

        def read(change: Change[int]) -> None:
            heard(change)
            values.append(change.value)

        with listening(counter.on_change(read, every=True)):
            DRef[Any]("n").set("no number")
            counter.set(2)
            heard.next(), heard.next()
            drained()
        assert values == [2]
        assert "raised" in caplog.text


class TestRegistering:
    def test_registering_touches_no_back_end(self, monkeypatch: pytest.MonkeyPatch, heard: Heard) -> None:
        monkeypatch.setattr(streams, "_active", False)
        with installed(ScriptedBackend()) as backend:
            assert isinstance(backend, ScriptedBackend)
            subscription = Counter("n").on_change(heard)
            assert not backend.feeds
            start()
            settle()
            assert backend.subscribed == ["n"]
            subscription.close()

    def test_first_operation_on_any_ref_starts_what_is_registered(
        self, monkeypatch: pytest.MonkeyPatch, heard: Heard
    ) -> None:
        monkeypatch.setattr(streams, "_active", False)
        with installed(ScriptedBackend()) as backend:
            assert isinstance(backend, ScriptedBackend)
            with Counter("n").on_change(heard):
                assert not backend.feeds
                Counter("another").get()
                settle()
                assert backend.subscribed == ["n"]

    @pytest.mark.django_db  # Django itself looks after its connections when a request starts
    def test_first_request_starts_what_is_registered(self, monkeypatch: pytest.MonkeyPatch, heard: Heard) -> None:
        monkeypatch.setattr(streams, "_active", False)
        with installed(ScriptedBackend()) as backend:
            assert isinstance(backend, ScriptedBackend)
            with Counter("n").on_change(heard):
                mine = [
                    receiver()
                    for _, receiver, *_ in request_started.receivers
                    if receiver().__module__.startswith("dref_django")
                ]
                for receive in mine:
                    receive(sender=object)
                settle()
                assert backend.subscribed == ["n"]

    def test_failure_to_start_does_not_fail_the_request(
        self, monkeypatch: pytest.MonkeyPatch, heard: Heard, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(streams, "_active", False)
        with Counter("n", using="no such alias").on_change(heard):
            streams.start_registered()
        assert "registered callbacks cannot be started" in caplog.text
        assert "no such alias" in caplog.text

    def test_callbacks_follow_to_another_back_end_and_hear_nothing_of_the_old_one(self, heard: Heard) -> None:
        counter = Counter("n")
        first, second = MemoryBackend(Params()), MemoryBackend(Params())
        with installed(first):
            subscription = listening(counter.on_change(heard))
            counter.set(1)
            assert heard.next().value == 1
            with installed(second):
                counter.get()
                listening(subscription)
                counter.set(2)
                assert heard.next().value == 2
            subscription.close()

    def test_change_that_waits_is_dropped_with_its_back_end(self, heard: Heard) -> None:
        counter = Counter("n")
        with installed(MemoryBackend(Params())):
            subscription = listening(counter.on_change(heard))
            idle = occupied()
            counter.set(1)
            settle()
        idle.set()
        drained()
        assert heard.changes.empty()
        subscription.close()
