"""`dref_changed`: Django's signal for changes of refs."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from dref_django import Counter, Flag, streams
from dref_django.signals import ChangeSignal, dref_changed
from dref_django.streams import Buffer
from tests.processes import wait_until
from tests.scripted import PATIENCE
from tests.test_callbacks import drained


class Receiver:
    """Remembers (sender, name, value)."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Any, str, Any]] = queue.Queue()

    def __call__(self, sender: Any, name: str, change: Any, **_: Any) -> None:
        self.calls.put((sender, name, change.value))

    def next(self) -> tuple[Any, str, Any]:
        return self.calls.get(timeout=PATIENCE)


@pytest.fixture
def signal() -> Iterator[ChangeSignal]:
    signal = ChangeSignal()
    yield signal
    for lookup, *_ in list(signal.receivers):
        signal.receivers = [receiver for receiver in signal.receivers if receiver[0] != lookup]
    for subscriptions in signal._subscriptions.values():
        for subscription in subscriptions:
            subscription.close()


def watched(signal: ChangeSignal, refs: int) -> None:
    """Returns when the signal listens: its snapshots were read."""
    streams.start()
    for subscriptions in signal._subscriptions.values():
        for subscription in subscriptions:
            hub = subscription._hub
            assert hub is not None
            wait_until(lambda hub=hub: hub.status == "READY", "READY", PATIENCE)  # type: ignore[misc]
            beside = Buffer(False, 1, lambda: None)  # hears of its snapshot after those that came before
            hub.add(beside, name=subscription._name, prefix=subscription._prefix).result(PATIENCE)
            hub.remove(beside)
    drained()
    assert len(signal._subscriptions) == refs


@pytest.mark.usefixtures("any_backend")
class TestSignal:
    def test_receiver_hears_of_the_ref_it_asked_for(self, signal: ChangeSignal, peer: str) -> None:
        maintenance, other = Flag("maintenance"), Flag("other")
        receiver = Receiver()
        signal.connect(receiver, sender=maintenance)
        watched(signal, 1)
        Flag("other", using=peer).set(True)
        Flag("maintenance", using=peer).set(True)
        assert receiver.next() == (maintenance, "maintenance", True)
        assert other.get() is True

    def test_receiver_without_sender_hears_of_every_ref_once(self, signal: ChangeSignal) -> None:
        declared = Counter("declared")
        everything, one = Receiver(), Receiver()
        signal.connect(everything)
        signal.connect(one, sender=declared)
        watched(signal, 2)
        declared.set(1)
        assert everything.next() == (declared, "declared", 1)
        assert one.next() == (declared, "declared", 1)
        undeclared = Counter("elsewhere")
        undeclared.set(2)
        sender, name, value = everything.next()
        assert (sender, name, value) == (undeclared, "elsewhere", 2)
        drained()
        assert everything.calls.empty()

    def test_two_objects_of_one_ref_are_told_of_once_each(self, signal: ChangeSignal) -> None:
        first = Counter("n")
        everything, one = Receiver(), Receiver()
        signal.connect(one, sender=first)
        Counter("n")  # declared again elsewhere
        signal.connect(everything)
        watched(signal, 2)
        first.set(1)
        assert one.next() == (first, "n", 1)
        assert everything.next()[1:] == ("n", 1)
        drained()
        assert everything.calls.empty()

    def test_receiver_that_raises_does_not_keep_others_from_hearing(
        self, signal: ChangeSignal, caplog: pytest.LogCaptureFixture
    ) -> None:
        counter, receiver = Counter("n"), Receiver()

        def fail(**_: Any) -> None:
            raise ZeroDivisionError

        signal.connect(fail, sender=counter)
        signal.connect(receiver, sender=counter)
        watched(signal, 1)
        counter.set(1)
        assert receiver.next()[2] == 1
        assert "ZeroDivisionError" in caplog.text

    def test_disconnecting_the_last_receiver_stops_watching(self, signal: ChangeSignal) -> None:
        counter, first, second = Counter("n"), Receiver(), Receiver()
        signal.connect(first, sender=counter)
        signal.connect(second, sender=counter)
        watched(signal, 1)
        assert signal.disconnect(first, sender=counter)
        counter.set(1)
        assert second.next()[2] == 1
        assert signal.disconnect(second, sender=counter)
        assert not signal._subscriptions
        assert not signal.disconnect(second, sender=counter)


def test_public_signal_is_one_of_these() -> None:
    assert isinstance(dref_changed, ChangeSignal)
