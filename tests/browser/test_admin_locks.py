"""Locks, elections, presence, and who may see and do what in the demo's admin, on each back end."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from example_project.demo import Demo
from example_project.people import RIGHTS, SUPERUSER
from tests.browser.chrome import Chrome
from tests.browser.staff import (
    ELECTION,
    ELECTIONS,
    LOCK,
    LOCKS,
    NOBODY,
    REDIRECTED,
    REFS,
    SHOWN,
    SUBMIT,
    TOKEN,
    WAITING,
    awaited,
    change_page,
    logged_in,
    proofread,
)

SEES_REFS: Final = {SUPERUSER, "viewer", "changer"}
SEES_LOCKS: Final = SEES_REFS | {"breaker"}
CHANGES: Final = {SUPERUSER, "changer"}
BREAKS: Final = {SUPERUSER, "breaker"}


def test_broken_lock_goes_to_the_next_one_with_a_higher_token_and_the_log_names_who_did_it(
    demo: Demo, chrome: Chrome
) -> None:
    with logged_in(chrome, demo, SUPERUSER) as staff, logged_in(chrome, demo, "breaker") as breaker:
        proofread(staff)
        awaited(breaker, LOCKS, LOCK, TOKEN, "")
        proofread(staff)
        before = awaited(breaker, LOCKS, LOCK, WAITING, "0")
        assert " pid " in before[1]
        assert before[WAITING] == "1"

        breaker.press(f"#content a[href*='name={LOCK}&']")
        assert breaker.texts("#content h2") == [f"Take lock {LOCK} from its holder?"]
        breaker.follow("No, go back")
        assert breaker.row(LOCK)[TOKEN] == before[TOKEN]
        breaker.press(f"#content a[href*='name={LOCK}&']")
        breaker.press(SUBMIT)
        assert breaker.here == LOCKS
        assert breaker.texts(".messagelist li")[0].startswith(f"Lock {LOCK} was taken from ")
        after = awaited(breaker, LOCKS, LOCK, TOKEN, before[TOKEN])
        assert int(after[TOKEN]) > int(before[TOKEN])
        assert after[WAITING] == "0"

        staff.visit("admin/logentry/")
        entry = staff.texts("#content tbody tr:first-child td")
        assert entry[1:4] == ["breaker", "Distributed refs | distributed ref", f"lock {LOCK}"]
        assert f"(token {before[TOKEN]})" in entry[4]
        staff.visit(LOCKS)
        staff.press(f"#content a[href*='name={LOCK}&']")
        staff.press(SUBMIT)  # the second one is not waited for
        assert not staff.complaints
        assert not breaker.complaints


def test_deposed_leader_is_followed_by_another_term(demo: Demo, chrome: Chrome) -> None:
    with logged_in(chrome, demo, SUPERUSER) as staff:
        before = awaited(staff, ELECTIONS, ELECTION, TOKEN, "")
        assert any(f"port: {port}" in before[1] for port in demo.ports)
        staff.follow("Depose")
        staff.press(SUBMIT)
        assert staff.here == ELECTIONS
        assert "Election demo was taken from " in staff.texts(".messagelist li")[0]
        after = awaited(staff, ELECTIONS, ELECTION, TOKEN, before[TOKEN])
        assert int(after[TOKEN]) > int(before[TOKEN])
        assert not staff.complaints


def test_presence_shows_who_has_the_dashboard_open_and_health_what_the_back_end_says(
    demo: Demo, chrome: Chrome
) -> None:
    with chrome.page() as visitor, logged_in(chrome, demo, "viewer") as staff:
        visitor.open(demo.addresses[-1])
        visitor.wait_for("document.querySelectorAll('#here li').length > 0")
        here = visitor.evaluate("[...document.querySelectorAll('#here li')].map((one) => one.textContent.trim())")
        room = awaited(staff, f"{REFS}presence/", "demo", 1, "0")
        assert set(here) & set(room[2].split(", "))
        staff.visit(f"{REFS}health/")
        assert staff.texts(".dref-state") == ["READY"]
        assert {"a read takes", "listener of this process"} <= set(staff.texts(".dref-facts dt"))
        if demo.backend == "raft":
            assert sorted(staff.texts("#content tbody td:nth-child(3)")) == ["leader", "voter", "voter"]
        assert not staff.complaints


def test_each_user_sees_and_does_what_the_permission_says(demo: Demo, chrome: Chrome) -> None:
    with logged_in(chrome, demo, SUPERUSER) as staff:
        token = awaited(staff, ELECTIONS, ELECTION, TOKEN, "")[TOKEN]
    breaking = f"{LOCKS}break/?{urlencode({'kind': 'election', 'name': ELECTION, 'token': token})}"
    pages = {
        f"{REFS}?q=demo.": SEES_REFS,
        change_page(SHOWN): SEES_REFS,
        LOCKS: SEES_LOCKS,
        ELECTIONS: SEES_LOCKS,
        f"{REFS}presence/": SEES_REFS,
        f"{REFS}health/": SEES_REFS,
        breaking: BREAKS,
    }
    for user in (SUPERUSER, *RIGHTS):
        with logged_in(chrome, demo, user) as staff:
            assert staff.visit(REFS) == 200
            assert staff.here == (REFS if user in SEES_REFS else LOCKS)
            expected = {page: 200 if user in allowed else 403 for page, allowed in pages.items()}
            if user not in SEES_REFS:
                expected[f"{REFS}?q=demo."] = REDIRECTED  # to the locks
            assert (user, staff.statuses(pages)) == (user, expected)
            staff.visit(change_page(SHOWN))
            assert (user, staff.has("#dref-value")) == (user, user in CHANGES)
            staff.visit(ELECTIONS)
            assert (user, staff.has(".deletelink")) == (user, user in BREAKS)
            if user not in CHANGES:
                assert staff.post(change_page(SHOWN), version="1", value="1") == 403
            if user not in BREAKS:
                assert staff.post(breaking) == 403
    with logged_in(chrome, demo, NOBODY) as staff:
        staff.visit(REFS)
        assert staff.here == "login/"
        assert set(staff.statuses(pages).values()) == {REDIRECTED}
        for page in (change_page(SHOWN), breaking):
            assert staff.post(page, version="1", value="1") == REDIRECTED
