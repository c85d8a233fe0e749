"""READY, STALE and DOWN, with reasons for those who may know them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.http.response import HttpResponseBase
from django.test import RequestFactory, override_settings

from dref_django import Counter, health
from dref_django.backends import Backend
from dref_django.health import HealthView, State
from dref_django.streams import get_hub
from tests.processes import wait_until
from tests.settings import NOWHERE_REDIS

NOWHERE = {"BACKEND": "redis", "TIMEOUT": 0.3, "OPTIONS": {"URL": NOWHERE_REDIS}}


def asked(user: Any = None, **options: Any) -> HttpResponseBase:
    request = RequestFactory().get("/health/")
    request.user = user or AnonymousUser()
    return HealthView.as_view(**options)(request)


def body(answer: Any) -> Any:
    return json.loads(answer.content)


class TestReady:
    def test_back_end_that_answers(self, any_backend: Backend) -> None:
        found = health.check()
        assert (found.state, found.reasons) == (State.READY, ())
        assert found.latency is not None
        answer = asked()
        assert answer.status_code == 200
        assert body(answer) == {"state": "READY", "backends": {"default": "READY"}}
        assert answer.headers["Cache-Control"] == "no-store"


class TestStale:
    def test_listener_that_is_away(self, any_backend: Backend) -> None:
        visits = Counter("visits")
        visits.set(1)
        visits.peek()
        hub = get_hub(any_backend)
        wait_until(lambda: health.check().state is State.READY, "the listener", 10)
        hub.start().call_soon_threadsafe(hub.down, "somebody cut the cable")
        wait_until(lambda: hub.trouble != "", "the loss to be noticed", 10)
        found = health.check()
        assert found.state is State.STALE
        assert "somebody cut the cable" in found.reasons[0]
        assert asked().status_code == 200
        assert asked(stale_status=503).status_code == 503


class TestDown:
    @override_settings(DREF_BACKEND=NOWHERE)
    def test_server_that_is_away(self) -> None:
        answer = asked()
        assert answer.status_code == 503
        assert body(answer) == {"state": "DOWN", "backends": {"default": "DOWN"}}

    @pytest.mark.django_db
    @override_settings(DREF_BACKEND=NOWHERE)
    def test_reasons_only_for_those_who_may_know(self) -> None:
        user = User.objects.create_user("viewer")
        assert body(asked(user))["backends"] == {"default": "DOWN"}
        user.user_permissions.add(Permission.objects.get(codename="view_ref"))
        told = body(asked(User.objects.get()))["backends"]["default"]
        assert told["backend"] == "redis"
        assert "cannot be reached" in told["reasons"][0]
        assert body(asked(details=True))["backends"]["default"]["reasons"] == told["reasons"]

    @override_settings(DREF_BACKEND="nonsense")
    def test_settings_that_make_no_sense(self) -> None:
        assert health.check_all()[0].state is State.DOWN
        assert asked().status_code == 503


def test_worst_of_several_counts() -> None:
    kinds = [health.Health("a", "", state, (), None) for state in (State.READY, State.STALE, State.DOWN)]
    assert health.worst(kinds) is State.DOWN
    assert health.worst(kinds[:2]) is State.STALE
    assert health.worst([]) is State.READY
