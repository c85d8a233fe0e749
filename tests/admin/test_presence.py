"""The rooms and who is in them."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from dref_django import Presence
from dref_django.admin import presence
from tests.admin.conftest import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("any_backend")]


def shown(page: Any) -> list[tuple[str, int]]:
    return [(row["room"], row["count"]) for row in page.context["rows"]]


def test_rooms_and_members(superuser: Client) -> None:
    room = Presence("room-1")
    room.join("alice", {"name": "Alice <b>"})
    room.join("bob")
    Presence("hall").join("bob")
    page = superuser.get(f"{ROOT}presence/")
    assert shown(page) == [("hall", 1), ("room-1", 2)]
    assert b"alice" in page.content
    assert b"<b>" not in page.content
    assert shown(superuser.get(f"{ROOT}presence/", {"q": "room"})) == [("room-1", 2)]
    room.leave("alice")
    room.leave("bob")
    assert shown(superuser.get(f"{ROOT}presence/")) == [("hall", 1)]


def test_page_by_page(superuser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "PAGE", 2)
    for room in "abc":
        Presence(room).join("alice")
    page = superuser.get(f"{ROOT}presence/")
    assert shown(page) == [("a", 1), ("b", 1)]
    assert shown(superuser.get(page.context["following"])) == [("c", 1)]


def test_nobody_anywhere(superuser: Client) -> None:
    assert b"Nobody is anywhere" in superuser.get(f"{ROOT}presence/").content
