"""The elements of dref.js: what they show, what they ask for, and what those hear who cannot see them."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.browser.module import Module

STATIC: Final = Path(__file__).resolve().parents[2] / "dref_django" / "static" / "dref_django"
BIGGEST: Final = 6000  # bytes of dref.js, gzipped
UPLOT: Final = "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
"""SHA-256 of dist/uPlot.iife.min.js of the npm package uplot 1.6.32."""


def test_module_is_small() -> None:
    assert len(gzip.compress((STATIC / "dref.js").read_bytes(), 9)) < BIGGEST


def test_chart_library_is_the_published_one_made_a_module() -> None:
    published, ours = (STATIC / "vendor" / "uplot" / "uPlot.js").read_text().removesuffix("\n").rsplit("\n", 1)
    assert ours == "export default uPlot;"
    assert hashlib.sha256(published.encode() + b"\n").hexdigest() == UPLOT


def connected(module: Module, html: str) -> None:
    module.show(html)
    module.sockets(1)
    module.greet()


class TestValue:
    def test_other_name_or_format_shows_at_once(self, module: Module) -> None:
        module.run("document.documentElement.lang = 'en'")
        connected(module, '<dref-value name="a">as served</dref-value>')
        assert module.text("dref-value") == "as served"
        module.snapshot("a", "1234567")
        assert module.text("dref-value") == "1234567"
        module.run("document.querySelector('dref-value').setAttribute('format', 'number')")
        module.wait_for("document.querySelector('dref-value').textContent === '1,234,567'")
        module.sent()
        module.run("document.querySelector('dref-value').setAttribute('name', 'b')")
        assert {"type": "watch", "names": ["b"], "prefixes": [], "resume": {}} in module.sent()

    def test_text_is_never_read_as_html(self, module: Module) -> None:
        connected(module, '<dref-value name="a"></dref-value>')
        module.snapshot("a", json.dumps("<img src=x>"))
        assert module.text("dref-value") == "<img src=x>"
        assert module.run("document.querySelector('dref-value').childElementCount") == 0

    def test_element_that_leaves_the_page_unwatches(self, module: Module) -> None:
        connected(module, '<dref-value name="a"></dref-value>')
        module.sent()
        module.show("")
        module.watch("b")
        assert {"type": "unwatch", "names": ["a"], "prefixes": []} in module.sent()


class TestFlag:
    def test_shows_its_content_while_it_is_on_as_python_has_it(self, module: Module) -> None:
        connected(module, '<dref-flag name="a">on</dref-flag><dref-flag name="a" when="off">off</dref-flag>')
        for version, value in enumerate([True, False, 0, 3, "", "x", None, [], [0], {}, {"a": None}]):
            module.snapshot("a", json.dumps(value), version=version)
            assert module.run("document.body.innerText").strip() == ("on" if value else "off"), value

    def test_stays_as_served_until_its_value_is_known(self, module: Module) -> None:
        connected(module, '<dref-flag name="a" field="b" hidden>on</dref-flag>')
        module.run("void document.addEventListener('dref:change', ({ detail }) => said.push(detail))")
        assert module.run("document.querySelector('dref-flag').hidden")
        module.snapshot("a", '{"b":false}')
        assert module.run("said") == []
        module.snapshot("a", '{"b":true}', version=2)
        assert not module.run("document.querySelector('dref-flag').hidden")
        assert module.run("said") == [True]


class TestStatus:
    HTML = '<dref-value name="a"></dref-value><dref-status>no JavaScript</dref-status>'

    def shown(self, module: Module) -> tuple[str, str]:
        return module.text("dref-status"), module.run("document.querySelector('dref-status').dataset.state")

    def test_says_where_the_connection_stands(self, module: Module) -> None:
        module.run("document.documentElement.lang = 'en-GB'")
        module.run("(window.now = 1e12, Date.now = () => window.now)")
        module.show(self.HTML)
        module.sockets(1)
        assert self.shown(module) == ("connecting", "connecting")
        module.greet()
        assert self.shown(module) == ("live", "connected")
        module.hear("ping", ping=1, stale=True)
        text, state = self.shown(module)
        assert (text.startswith("values may be old since "), state) == (True, "stale")
        since = text.removeprefix("values may be old since ")
        module.run("window.now += 60000")
        module.drop()
        # From the moment on at which the server lost its back end, not from the later one.
        assert self.shown(module) == (f"reconnecting, values as of {since}", "reconnecting")
        module.sockets(2)
        module.greet()
        assert self.shown(module) == ("live", "connected")

    def test_is_a_live_region_with_words_of_its_own(self, module: Module) -> None:
        module.show('<dref-value name="a"></dref-value><dref-status connected="verbunden"></dref-status>')
        module.sockets(1)
        module.greet()
        assert self.shown(module) == ("verbunden", "connected")
        assert module.run("document.querySelector('dref-status').getAttribute('role')") == "status"


class TestOwnElement:
    def test_hears_the_field_that_it_names(self, module: Module) -> None:
        module.run(
            "customElements.define('shop-stock', class extends dref.DRefElement {"
            " show(value, change) { said.push([value, change.version]); } })"
        )
        connected(module, '<shop-stock name="stock" field="teapots.0"></shop-stock>')
        module.snapshot("stock", '{"teapots":[3]}', version=4)
        module.snapshot("stock", '{"cups":[3]}', version=5)
        assert module.run("said.map(([value, version]) => [value ?? 'none', version])") == [[3, 4], ["none", 5]]


HTML: Final = '<dref-chart name="a" window="60s" label="Visits">7</dref-chart>'
CHART: Final = "document.querySelector('dref-chart').chart"
INKED: Final = f"""(() => {{
  const canvas = {CHART}.frame.querySelector('canvas');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let at = 0; at < pixels.length; at += 4) count += pixels[at] > 200 && pixels[at + 1] < 60;
  return count;
}})()"""
"""How many pixels of the chart are red."""


class TestChart:
    @pytest.fixture
    def chart(self, module: Module) -> Module:
        """A chart whose clock the test moves: `now` is in milliseconds."""
        module.run("document.documentElement.lang = 'en-GB'")
        module.run("(window.now = 1e12, Date.now = () => window.now)")
        connected(module, HTML)
        module.wait_for(f"Boolean({CHART})")
        return module

    def put(self, module: Module, value: Any, *, after: float = 1.0, version: int = 1) -> None:
        module.run(f"window.now += {after * 1000}")
        module.snapshot("a", json.dumps(value), version=version)

    def points(self, module: Module) -> Any:
        return module.run(f"{CHART}.times.map((at, index) => [at - 1e9, {CHART}.values[index]])")

    def test_library_is_loaded_by_a_page_with_a_chart_only(self, module: Module) -> None:
        loaded = "performance.getEntriesByType('resource').some(({ name }) => name.includes('uPlot'))"
        connected(module, '<dref-value name="a"></dref-value>')
        module.snapshot("a", "1")
        assert not module.run(loaded)
        module.show(HTML)
        module.wait_for(f"Boolean({CHART})")
        assert module.run(loaded)

    def test_line_is_drawn_in_the_colour_of_the_page(self, chart: Module) -> None:
        chart.run("void document.querySelector('dref-chart').style.setProperty('--dref-chart-color', 'rgb(255 0 0)')")
        chart.run(f"{CHART}.recolour()")
        before = chart.run(INKED)
        for value in (1, 5, 2):
            self.put(chart, value, after=10)
        self.put(chart, 4, after=10)
        chart.run(f"{CHART}.draw()")
        chart.wait_for(f"{INKED} > 100")
        assert before == 0

    def test_holds_the_window_and_the_value_at_its_left_edge(self, chart: Module) -> None:
        for value in (1, 2, 3):
            self.put(chart, value, after=25)
        assert self.points(chart) == [[25, 1], [50, 2], [75, 3]]
        self.put(chart, 4, after=15)  # at 90: the window begins at 30
        assert self.points(chart) == [[25, 1], [50, 2], [75, 3], [90, 4]]
        self.put(chart, 5, after=25)  # at 115: it begins at 55
        assert self.points(chart) == [[50, 2], [75, 3], [90, 4], [115, 5]]

    def test_flood_of_changes_is_bounded_and_ends_on_the_last(self, chart: Module) -> None:
        chart.run(f"void Array.from({{ length: 20000 }}, (_, n) => {{ window.now += 5; {CHART}.add(n); }})")
        points = self.points(chart)
        assert 600 <= len(points) <= 1202
        assert points[-1][1] == 19999

    def test_lost_connection_is_a_hole(self, chart: Module) -> None:
        self.put(chart, 3, after=0)
        chart.run("window.now += 10000")
        chart.drop()
        chart.run("window.now += 10000")
        chart.sockets(2)
        chart.greet()
        assert self.points(chart) == [[0, 3], [10, None], [20, 3]]

    def test_what_is_no_number_is_a_hole_and_a_flag_is_a_number(self, chart: Module) -> None:
        for value in (True, "words", None, False):
            self.put(chart, value)
        assert self.points(chart) == [[1, 1], [2, None], [3, None], [4, 0]]

    def test_keys_go_from_change_to_change_and_read_it_out(self, chart: Module) -> None:
        for value in (10, 20, 30):
            self.put(chart, value)
        chart.run(f"{CHART}.draw()")
        read = [self.pressed(chart, key) for key in ("ArrowLeft", "ArrowLeft", "Home", "ArrowLeft", "End", "Escape")]
        assert [text.split(",")[0] for text in read] == ["30", "20", "10", "10", "30", ""]
        assert chart.run(f"{CHART}.readout.localName") == "output"

    @pytest.mark.parametrize("event", ["new KeyboardEvent('keydown', { key: 'Escape' })", "new Event('blur')"])
    def test_what_was_let_go_stays_so_when_the_chart_is_drawn_anew(self, chart: Module, event: str) -> None:
        for value in (10, 20):
            self.put(chart, value)
        chart.run(f"{CHART}.draw()")
        assert self.pressed(chart, "ArrowLeft").startswith("20")
        assert chart.run(f"{CHART}.plot.cursor.left") > 0
        chart.run(f"document.querySelector('dref-chart').dispatchEvent({event})")
        self.put(chart, 30)
        chart.run(f"{CHART}.draw()")
        assert chart.run(f"Promise.resolve().then(() => {CHART}.readout.textContent)") == ""
        assert chart.run(f"{CHART}.plot.cursor.left") < 0

    def pressed(self, module: Module, key: str) -> str:
        event = f"new KeyboardEvent('keydown', {{ key: '{key}', cancelable: true }})"
        module.run(f"document.querySelector('dref-chart').dispatchEvent({event})")
        return str(module.run(f"{CHART}.readout.textContent"))

    def test_is_a_figure_that_can_be_read(self, chart: Module) -> None:
        for value in (10, 30, 20):
            self.put(chart, value)
        chart.run(f"{CHART}.draw()")
        names = ("role", "aria-label", "tabindex")
        attributes = chart.run(f"{list(names)}.map((name) => document.querySelector('dref-chart').getAttribute(name))")
        assert attributes == ["figure", "Visits, the last 60s", "0"]
        assert chart.run(f"{CHART}.summary.textContent") == "now 20, lowest 10, highest 30"
        assert chart.run("document.querySelector('dref-chart').textContent") == "20"

    def test_leaves_the_page_and_comes_back(self, chart: Module) -> None:
        self.put(chart, 1)
        chart.run("(window.gone = document.querySelector('dref-chart')).remove()")
        assert chart.run("gone.chart.plot === null")
        chart.run("void document.body.append(gone)")
        self.put(chart, 2)
        chart.wait_for(f"Boolean({CHART}.plot)")
        assert self.points(chart)[-1][1] == 2

    def test_text_inside_stays_current_where_the_library_does_not_load(self, module: Module) -> None:
        module.run(
            "void Object.defineProperty(HTMLElement.prototype, 'attachShadow', { value() { throw Error('no') } })"
        )
        connected(module, HTML)
        module.snapshot("a", "42")
        assert module.text("dref-chart") == "42"

    def test_window_has_a_unit(self, module: Module) -> None:
        windows = {"90": 90, "90s": 90, "5m": 300, "1.5 h": 5400, "250ms": 0.25, "soon": 60, "": 60}
        seconds = f"import('/static/dref_django/dref-chart.js').then((chart) => {list(windows)}.map(chart.seconds))"
        assert module.run(seconds) == list(windows.values())
