"""A process of the demo is killed and comes back: what its pages show then, and what the others show meanwhile."""

import pytest

from example_project.demo import Demo, Visitor
from tests.browser.chrome import Chrome, Page
from tests.browser.conftest import GetDemo

LIVE = "document.documentElement.dataset.drefStatus === 'connected'"
LOST = "document.documentElement.dataset.drefStatus === 'reconnecting'"


def shows(selector: str, text: str) -> str:
    return f"document.querySelector({selector!r}).textContent === {text!r}"


def role_is(port: str, role: str) -> str:
    return f"document.querySelector('#nodes [data-port=\"{port}\"]').dataset.role === '{role}'"


def is_here(visitor: str) -> str:
    return f"[...document.querySelectorAll('#here li')].some((name) => name.textContent === {visitor!r})"


def leader_among(ports: list[str]) -> str:
    return f"{ports}.includes(document.querySelector('#leader').textContent)"


@pytest.mark.parametrize("backend", ["postgres", "raft", "redis"])
def test_leader_is_killed_and_its_pages_and_the_others_are_right_again(
    backend: str, chrome: Chrome, get_demo: GetDemo
) -> None:
    demo = get_demo(backend)
    ports = [str(port) for port in demo.ports]
    with chrome.page() as orphan, chrome.page() as other:
        other.open(demo.addresses[0])
        other.wait_for(leader_among(ports))
        old = other.text("#leader")
        number, rest = ports.index(old), [port for port in ports if port != old]
        other.open(demo.addresses[ports.index(rest[0])])
        orphan.open(demo.addresses[number])
        for page in (other, orphan):
            page.wait_for(LIVE)
        visitor = orphan.text("label[for=text]").removeprefix("Say something as ")
        other.wait_for(is_here(visitor))

        demo.kill(number)
        orphan.wait_for(LOST)
        assert orphan.text("dref-status").startswith("connection lost, values as of ")
        clicks = clicked(demo, ports.index(rest[0]), other)  # missed by the orphan
        other.wait_for(leader_among(rest))
        other.wait_for(role_is(old, "gone"))
        other.wait_for(f"!{is_here(visitor)}")

        demo.restart(number)
        orphan.wait_for(LIVE, 60)
        orphan.wait_for(shows("#clicks", clicks))
        orphan.wait_for(leader_among(rest))
        assert orphan.text("dref-status") == "live"
        for page in (other, orphan):
            page.wait_for(role_is(old, "follower"))
            page.wait_for(is_here(visitor))


def clicked(demo: Demo, number: int, page: Page) -> str:
    """How many clicks there are after three more, as a page shows them."""
    before = int(page.text("#clicks").replace(",", ""))
    visitor = Visitor(demo.addresses[number])
    visitor.load()
    for _ in range(3):
        visitor.post("click/")
    page.wait_for_text("#clicks", f"{before + 3:,}")
    return page.text("#clicks")


def test_process_that_forgot_everything_sets_its_pages_back(chrome: Chrome, get_demo: GetDemo) -> None:
    """On memory a restart is a new epoch: what the page has resumed from is worth nothing there."""
    demo = get_demo("memory")
    with chrome.page() as page:
        page.open(demo.addresses[0])
        page.wait_for(LIVE)
        assert int(clicked(demo, 0, page).replace(",", "")) >= 3
        demo.kill(0)
        page.wait_for(LOST)
        demo.restart(0)
        page.wait_for(LIVE, 60)
        page.wait_for_text("#clicks", "0")
        assert clicked(demo, 0, page) == "3"
