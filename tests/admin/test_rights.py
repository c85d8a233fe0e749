"""Every page and action, as each kind of user."""

from __future__ import annotations

import pytest
from django.contrib.admin import AdminSite
from django.http import HttpResponseBase
from django.test import Client, override_settings
from django.urls import path

import dref_django.admin
from dref_django import Counter, lock
from dref_django.backends import Backend
from tests.admin.conftest import KINDS_OF_USER, ROOT, ClientOf, break_url, change_url
from tests.kinds import installed, make
from tests.settings import NOWHERE_REDIS

own_site = AdminSite(name="backstage")
dref_django.admin.register(own_site)
urlpatterns = [path("backstage/", own_site.urls)]

SEES_REFS = {"superuser", "viewer", "changer"}
SEES_LOCKS = SEES_REFS | {"breaker"}
CHANGES = {"superuser", "changer"}
BREAKS = {"superuser", "breaker"}

pytestmark = pytest.mark.django_db


def was_let_in(answer: HttpResponseBase) -> bool:
    """Else: 403 for staff, the login page for others."""
    if answer.status_code == 302 and "/login/" in answer.headers["Location"]:
        return False
    assert answer.status_code in (200, 302, 403), answer.status_code
    return answer.status_code != 403


@pytest.mark.parametrize("kind", KINDS_OF_USER)
def test_each_user_may_do_just_that(any_backend: object, client_of: ClientOf, kind: str) -> None:
    visits = Counter("visits")
    visits.set(1)
    client = client_of(kind)
    assert was_let_in(client.get(change_url("visits"))) == (kind in SEES_REFS)
    assert was_let_in(client.get(f"{ROOT}health/")) == (kind in SEES_REFS)
    assert was_let_in(client.get(f"{ROOT}presence/")) == (kind in SEES_REFS)
    assert was_let_in(client.get(f"{ROOT}locks/")) == (kind in SEES_LOCKS)
    assert was_let_in(client.get(f"{ROOT}elections/")) == (kind in SEES_LOCKS)
    listing = client.get(ROOT)
    assert was_let_in(listing) == (kind in SEES_LOCKS)
    assert (listing.status_code == 200) == (kind in SEES_REFS)  # who only breaks locks is sent there

    change = client.post(change_url("visits"), {"version": visits.version(), "value": "2"})
    assert was_let_in(change) == (kind in CHANGES)
    assert visits.get() == (2 if kind in CHANGES else 1)

    held = lock("billing").acquire()
    assert was_let_in(client.post(break_url("billing", held.token))) == (kind in BREAKS)
    assert (lock("billing", timeout=0, otherwise="skip")(lambda: True)() is True) == (kind in BREAKS)
    held.hand_back()


@pytest.mark.parametrize("kind", KINDS_OF_USER)
def test_index_links_for_whom_there_is_something(client_of: ClientOf, kind: str) -> None:
    page = client_of(kind).get("/admin/", follow=True)
    assert (f'href="{ROOT}"' in page.content.decode()) == (kind in SEES_LOCKS)


def test_forms_and_links_show_only_what_is_allowed(client_of: ClientOf) -> None:
    Counter("visits").set(1)
    with lock("billing"):
        viewer = client_of("viewer")
        assert b"<textarea" not in viewer.get(change_url("visits")).content
        assert b"Break" not in viewer.get(f"{ROOT}locks/").content
        assert b"Break" in client_of("breaker").get(f"{ROOT}locks/").content


def test_changes_need_the_csrf_token(superuser: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = superuser.cookies
    Counter("visits").set(1)
    assert strict.post(change_url("visits"), {"version": "1", "value": "2"}).status_code == 403


@override_settings(ROOT_URLCONF=__name__)
def test_site_of_the_projects_own(superuser: Client) -> None:
    Counter("visits").set(1)
    page = superuser.get("/backstage/dref_django/ref/")
    assert page.status_code == 200
    text = page.content.decode()
    assert '"/backstage/dref_django/ref/locks/"' in text
    assert '"/backstage/dref_django/ref/visits/change/"' in text
    assert '"/admin/' not in text


@override_settings(DREF_BACKEND={"BACKEND": "redis", "TIMEOUT": 0.3, "OPTIONS": {"URL": NOWHERE_REDIS}})
def test_server_that_is_away_is_said_to_be(superuser: Client) -> None:
    for address in (ROOT, f"{ROOT}locks/", change_url("a")):
        answer = superuser.get(address)
        assert answer.status_code == 503
        assert "cannot be reached" in answer.content.decode()
    assert "DOWN" in superuser.get(f"{ROOT}health/").content.decode()


def test_health_tells_facts(served_backend: Backend, superuser: Client) -> None:
    text = superuser.get(f"{ROOT}health/").content.decode()
    assert "READY" in text
    facts = served_backend.facts()
    assert facts
    assert all(name in text for name in facts)


def test_health_tells_members_of_a_cluster(request: pytest.FixtureRequest, superuser: Client) -> None:
    with installed(make("raft", request)):
        page = superuser.get(f"{ROOT}health/")
    (row,) = page.context["rows"]
    assert [(member["role"], member["lag"]) for member in row["members"]] == [("leader", 0)]
    assert row["members"][0]["node"] in page.content.decode()


def test_unknown_alias_is_404(superuser: Client) -> None:
    assert superuser.get(ROOT, {"using": "nowhere"}).status_code == 404
