"""The admin on every back end, and a client for each kind of user."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.test import Client

ROOT = "/admin/dref_django/ref/"
KINDS_OF_USER = ("superuser", "viewer", "changer", "breaker", "staff", "nobody")
RIGHTS = {"viewer": "view_ref", "changer": "change_ref", "breaker": "break_lock"}

ClientOf = Callable[[str], Client]


@pytest.fixture
def client_of(db: None) -> ClientOf:
    """`client_of("viewer")`: logged in as one with just that right; "nobody" is not logged in."""

    def get(kind: str) -> Client:
        client = Client()
        if kind == "nobody":
            return client
        user = User.objects.create_user(kind, password="secret", is_staff=True, is_superuser=kind == "superuser")
        if kind in RIGHTS:
            permission = Permission.objects.get(content_type__app_label="dref_django", codename=RIGHTS[kind])
            user.user_permissions.add(permission)
        client.force_login(user)
        return client

    return get


@pytest.fixture
def superuser(client_of: ClientOf) -> Client:
    return client_of("superuser")


def change_url(name: str) -> str:
    return f"{ROOT}{quote(name)}/change/"


def break_url(name: str, token: int, kind: str = "lock") -> str:
    return f"{ROOT}locks/break/?{urlencode({'kind': kind, 'name': name, 'token': token})}"
