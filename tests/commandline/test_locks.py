"""locks, break and leader."""

from __future__ import annotations

import os
import socket

import pytest

from dref_django import Election, LockLost, lock
from tests.commandline.conftest import dref

pytestmark = pytest.mark.usefixtures("any_backend")


def test_locks_tells_who_holds_what() -> None:
    with lock("billing") as held:
        (record,) = dref("locks", "bill", "--json").records
        table = dref("locks").out
    assert (record["name"], record["host"], record["pid"]) == ("billing", socket.gethostname(), os.getpid())
    assert record["token"] == held.token
    assert f"pid {os.getpid()}" in table
    assert dref("locks").out == ""


def test_locks_of_every_kind_on_request() -> None:
    with lock("billing"), Election("boss").lead():
        assert {record["kind"] for record in dref("locks", "--all", "--json").records} == {"lock", "election"}
        assert [record["name"] for record in dref("locks", "bo", "--all", "--json").records] == ["boss"]


def test_break_takes_the_lock_from_its_holder() -> None:
    held = lock("billing").acquire()
    assert dref("break", "billing", "--token", str(held.token - 1)).code == 1
    assert dref("break", "billing").code == 0
    with lock("billing", timeout=5) as after:
        assert after.token > held.token
    with pytest.raises(LockLost):
        lock("billing").release(held)


def test_break_of_a_free_lock_is_code_1() -> None:
    outcome = dref("break", "billing", "--json")
    assert outcome.code == 1
    assert outcome.records == [{"kind": "lock", "name": "billing", "broken": False}]


def test_leader() -> None:
    assert dref("leader", "boss").code == 1
    with Election("boss", identity="me").lead():
        assert dref("leader", "boss").out.startswith("me (host ")
        (record,) = dref("leader", "boss", "--json").records
    assert record["leader"]["identity"] == "me"
