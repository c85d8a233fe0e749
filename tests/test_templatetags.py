"""`{% load dref %}`: values on pages that the server renders."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any

import pytest
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory
from django.urls import set_script_prefix

from dref_django import Counter, DRef, Flag, backends
from dref_django.live import render as live_render
from dref_django.testing import isolate
from tests.settings import NOWHERE_REDIS

EMPTY = "\N{EN DASH}"


@dataclass(frozen=True)
class Forecast:
    city: str
    degrees: dict[str, float]


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with isolate():
        yield


def rendered(tag: str, **context: Any) -> str:
    return Template("{% load dref %}{% " + tag + " %}").render(Context(context))


class TestValue:
    def test_current_value_stands_in_an_element_that_names_its_ref(self) -> None:
        visits = Counter("tags.visits")
        visits.set(3)
        assert rendered('dref "tags.visits"') == '<dref-value name="tags.visits">3</dref-value>'
        assert rendered("dref visits", visits=visits) == '<dref-value name="tags.visits">3</dref-value>'

    def test_next_page_shows_what_changed(self) -> None:
        visits = Counter("tags.visits")
        assert ">0<" in rendered("dref visits", visits=visits)
        visits.increment()
        assert ">1<" in rendered("dref visits", visits=visits)

    def test_value_name_and_attributes_are_escaped(self) -> None:
        text = DRef[str]('tags."<name>&')
        text.set("<script>alert('1')</script>")
        html = rendered("dref text title=title", text=text, title='"><b>')
        assert "<script" not in html
        assert "<b>" not in html
        assert html.count('"') == 4
        assert unescape(html) == '<dref-value name="tags."<name>&" title=""><b>">' + text.get() + "</dref-value>"

    def test_field_is_a_dotted_path(self) -> None:
        forecast = DRef("tags.forecast", default=Forecast("Oslo", {"noon": 7.0}))
        html = rendered('dref forecast field="degrees.noon"', forecast=forecast)
        assert html == '<dref-value name="tags.forecast" field="degrees.noon">7</dref-value>'
        assert f">{EMPTY}<" in rendered('dref forecast field="degrees.night"', forecast=forecast)

    def test_field_leads_into_lists_too(self) -> None:
        scores = DRef("tags.scores", default=[{"name": "Ann"}])
        assert ">Ann<" in rendered('dref scores field="0.name"', scores=scores)
        assert f">{EMPTY}<" in rendered('dref scores field="1.name"', scores=scores)

    @pytest.mark.parametrize(
        ("value", "options", "shown"),
        [
            (True, "", "on"),
            (False, "", "off"),
            (True, 'on="closed" off="open"', "closed"),
            (1234567, "", "1234567"),
            (1234567, 'format="number"', "1,234,567"),
            (2**60, 'format="number"', "1,152,921,504,606,846,976"),
            (1234.5, 'format="number"', "1,234.5"),
            (3.0, "", "3"),
            ("", "", EMPTY),
            ("", 'empty="nobody"', "nobody"),
            ("words", 'format="number"', "words"),
            ({"a": [1, None]}, "", '{"a":[1,null]}'),
        ],
    )
    def test_display(self, value: object, options: str, shown: str) -> None:
        ref = DRef[object]("tags.value")
        ref.set(value)
        html = rendered(f"dref ref {options}", ref=ref)
        assert unescape(html.partition(">")[2]).removesuffix("</dref-value>") == shown

    def test_options_reach_the_element_so_that_the_page_shows_the_same(self) -> None:
        html = rendered('dref flag on="closed" off="open" class_="big" aria_live="polite"', flag=Flag("tags.flag"))
        assert html == (
            '<dref-value name="tags.flag" on="closed" off="open" class="big" aria-live="polite">open</dref-value>'
        )

    def test_absent_value_is_the_default_or_a_dash(self) -> None:
        assert ">some<" in rendered("dref ref", ref=DRef("tags.absent", default="some"))
        assert f">{EMPTY}<" in rendered("dref ref", ref=DRef[str]("tags.unset"))
        assert f">{EMPTY}<" in rendered('dref "tags.nowhere.declared"')

    def test_value_that_does_not_fit_its_type_is_a_dash(self, caplog: pytest.LogCaptureFixture) -> None:
        DRef[object]("tags.typed").set("text")
        forecast = DRef("tags.typed", default=Forecast("Oslo", {}))
        assert f">{EMPTY}<" in rendered("dref forecast", forecast=forecast)
        assert "tags.typed" in caplog.text

    async def test_async_view_is_not_blocked_and_later_pages_show_the_value(self) -> None:
        visits = Counter("tags.visits")
        await visits.aset(5)
        async with asyncio.timeout(10):
            while ">5<" not in (html := rendered("dref visits", visits=visits)):
                assert ">0<" in html
                await asyncio.sleep(0)


class TestFlag:
    def block(self, tag: str, **context: Any) -> str:
        source = "{% load dref %}{% dref_flag " + tag + " %}<b>{{ text }}</b>{% enddref_flag %}"
        return Template(source).render(Context(context))

    def test_content_is_hidden_while_the_flag_is_off(self) -> None:
        flag = Flag("tags.flag")
        assert self.block("flag", flag=flag, text="<") == '<dref-flag name="tags.flag" hidden><b>&lt;</b></dref-flag>'
        flag.set(True)
        assert self.block("flag", flag=flag) == '<dref-flag name="tags.flag"><b></b></dref-flag>'

    def test_content_for_off_is_hidden_while_it_is_on(self) -> None:
        flag = Flag("tags.flag")
        shown = '<dref-flag name="tags.flag" when="off" class="calm"><b></b></dref-flag>'
        assert self.block('flag when="off" class_="calm"', flag=flag) == shown
        flag.set(True)
        assert " hidden>" in self.block('flag when="off"', flag=flag)

    @pytest.mark.parametrize(("value", "is_on"), [(0, False), (2, True), ("", False), ([], False), ({"a": 0}, True)])
    def test_empty_values_are_off(self, value: object, is_on: bool) -> None:
        ref = DRef[object]("tags.value")
        ref.set(value)
        assert (" hidden>" not in self.block("ref", ref=ref)) is is_on

    def test_field_decides(self) -> None:
        ref = DRef[object]("tags.value")
        ref.set({"beta": True})
        assert self.block('ref field="beta"', ref=ref).startswith('<dref-flag name="tags.value" field="beta"><b>')
        assert " hidden>" in self.block('ref field="gamma"', ref=ref)

    def test_another_when_is_refused(self) -> None:
        with pytest.raises(TemplateSyntaxError, match="'on' or 'off'"):
            self.block('flag when="never"', flag=Flag("tags.flag"))


class TestOtherElements:
    def test_value_has_a_second_name(self) -> None:
        assert rendered('dref_value "tags.a" empty="?"') == '<dref-value name="tags.a" empty="?">?</dref-value>'

    def test_chart_holds_the_value_for_pages_without_javascript(self) -> None:
        visits = Counter("tags.visits")
        visits.set(1234)
        tag = 'dref_chart visits window="5m" label="Visits" format="number" class_="tall"'
        assert rendered(tag, visits=visits) == (
            '<dref-chart name="tags.visits" window="5m" label="Visits" format="number" class="tall">1,234</dref-chart>'
        )

    def test_status_is_a_live_region_with_words_of_its_own(self) -> None:
        assert rendered('dref_status "off" connected="da" reconnecting="weg seit {since}" class_="x"') == (
            '<dref-status role="status" connected="da" reconnecting="weg seit {since}" class="x">off</dref-status>'
        )


class TestBackEndDown:
    @pytest.fixture(autouse=True)
    def _down(self, settings: Any) -> Iterator[None]:
        settings.DREF_BACKEND = {"BACKEND": "redis", "OPTIONS": {"URL": NOWHERE_REDIS}}
        backends.reset()
        yield
        backends.reset()

    def test_page_shows_defaults_and_does_not_wait_for_each(self) -> None:
        visits, flag = Counter("tags.visits", default=7), Flag("tags.flag")
        started = time.monotonic()
        for _ in range(50):
            assert ">7<" in rendered("dref visits", visits=visits)
            assert ">off<" in rendered("dref flag", flag=flag)
            assert f">{EMPTY}<" in rendered('dref "tags.undeclared"')
        assert time.monotonic() - started < live_render.PATIENCE + 2

    async def test_async_view_shows_defaults(self) -> None:
        assert ">7<" in rendered("dref visits", visits=Counter("tags.visits", default=7))


class TestScript:
    def test_script_is_a_module_that_knows_the_websocket(self) -> None:
        assert rendered("dref_script") == (
            '<script type="module" src="/static/dref_django/dref.js" data-dref-url="/dref/ws/" '
            'data-dref-chart="/static/dref_django/dref-chart.js"></script>'
        )

    def test_url_is_the_settings_below_the_script_prefix(self, settings: Any) -> None:
        settings.DREF_LIVE = {"URL": "/live/"}
        set_script_prefix("/shop/")
        try:
            assert 'data-dref-url="/shop/live/"' in rendered("dref_script")
        finally:
            set_script_prefix("/")

    def test_nonce_comes_from_the_argument_django_or_django_csp(self) -> None:
        request = RequestFactory().get("/")
        assert "nonce" not in rendered("dref_script", request=request)
        assert 'nonce="a"' in rendered('dref_script nonce="a"', csp_nonce="b")
        assert 'nonce="b"' in rendered("dref_script", csp_nonce="b")
        request.csp_nonce = "c"  # type: ignore[attr-defined]
        assert 'nonce="c"' in rendered("dref_script", request=request)
