"""The list of refs and the page of one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from dref_django import Counter, DRef, Election
from dref_django.backends import Backend
from dref_django.protocol import Write
from tests.admin.conftest import ROOT, ClientOf, change_url

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("any_backend")]


def anything(name: str, **options: Any) -> DRef[Any]:
    return DRef(name, None, **options)


def text_of(response: Any) -> str:
    return str(response.content.decode())


def names(response: Any) -> list[str]:
    return [unescape(name) for name in re.findall(r'<th scope="row"><a href="[^"]*">([^<]*)</a>', text_of(response))]


def version_in(response: Any) -> str:
    found = re.search(r'name="version" value="(\d+)"', text_of(response))
    assert found is not None
    return found[1]


class TestList:
    def test_shows_names_values_and_what_is_known(self, superuser: Client) -> None:
        Counter("visits").set(1234)
        anything("mood").set({"happy": 1}, ttl=60)
        page = superuser.get(ROOT)
        assert page.status_code == 200
        assert names(page) == ["mood", "visits"]
        text = text_of(page)
        assert "1234" in text
        assert "{&quot;happy&quot;:1}" in text
        assert re.search(r"5\d s|60 s", text)
        assert f"{datetime.now(UTC):%Y-%m-}" in text

    def test_search_by_prefix(self, superuser: Client) -> None:
        for name in ("shop.a", "shop.b", "other"):
            Counter(name).set(1)
        assert names(superuser.get(ROOT, {"q": "shop."})) == ["shop.a", "shop.b"]
        assert "No name begins with this" in text_of(superuser.get(ROOT, {"q": "x"}))

    def test_tree_of_prefixes(self, superuser: Client) -> None:
        for name in ("a", "shop.site.visitors", "shop.site.buyers", "shop.cart", "users/1", "users/2", "shop.", "z"):
            Counter(name).set(1)
        assert superuser.get(ROOT).context["branches"] == [
            ("shop.", f"{ROOT}?q=shop."),
            ("users/", f"{ROOT}?q=users%2F"),
        ]
        assert [name for name, _ in superuser.get(ROOT, {"q": "shop."}).context["branches"]] == ["site."]
        crumbs = superuser.get(ROOT, {"q": "shop.site."}).context["crumbs"]
        assert [name for name, _ in crumbs] == ["all", "shop.", "site."]

    def test_pages_show_every_name_once(self, superuser: Client, any_backend: Backend) -> None:
        expected = [f"n{number:03}" for number in range(120)]
        any_backend.execute([Write(name, 1) for name in expected])
        seen: list[str] = []
        address = ROOT
        while address:
            page = superuser.get(address)
            seen += names(page)
            address = page.context["following"]
        assert seen == expected

    def test_own_records_are_left_out(self, superuser: Client) -> None:
        with Election("boss").lead():
            page = superuser.get(ROOT)
        assert names(page) == []
        assert page.context["branches"] == []

    def test_strange_names_and_values_are_escaped_and_reachable(self, superuser: Client) -> None:
        strange = '<b>&"/?#_2F\N{SNOWMAN} %'
        anything(strange).set("<script>alert(1)</script>")
        anything("inner", group="<g>").set(1)
        page = superuser.get(ROOT)
        assert "<script>alert" not in text_of(page)
        assert names(page) == sorted([strange, "<g>/inner"])
        for address in re.findall(r'<th scope="row"><a href="([^"]*)">', text_of(page)):
            assert superuser.get(unescape(address)).status_code == 200

    def test_large_values_are_not_read(self, superuser: Client) -> None:
        anything("big").set("x" * 5000)
        assert "<em>large</em>" in text_of(superuser.get(ROOT))


class TestOne:
    def test_pretty_value(self, superuser: Client) -> None:
        anything("mood").set({"happy": [1, 2]})
        assert '{\n  "happy": [\n    1,' in unescape(text_of(superuser.get(change_url("mood"))))

    def test_absent_is_404(self, superuser: Client) -> None:
        assert superuser.get(change_url("nothing")).status_code == 404
        assert superuser.get(change_url("x" * 300)).status_code == 404

    def test_change_is_kept_and_traced(self, client_of: ClientOf) -> None:
        mood = anything("mood")
        mood.set({"happy": 1}, ttl=60)
        client = client_of("changer")
        page = client.get(change_url("mood"))
        answer = client.post(change_url("mood"), {"version": version_in(page), "value": '{"happy": 2}'}, follow=True)
        assert answer.redirect_chain == [(change_url("mood"), 302)]
        assert "ood was changed" in text_of(answer)
        assert mood.get() == {"happy": 2}
        entry = LogEntry.objects.get()
        assert (entry.user.username, entry.object_repr) == ("changer", "mood")
        assert entry.change_message == 'Changed from {"happy":1} to {"happy": 2}'
        assert entry.get_admin_url() == change_url("mood")
        assert "for ever" not in text_of(answer)

    def test_change_of_what_changed_meanwhile_is_refused_with_both_values(self, superuser: Client) -> None:
        mood = anything("mood")
        mood.set("theirs-before")
        version = version_in(superuser.get(change_url("mood")))
        mood.set("theirs-now")
        answer = superuser.post(change_url("mood"), {"version": version, "value": '"mine"'})
        assert answer.status_code == 409
        assert "theirs-now" in text_of(answer)
        assert "&quot;mine&quot;" in text_of(answer)
        assert mood.get() == "theirs-now"
        assert not LogEntry.objects.exists()

        again = superuser.post(change_url("mood"), {"version": version_in(answer), "value": '"mine"'})
        assert again.status_code == 302
        assert mood.get() == "mine"

    def test_change_of_what_was_deleted_meanwhile_is_refused(self, superuser: Client) -> None:
        mood = anything("mood")
        mood.set("theirs")
        version = version_in(superuser.get(change_url("mood")))
        mood.delete()
        answer = superuser.post(change_url("mood"), {"version": version, "value": '"mine"'})
        assert answer.status_code == 409
        assert "no value any more" in text_of(answer)
        assert version_in(answer) == "0"

    def test_value_that_does_not_fit_is_refused(self, superuser: Client) -> None:
        visits = Counter("typed.visits")
        visits.set(1)
        for wrong in ('"many"', "1.5", "{", "99999999999999999999"):
            version = version_in(superuser.get(change_url("typed.visits")))
            answer = superuser.post(change_url("typed.visits"), {"version": version, "value": wrong})
            assert (answer.status_code, "errornote" in text_of(answer)) == (200, True), wrong
        assert visits.get() == 1
        assert not LogEntry.objects.exists()

    def test_declared_type_survives_the_form(self, superuser: Client) -> None:
        due: DRef[datetime] = DRef("typed.due", type=datetime)
        due.set(datetime(2026, 1, 2, tzinfo=UTC))
        page = superuser.get(change_url("typed.due"))
        superuser.post(change_url("typed.due"), {"version": version_in(page), "value": '"2027-01-02T00:00:00+00:00"'})
        assert due.get() == datetime(2027, 1, 2, tzinfo=UTC)

    def test_what_json_cannot_hold_has_no_form(self, superuser: Client) -> None:
        anything("tags").set({"a", "b"})
        page = text_of(superuser.get(change_url("tags")))
        assert "<textarea" not in page
        assert "cannot be changed here" in page


class TestHistory:
    def test_shows_who_changed_what_and_takes_it_back(self, superuser: Client) -> None:
        mood: DRef[Any] = DRef("mood", None, history=10)
        mood.set("old")
        page = superuser.get(change_url("mood"))
        superuser.post(change_url("mood"), {"version": version_in(page), "value": '"new"'})
        page = superuser.get(change_url("mood"))
        newest = page.context["changes"][0]
        assert (newest["record"].actor, newest["old"], newest["new"]) == ("superuser", "old", "new")
        superuser.post(change_url("mood"), {"version": version_in(page), "value": newest["revert"]})
        assert mood.get() == "old"
        assert [record.new for record in mood.history()] == ["old", "new", "old"]

    def test_goes_on_where_the_ref_is_not_declared(self, superuser: Client) -> None:
        mood: DRef[Any] = DRef("mood", None, history=10)
        mood.set("old")
        del mood
        page = superuser.get(change_url("mood"))
        superuser.post(change_url("mood"), {"version": version_in(page), "value": '"new"'})
        assert [change["new"] for change in superuser.get(change_url("mood")).context["changes"]] == ["new", "old"]

    def test_none_is_begun_by_the_admin(self, superuser: Client) -> None:
        anything("mood").set("old")
        page = superuser.get(change_url("mood"))
        superuser.post(change_url("mood"), {"version": version_in(page), "value": '"new"'})
        assert superuser.get(change_url("mood")).context["changes"] == []
