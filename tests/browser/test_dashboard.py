"""The dashboard in a real browser, served by real processes: what one page changes, the others show."""

import struct
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from example_project.demo import Demo, Visitor
from tests.browser.chrome import Chrome, Page
from tests.browser.conftest import GetDemo
from tests.proxy import TcpProxy

LIVE = "document.documentElement.dataset.drefStatus === 'connected'"
LOST = "document.documentElement.dataset.drefStatus === 'reconnecting'"
DRAWN = "[...document.querySelectorAll('dref-chart')].every((chart) => chart.chart && chart.chart.plot)"
SMALL_TALK = [
    "Good morning! Which port are you on?",
    "The first one. And you?",
    "The other. I see your clicks at once.",
    "Shall I kill the leader?",
    "Please do. It takes three seconds.",
]


def opened(page: Page, address: str) -> Page:
    page.open(address)
    page.wait_for(LIVE)
    return page


def number(page: Page, selector: str) -> int:
    return int(page.text(selector).replace(",", ""))


def port_of(address: str) -> int:
    port = urlsplit(address).port
    assert port is not None
    return port


def test_click_on_one_page_appears_on_a_page_of_another_process(demo: Demo, chrome: Chrome) -> None:
    with chrome.page() as clicking, chrome.page() as watching:
        opened(watching, demo.addresses[0])
        opened(clicking, demo.addresses[-1])
        before = number(watching, "#clicks")
        clicking.click("#click")
        watching.wait_for_text("#clicks", f"{before + 1:,}")
        clicking.wait_for_text("#clicks", f"{before + 1:,}")
        assert not watching.complaints
        assert not clicking.complaints


def test_http_request_to_one_process_moves_a_page_of_another(demo: Demo, chrome: Chrome) -> None:
    with chrome.page() as watching:
        opened(watching, demo.addresses[0])
        before = number(watching, "#page-views")
        visitor = Visitor(demo.addresses[-1])
        for _ in range(3):
            visitor.load()
        watching.wait_for_text("#page-views", f"{before + 3:,}")


def test_flag_switched_on_one_page_switches_the_others(demo: Demo, chrome: Chrome) -> None:
    with chrome.page() as switching, chrome.page() as watching:
        opened(switching, demo.addresses[0])
        opened(watching, demo.addresses[-1])
        other = {"open": "closed", "closed": "open"}[watching.text("#shop").strip()]
        switching.click("#maintenance")
        watching.wait_for_text("#shop", other)
        checked = {"open": "false", "closed": "true"}[other]
        watching.wait_for(f"document.querySelector('#maintenance').getAttribute('aria-checked') === '{checked}'")


def test_field_of_a_typed_value_moves_and_the_bar_follows(demo: Demo, chrome: Chrome) -> None:
    with chrome.page() as voting, chrome.page() as watching:
        opened(voting, demo.addresses[-1])
        opened(watching, demo.addresses[0])
        before, other = number(watching, "#sunny"), number(watching, "#stormy")
        voting.click("[action$='moods/sunny/'] button")
        watching.wait_for_text("#sunny", f"{before + 1:,}")
        assert number(watching, "#stormy") == other
        done = f"on port {demo.ports[-1]} voted sunny"
        watching.wait_for(f"document.querySelector('#activity').textContent.includes('{done}')")
        watching.wait_for("parseFloat(document.querySelector('[data-mood=sunny]').style.inlineSize) > 0")


def test_page_comes_back_with_the_right_value_after_its_connection_was_cut(demo: Demo, chrome: Chrome) -> None:
    with TcpProxy("127.0.0.1", demo.ports[0]) as proxy, chrome.page() as page:
        opened(page, proxy.through(demo.addresses[0]))
        before = number(page, "#clicks")
        visitor = Visitor(demo.addresses[-1])
        visitor.load()

        proxy.refuse()
        page.wait_for(LOST)
        for _ in range(5):  # missed by the page
            visitor.post("click/")
        assert number(page, "#clicks") == before
        proxy.accept()
        page.wait_for(LIVE)
        page.wait_for_text("#clicks", f"{before + 5:,}")

        visitor.post("click/")  # and it goes on
        page.wait_for_text("#clicks", f"{before + 6:,}")


def test_cut_that_missed_nothing_sends_nothing_again(demo: Demo, chrome: Chrome) -> None:
    with TcpProxy("127.0.0.1", demo.ports[0]) as proxy, chrome.page() as page:
        opened(page, proxy.through(demo.addresses[0]))
        page.evaluate(
            "import('/static/dref_django/dref.js').then((dref) => new Promise((known) => {"
            "window.calls = 0; dref.watch('demo.clicks', () => { window.calls++; known(); }); }))"
        )
        before = page.evaluate("window.calls")
        accepted = proxy.accepted
        proxy.cut()
        page.wait_for(LOST)
        page.wait_for(LIVE)
        assert proxy.accepted > accepted
        visitor = Visitor(demo.addresses[-1])
        visitor.load()
        visitor.post("click/")
        page.wait_for(f"window.calls > {before}")
        assert page.evaluate("window.calls") == before + 1


def test_value_is_on_the_page_without_javascript_and_forms_work(demo: Demo, chrome: Chrome) -> None:
    visitor = Visitor(demo.addresses[-1])
    visitor.load()
    visitor.post("click/")
    with chrome.page(scripts=False) as page:
        page.open(demo.addresses[0])
        page.wait_for("Number(document.querySelector('#clicks').textContent.replaceAll(',', '')) > 0")
        before = number(page, "#clicks")
        views = number(page, "#page-views")
        page.click("#click")
        page.wait_for(f"Number(document.querySelector('#page-views').textContent.replaceAll(',', '')) > {views}")
        page.wait_for_text("#clicks", f"{before + 1:,}")


@pytest.mark.parametrize("width", [1200, 820, 360, 320])
def test_page_fits_its_window(chrome: Chrome, get_demo: GetDemo, width: int) -> None:
    with chrome.page() as page:
        page.look(width=width, height=900, scheme="light")
        opened(page, get_demo("raft").addresses[0])
        page.wait_for(DRAWN)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"


def test_message_on_one_page_appears_in_the_chat_of_another(chrome: Chrome, get_demo: GetDemo) -> None:
    demo = get_demo("redis")
    with chrome.page() as saying, chrome.page() as hearing:
        opened(saying, demo.addresses[-1])
        opened(hearing, demo.addresses[0])
        text = f"is <b>anybody</b> there? {demo.ports[-1]}"
        saying.evaluate(f"void (document.querySelector('#text').value = {text!r})")
        saying.click(".say button")
        for page in (hearing, saying):
            page.wait_for_text("#chat li:last-child span", text)
        assert saying.evaluate("document.querySelector('#text').value") == ""


def test_page_changes_only_what_the_policy_lets_it(chrome: Chrome, get_demo: GetDemo) -> None:
    demo = get_demo("memory")
    with chrome.page() as page:
        opened(page, demo.addresses[0])
        before = number(page, "#clicks")
        page.evaluate("import('/static/dref_django/dref.js').then((dref) => { window.dref = dref; })")
        assert page.evaluate("dref.increment('demo.clicks', 2)") == before + 2
        for refused in ("set('demo.clicks', 0)", "increment('demo.visitors')", "compareAndSet('dref.x', 0, 1)"):
            assert page.evaluate(f"dref.{refused}.catch(({{ code }}) => code)") == "forbidden"
        assert page.evaluate("dref.compareAndSet('demo.maintenance', 1, true).catch(({ code }) => code)") == "conflict"
        assert page.evaluate("dref.join('demo').catch(({ code }) => code)") == "forbidden"
        page.wait_for_text("#clicks", f"{before + 2:,}")


def test_buttons_of_the_page_need_no_request_while_it_is_connected(chrome: Chrome, get_demo: GetDemo) -> None:
    with chrome.page() as page:
        opened(page, get_demo("memory").addresses[0])
        page.evaluate("void (window.fetch = () => { throw new Error('a request'); })")
        before, shop = number(page, "#clicks"), page.text("#shop").strip()
        page.click("#click")
        page.wait_for_text("#clicks", f"{before + 1:,}")
        page.click("#maintenance")
        page.wait_for_text("#shop", {"open": "closed", "closed": "open"}[shop])
        assert not page.complaints


def test_page_says_how_many_are_writing(chrome: Chrome, get_demo: GetDemo) -> None:
    demo = get_demo("redis")
    with chrome.page() as writing, chrome.page() as watching:
        opened(writing, demo.addresses[-1])
        opened(watching, demo.addresses[0])
        writing.evaluate("document.querySelector('#text').focus()")
        writing.call("Input.insertText", text="Hm")
        watching.wait_for_text("#writing", "1")
        writing.evaluate("document.querySelector('#text').blur()")
        watching.wait_for_text("#writing", "0")


def test_report_is_written_once_at_a_time(chrome: Chrome, get_demo: GetDemo) -> None:
    demo = get_demo("redis")
    with chrome.page() as page:
        opened(page, demo.addresses[0])
        ports = [str(port) for port in demo.ports]
        page.click("#start-report")
        page.wait_for(f"{ports}.includes(document.querySelector('#report').textContent)")
        visitor = Visitor(demo.addresses[-1])
        visitor.load()
        visitor.post("report/")
        page.wait_for("document.querySelector('#activity').textContent.includes('a report that is being written')")
        page.wait_for("document.querySelector('#progress').value > 0")
        page.wait_for_text("#report", "idle")
        assert not page.complaints


def test_leader_that_is_asked_to_makes_room(chrome: Chrome, get_demo: GetDemo) -> None:
    with chrome.page() as page:
        opened(page, get_demo("redis").addresses[0])
        page.wait_for("Number(document.querySelector('#token').textContent) > 0")
        token = int(page.text("#token"))
        page.click("#make-room")
        page.wait_for(f"Number(document.querySelector('#token').textContent) > {token}")


def test_pictures_of_the_readme(chrome: Chrome, get_demo: GetDemo, pictures: Path) -> None:
    """Light, dark and small, from one page that has seen a minute go by in a few seconds."""
    demo = get_demo("redis")
    visitors = [Visitor(address) for address in demo.addresses]
    for visitor in visitors:
        visitor.load()
    with chrome.page() as page, chrome.page() as second, chrome.page() as third:
        page.look(width=1200, height=900, scheme="light")
        opened(page, demo.addresses[0])
        for another in (second, third):
            opened(another, demo.addresses[-1])
        page.wait_for("document.querySelectorAll('#here li').length >= 3")
        page.evaluate(
            "(() => { const real = Date.now, start = real(); Date.now = () => start + 8 * (real() - start); })()"
        )
        for step, text in enumerate(SMALL_TALK):
            visitor = visitors[step % len(visitors)]
            visitor.post("say/", text=text)
            for _ in range(step * 3 % 5 + 1):
                visitor.post("click/")
            visitor.post(f"moods/{('sunny', 'sunny', 'cloudy')[step % 3]}/")
            visitor.load()
            page.wait_for("!window.drawnAt || Date.now() - window.drawnAt > 6000")
            page.evaluate("void (window.drawnAt = Date.now())")
        visitors[-1].post("report/")
        page.wait_for("document.querySelector('#progress').value >= 40")
        for scheme, width in (("light", 1200), ("dark", 1200), ("light", 390)):
            page.look(width=width, height=900, scheme=scheme)
            page.wait_for(DRAWN)
            page.wait_for("document.getAnimations().length === 0")
            picture = pictures / f"dashboard-{'phone' if width < 600 else scheme}.png"
            page.screenshot(picture)
            assert struct.unpack(">II", picture.read_bytes()[16:24])[0] == width
