"""What the log says at the moments an operator needs, and the fields that a log collector finds in it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dref_django import Counter, Election, LockLost, lock
from dref_django.backends import Backend
from dref_django.cells import FeedStatus
from dref_django.inspection import break_lock
from dref_django.streams import get_hub
from tests.processes import wait_until

pytestmark = pytest.mark.usefixtures("any_backend")


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dref_django")


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    fields = ({key: item for key, item in vars(record).items() if key.startswith("dref_")} for record in caplog.records)
    return [found for found in fields if found]


def test_lost_lock(caplog: pytest.LogCaptureFixture) -> None:
    held = lock("billing").acquire()
    break_lock("billing")
    with pytest.raises(LockLost):
        lock("billing").release(held)
    (event,) = events(caplog)
    assert event == {
        "dref_event": "lock_lost",
        "dref_kind": "lock",
        "dref_name": "billing",
        "dref_token": held.token,
    }


def test_changes_of_the_leader(caplog: pytest.LogCaptureFixture) -> None:
    with Election("boss").lead() as term:
        pass
    assert events(caplog) == [
        {"dref_event": "elected", "dref_name": "boss", "dref_token": term.token},
        {"dref_event": "resigned", "dref_name": "boss", "dref_token": term.token},
    ]


def test_lost_and_found_listener(any_backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    Counter("visits").peek()
    hub = get_hub(any_backend)
    loop = hub.start()
    wait_until(lambda: hub.status is FeedStatus.READY, "the listener", 10)
    loop.call_soon_threadsafe(hub.down, "somebody cut the cable")
    loop.call_soon_threadsafe(hub.up, "another epoch")
    wait_until(lambda: len(events(caplog)) == 2, "both to be told", 10)
    lost, found = events(caplog)
    assert lost == {"dref_event": "disconnected", "dref_alias": "default"}
    assert found.pop("dref_seconds") >= 0
    assert found == {"dref_event": "reconnected", "dref_alias": "default"}
    assert "values may go back" in caplog.text


def test_nothing_is_said_of_what_is_normal(caplog: pytest.LogCaptureFixture) -> None:
    visits = Counter("visits")
    with lock("billing"):
        for _ in range(10):
            visits.increment()
    assert not caplog.records
