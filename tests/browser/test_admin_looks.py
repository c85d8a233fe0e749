"""The admin's pages before axe-core and the camera: light, dark, and on a phone."""

from __future__ import annotations

import struct
from pathlib import Path

from example_project.demo import Visitor
from example_project.people import SUPERUSER
from tests.browser.chrome import Chrome
from tests.browser.conftest import GetDemo
from tests.browser.staff import (
    ELECTIONS,
    LOCK,
    LOCKS,
    REFS,
    SHOWN,
    SUBMIT,
    TOKEN,
    Staff,
    awaited,
    change_page,
    logged_in,
    proofread,
)
from tests.browser.test_accessibility import faults

HISTORY = (80, 60, 20, 50, 50, 90, 30, 100)
WIDTH = 1200
OURS = "#content-main"
"""What is around it is Django's own."""


PICTURED = ("refs", "ref")
"""In the documentation."""


def look(staff: Staff, name: str, pictures: Path, others: Path) -> None:
    for scheme in ("light", "dark"):
        staff.page.look(width=WIDTH, height=800, scheme=scheme)
        staff.page.wait_for("document.getAnimations().length === 0")
        assert (name, scheme, faults(staff.page, within=OURS)) == (name, scheme, [])
        picture = (pictures if name in PICTURED else others) / f"admin-{name}-{scheme}.png"
        staff.page.screenshot(picture)
        assert struct.unpack(">II", picture.read_bytes()[16:24])[0] == WIDTH
    staff.page.look(width=360, height=800, scheme="light")
    assert staff.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"


def test_pages_have_no_fault_and_fit_their_window(
    get_demo: GetDemo, chrome: Chrome, pictures: Path, tmp_path: Path
) -> None:
    demo = get_demo("redis")
    visitor = Visitor(demo.addresses[0])
    visitor.load()
    for path in ("click/", "maintenance/", "maintenance/", "articles/3/read/"):
        visitor.post(path)
    with logged_in(chrome, demo, SUPERUSER) as staff, chrome.page() as another:
        another.open(demo.addresses[0])
        another.wait_for("document.querySelectorAll('#here li').length > 0")
        proofread(staff)
        staff.visit(change_page(SHOWN))
        for number in HISTORY:
            staff.fill("#dref-value", str(number))
            staff.press(SUBMIT)
        pages = {"refs": REFS, "ref": change_page(SHOWN), "elections": ELECTIONS}
        pages |= {"presence": f"{REFS}presence/", "health": f"{REFS}health/"}
        for name, page in pages.items():
            staff.visit(page)
            look(staff, name, pictures, tmp_path)
        awaited(staff, LOCKS, LOCK, TOKEN, "")
        look(staff, "locks", pictures, tmp_path)
        staff.press(f"#content a[href*='name={LOCK}&']")
        look(staff, "break", pictures, tmp_path)
        staff.press(SUBMIT)
