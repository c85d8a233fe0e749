"""Refs in the demo's admin, in a real browser, on each back end."""

from __future__ import annotations

import re

from example_project.demo import Demo, Visitor
from example_project.people import SUPERUSER
from tests.browser.chrome import Chrome
from tests.browser.conftest import GetDemo
from tests.browser.staff import REFS, SHOWN, SUBMIT, TIMEOUT, Staff, change_page, log_in, logged_in
from tests.processes import wait_until

VALUE = "#dref-value"


def clicked(demo: Demo) -> None:
    visitor = Visitor(demo.addresses[-1])
    visitor.load()
    visitor.post("click/")


def set_to(staff: Staff, value: object) -> None:
    """In the form of the ref's page, which is open."""
    staff.fill(VALUE, str(value))
    staff.press(SUBMIT)


def newest(staff: Staff) -> list[str]:
    """Who, from, to."""
    return staff.texts("#content tbody tr:first-child td")[1:4]


def test_list_moves_by_itself_is_searched_and_walked(demo: Demo, chrome: Chrome) -> None:
    clicked(demo)
    with logged_in(chrome, demo, SUPERUSER) as staff:
        assert staff.visit(REFS) == 200
        assert staff.row(SHOWN)[2:5] == ["int", "8\N{NO-BREAK SPACE}bytes", ""]
        before = int(staff.row("demo.clicks")[1])
        staff.page.wait_for("document.documentElement.dataset.drefStatus === 'connected'")
        clicked(demo)
        staff.page.wait_for_text("dref-value[name='demo.clicks']", str(before + 1))

        staff.fill("#dref-q", "demo.cl")
        staff.press(".dref-search button")
        assert staff.texts("#content tbody th") == ["demo.clicks"]
        staff.follow("all")
        assert "demo." in staff.texts(".dref-branches a")
        staff.follow("demo.")
        assert staff.texts(".dref-crumbs a") == ["all", "demo."]
        assert "node." in staff.texts(".dref-branches a")
        staff.follow("node.")
        assert set(staff.texts("#content tbody th")) == {f"demo.node.{port}" for port in demo.ports}
        assert not staff.complaints


def test_change_of_what_changed_meanwhile_is_refused_and_history_takes_back(demo: Demo, chrome: Chrome) -> None:
    with logged_in(chrome, demo, SUPERUSER) as mine, logged_in(chrome, demo, "changer") as theirs:
        for staff in (mine, theirs):
            assert staff.visit(change_page(SHOWN)) == 200
        set_to(theirs, 40)
        assert theirs.texts(".messagelist li") == [f"The value of {SHOWN} was changed."]
        set_to(mine, 60)
        assert "Nothing was saved" in mine.texts(".errornote")[0]
        assert mine.texts(".dref-pretty") == ["40"]
        assert mine.texts(VALUE) == ["60"]
        mine.press(SUBMIT)
        assert mine.texts(".messagelist li") == [f"The value of {SHOWN} was changed."]
        assert newest(mine) == [SUPERUSER, "40", "60"]

        theirs.visit(change_page(SHOWN))
        assert theirs.texts(".dref-pretty") == ["60"]
        assert re.search(r" to 60, between \d+ and 100$", theirs.texts(".dref-spark title")[0])
        theirs.press("#content tbody tr:first-child button")  # back to what it was before the newest change
        assert theirs.texts(".dref-pretty") == ["40"]
        assert newest(theirs) == ["changer", "60", "40"]
        set_to(theirs, '"many"')
        assert "errornote" in str(theirs.page.evaluate("document.querySelector('#content').innerHTML"))
        theirs.visit(change_page(SHOWN))
        set_to(theirs, 100)  # as it was

        mine.visit("admin/logentry/")
        assert [cell for cell in mine.texts("#content tbody .field-change_message") if cell.endswith("40 to 60")]
        assert {"changer", SUPERUSER} <= set(mine.texts("#content tbody .field-user"))
        assert not mine.complaints or all("409" in complaint for complaint in mine.complaints)


def test_articles_move_are_sorted_and_an_outdated_form_is_refused(demo: Demo, chrome: Chrome) -> None:
    visitor = Visitor(f"{demo.addresses[-1]}articles/")
    visitor.load()
    with logged_in(chrome, demo, SUPERUSER) as staff:
        assert staff.visit("example_project/article/17/change/") == 200
        title = str(staff.page.evaluate("document.querySelector('#id_title').value"))
        score = int(staff.page.evaluate("document.querySelector('#id_score').value"))
        visitor.post("17/like/")
        staff.fill("#id_score", "5")
        staff.press("[name=_save]")
        assert f"it is {score + 10} now, not {score}" in staff.texts(".field-score .errorlist")[0]

        staff.visit("example_project/article/")
        assert len(staff.texts("#content tbody th")) == 100
        shown = "dref-value[name='demo.article.17.score']"
        staff.page.wait_for("document.documentElement.dataset.drefStatus === 'connected'")
        visitor.post("17/like/")
        staff.page.wait_for_text(shown, str(score + 20))

        def is_first() -> bool:
            staff.visit("example_project/article/")
            return staff.texts("#content tbody th")[0] == title

        wait_until(is_first, "the liked article on top", TIMEOUT)
        assert not staff.complaints


def test_log_in_leads_to_the_page_that_was_asked_for(get_demo: GetDemo, chrome: Chrome) -> None:
    with chrome.page() as page:
        staff = Staff(page, get_demo("memory"))
        staff.visit(f"{REFS}health/")
        assert staff.here == "login/"
        log_in(staff, "viewer")
        assert staff.here == f"{REFS}health/"
        assert staff.texts(".dref-state") == ["READY"]
