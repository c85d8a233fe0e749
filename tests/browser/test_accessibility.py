"""The dashboard before axe-core: light, dark, on a phone, connected and not."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from example_project.demo import Demo, Visitor
from tests.browser.chrome import Chrome, Page
from tests.browser.conftest import GetDemo

AXE: Final = Path(__file__).resolve().parent / "node_modules" / "axe-core" / "axe.min.js"
LIVE: Final = "document.documentElement.dataset.drefStatus === 'connected'"
DRAWN: Final = "[...document.querySelectorAll('dref-chart')].every((chart) => chart.chart && chart.chart.plot)"


@pytest.fixture(scope="module")
def demo(get_demo: GetDemo) -> Demo:
    started = get_demo("memory")
    visitor = Visitor(started.addresses[0])
    visitor.load()
    visitor.post("click/")
    visitor.post("say/", text="Good morning")
    if 'id="banner" hidden' in visitor.load():
        visitor.post("maintenance/")  # its banner is to be seen
    return started


def faults(page: Page, *, within: str = "html") -> list[Any]:
    """What axe-core finds in the element of that selector, but for what it calls minor."""
    assert AXE.exists(), "axe-core comes with: make browser"
    page.evaluate(f"(() => {{ {AXE.read_text()} }})()")
    found = page.evaluate(
        f"axe.run({json.dumps(within)}, "
        "{ resultTypes: ['violations'] }).then(({ violations }) => violations.map("
        "({ id, impact, help, nodes }) => [impact, id, help, nodes.map((node) => node.html)]))"
    )
    return [fault for fault in found if fault[0] != "minor"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360], ids=["desk", "phone"])
def test_dashboard_has_no_fault(demo: Demo, chrome: Chrome, scheme: str, width: int) -> None:
    with chrome.page() as page:
        page.look(width=width, height=900, scheme=scheme)
        page.open(demo.addresses[0])
        page.wait_for(LIVE)
        page.wait_for(DRAWN)
        page.wait_for("document.getAnimations().length === 0")
        assert faults(page) == []


def test_checker_sees_a_fault_in_a_chart_without_a_name(demo: Demo, chrome: Chrome) -> None:
    with chrome.page() as page:
        page.open(demo.addresses[0])
        page.wait_for(DRAWN)
        page.evaluate(
            "(() => { const chart = document.querySelector('dref-chart');"
            f" chart.setAttribute('role', {json.dumps('img')}); chart.removeAttribute('aria-label'); }})()"
        )
        assert [fault[1] for fault in faults(page)] == ["role-img-alt"]
