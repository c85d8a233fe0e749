"""Locks and elections, and breaking them."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from dref_django import Election, LockLost, lock
from dref_django.inspection import lock_info
from tests.admin.conftest import ROOT, ClientOf, break_url
from tests.admin.test_refs import text_of
from tests.processes import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("any_backend")]


def test_locks_show_their_holder(superuser: Client) -> None:
    with lock("billing") as held:
        page = text_of(superuser.get(f"{ROOT}locks/"))
    assert f"{socket.gethostname()} pid {os.getpid()}" in page
    assert str(held.token) in page
    assert "billing" not in text_of(superuser.get(f"{ROOT}locks/"))


def test_elections_show_their_leader(superuser: Client) -> None:
    with Election("boss", identity="me", metadata={"zone": "b"}).lead():
        page = text_of(superuser.get(f"{ROOT}elections/"))
    assert "me" in page
    assert "zone" in page
    assert "Nobody leads" in text_of(superuser.get(f"{ROOT}elections/"))


def test_break_asks_first_then_wakes_the_next_and_names_the_actor(client_of: ClientOf) -> None:
    client = client_of("breaker")
    held = lock("billing").acquire()
    address = break_url("billing", held.token)
    assert "Take lock billing from its holder?" in text_of(client.get(address))
    held.check()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock("billing", timeout=20).acquire)
        wait_until(lambda: (info := lock_info("billing")) is not None and info.waiters == 1, "a waiter", 10)
        answer = client.post(address, follow=True)
        assert "billing was taken from" in text_of(answer)
        after = waiting.result(20)
    assert after.token > held.token
    with pytest.raises(LockLost):
        lock("billing").release(held)
    lock("billing").release(after)
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_repr) == ("breaker", "lock billing")
    assert str(os.getpid()) in entry.change_message


def test_leader_is_deposed(superuser: Client) -> None:
    term = Election("boss").campaign()
    answer = superuser.post(break_url("boss", term.token, "election"))
    assert answer.status_code == 302
    assert Election("boss").leader() is None


def test_break_hits_only_the_holder_that_was_seen(superuser: Client) -> None:
    with lock("billing") as held:
        answer = superuser.post(break_url("billing", held.token - 1), follow=True)
        assert "nothing was done" in text_of(answer)
        held.check()
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("query", ["", "?kind=lock&name=a", "?kind=what&name=a&token=1", "?kind=lock&name=&token=1"])
def test_break_of_nothing_is_404(superuser: Client, query: str) -> None:
    assert superuser.post(f"{ROOT}locks/break/{query}").status_code == 404
