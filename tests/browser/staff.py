"""The demo's admin through the eyes of its users."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from typing import Final
from urllib.parse import urlencode

from example_project.demo import Demo
from example_project.people import PASSWORD
from tests.browser.chrome import Chrome, Page
from tests.processes import wait_until

REFS: Final = "dref_django/ref/"
LOCKS: Final = f"{REFS}locks/"
ELECTIONS: Final = f"{REFS}elections/"
WAITING, TOKEN = 4, 5
"""Columns of locks and elections."""
SUBMIT: Final = ".submit-row [type=submit]"
SHOWN: Final = "demo.articles-shown"
"""A setting of the demo, with history."""
LOCK: Final = "demo.proofreading"
ELECTION: Final = "demo"
NOBODY: Final = "nobody"
REDIRECTED: Final = 0
"""In the place of a status code: a page cannot see that of a redirect."""
TIMEOUT: Final = 20.0  # seconds
_sessions: dict[tuple[str, str], str] = {}
"""By the demo's first address and the user: hashing a password is slow on purpose."""


def change_page(name: str) -> str:
    """The page of a ref whose name holds nothing that an address cannot."""
    return f"{REFS}{name.replace('_', '_5F')}/change/"


class Staff:
    """One user's page. `complaints` are those of the page but for the icon that the demo has not."""

    def __init__(self, page: Page, demo: Demo) -> None:
        self.page = page
        self._admin = f"{demo.addresses[0]}admin/"

    @property
    def complaints(self) -> list[str]:
        return [complaint for complaint in self.page.complaints if "favicon.ico" not in complaint]

    @property
    def here(self) -> str:
        """The path within the admin."""
        return str(self.page.evaluate("location.pathname")).removeprefix("/admin/")

    def visit(self, path: str) -> int:
        """Goes to a page of the admin, or where that sends the user. Returns the status code."""
        with self._leaving():
            self.page.call("Page.navigate", url=self._admin + path)
        return int(self.page.evaluate("performance.getEntriesByType('navigation')[0].responseStatus"))

    def press(self, selector: str) -> None:
        """Clicks on what leads to another document, and returns when that is complete."""
        with self._leaving():
            self.page.click(selector)

    def follow(self, text: str) -> None:
        """Presses the first link with that text on our pages."""
        self.page.evaluate(
            "[...document.querySelectorAll('#content a')].find((link) => link.textContent.trim() === "
            f"{json.dumps(text)}).id = 'followed'"
        )
        self.press("#followed")

    def fill(self, selector: str, text: str) -> None:
        self.page.evaluate(f"void (document.querySelector({json.dumps(selector)}).value = {json.dumps(text)})")

    def texts(self, selector: str) -> list[str]:
        found = f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent.trim())"
        texts: list[str] = self.page.evaluate(found)
        return texts

    def has(self, selector: str) -> bool:
        return bool(self.page.evaluate(f"document.querySelector({json.dumps(selector)}) !== null"))

    def row(self, name: str) -> list[str]:
        """The cells of the row whose header is `name`; none when there is no such row."""
        cells: list[str] = self.page.evaluate(
            "(() => { const row = [...document.querySelectorAll('#content tbody tr')].find((row) =>"
            f" row.querySelector('th')?.textContent.trim() === {json.dumps(name)});"
            " return row ? [...row.cells].map((cell) => cell.innerText.trim()) : []; })()"
        )
        return cells

    def statuses(self, paths: Iterable[str]) -> dict[str, int]:
        """What the browser is answered for pages that it does not open: REDIRECTED where it is sent elsewhere."""
        addresses = json.dumps({path: self._admin + path for path in paths})
        found: dict[str, int] = self.page.evaluate(
            f"Promise.all(Object.entries({addresses}).map(async ([path, address]) =>"
            " [path, (await fetch(address, { redirect: 'manual' })).status])).then(Object.fromEntries)"
        )
        return found

    def post(self, path: str, **fields: str) -> int:
        """Sends a form that the page does not show. Returns the status code, or REDIRECTED."""
        body = json.dumps(urlencode(fields))
        return int(
            self.page.evaluate(
                f"fetch({json.dumps(self._admin + path)}, {{ method: 'POST', redirect: 'manual', body: {body}, headers:"
                " { 'Content-Type': 'application/x-www-form-urlencoded',"
                " 'X-CSRFToken': (document.cookie.match(/csrftoken=([^;]+)/) || ['', ''])[1] } })"
                ".then((answer) => answer.status)"
            )
        )

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        self.page.evaluate("void (window.isOld = true)")
        yield
        self.page.wait_for("!window.isOld && document.readyState === 'complete'")


def proofread(staff: Staff) -> None:
    """Holds LOCK, or waits for it, half a minute long unless it is broken."""
    staff.visit("example_project/article/")
    staff.page.click(".action-select")
    staff.page.evaluate("void (document.querySelector('[name=action]').value = 'proofread')")
    staff.press("[name=index]")
    assert "Proofreading begins" in staff.texts(".messagelist li")[0]


def awaited(staff: Staff, path: str, name: str, column: int, but: str) -> list[str]:
    """The row once its column says something else."""

    def is_there() -> bool:
        staff.visit(path)
        row.extend(staff.row(name))
        if row and row[column] == but:
            row.clear()
        return bool(row)

    row: list[str] = []
    wait_until(is_there, f"{name} to change from {but!r}", TIMEOUT)
    return row


@contextmanager
def logged_in(chrome: Chrome, demo: Demo, user: str) -> Iterator[Staff]:
    """A page of that user of the demo, or of nobody."""
    with chrome.page() as page:
        page.look(width=1280, height=900, scheme="light")
        if user != NOBODY:
            address = demo.addresses[0]
            for name, value in _cookies(address, user).items():
                page.call("Network.setCookie", name=name, value=value, url=address)
        yield Staff(page, demo)


def log_in(staff: Staff, user: str) -> None:
    """Through the form, to which any page sends who is not logged in."""
    staff.fill("#id_username", user)
    staff.fill("#id_password", PASSWORD)
    staff.press("[type=submit]")


def _cookies(address: str, user: str) -> dict[str, str]:
    known = _sessions.get((address, user))
    if known is None:
        known = _sessions[address, user] = _session(f"{address}admin/login/", user)
    return dict(pair.split("=", 1) for pair in known.split("; "))


def _session(login: str, user: str) -> str:
    jar = CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    with opener.open(login, timeout=TIMEOUT) as answer:
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', answer.read().decode())
    assert found is not None
    fields = {
        "csrfmiddlewaretoken": found[1],
        "username": user,
        "password": PASSWORD,
        "next": "/health/",
    }
    opener.open(login, urlencode(fields).encode(), timeout=TIMEOUT).close()
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)
