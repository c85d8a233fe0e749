"""`{% load dref %}`: values of refs in templates, live.

{% dref "visits" format="number" %}           the value now; dref.js keeps it current
{% dref "mood" field="happy" %}               one field of it
{% dref "maintenance" on="closed" off="open" %}
{% dref_flag "maintenance" %}We are back soon.{% enddref_flag %}     shown while it is on
{% dref_chart "visits" window="60s" %}        its last minute
{% dref_status %}                             whether what the page shows is current
{% dref_script %}                             once, in the head or at the end of the body
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django import template
from django.template import Context
from django.templatetags.static import static
from django.urls import get_script_prefix
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dref_django.live import limits, render
from dref_django.refs import DRef, ref_for

register = template.Library()

OPTIONS: Final = ("format", "on", "off", "empty")
STATES: Final = ("idle", "connecting", "connected", "reconnecting", "stale")


def dref(ref: DRef[Any] | str, field: str = "", **options: Any) -> SafeString:
    """The current value of a ref (or of the ref of that name), escaped, in an element that dref.js keeps current.

    `field` is a dotted path into the value; `format="number"` groups digits; `on`, `off` are shown for a boolean,
    `empty` where there is no value. While the back end is down it shows the default, else `empty`. Further keyword
    arguments become attributes (`class`, `id`, `aria_live`).
    """
    return _shown("dref-value", ref, field, {}, options)


register.simple_tag(dref, name="dref")
register.simple_tag(dref, name="dref_value")


@register.simple_tag
def dref_chart(
    ref: DRef[Any] | str, field: str = "", window: str = "60s", label: str = "", **options: Any
) -> SafeString:
    """A line of the ref's last `window` ("90s", "5m", "1h"), from when the page was opened on.

    `label` says what it is of, by default the ref's name. Without JavaScript it is the current value, for which
    `format`, `on`, `off` and `empty` are as with `dref`.
    """
    own = {"window": window, **({"label": label} if label else {})}
    return _shown("dref-chart", ref, field, own, options)


@register.simple_block_tag
def dref_flag(content: str, ref: DRef[Any] | str, field: str = "", when: str = "on", **attributes: Any) -> SafeString:
    """Shows its content while the value is on (true, not zero, not empty), with `when="off"` while it is not.

    The content is in the page either way, only hidden: nothing for secrets.
    """
    if when not in {"on", "off"}:
        raise template.TemplateSyntaxError(f"dref_flag: when={when!r}, it is 'on' or 'off'.")
    ref = _ref(ref)
    is_on = bool(render.field_of(render.current_view(ref), field))
    own = {"name": ref.name, **({"field": field} if field else {}), **({"when": when} if when == "off" else {})}
    hidden = " hidden" if is_on == (when == "off") else ""
    return format_html("<dref-flag{}{}>{}</dref-flag>", _attributes(own, attributes), hidden, content)


@register.simple_tag
def dref_status(text: str = "", **options: Any) -> SafeString:
    """Whether what the page shows is current: a live region whose text follows the connection.

    `connected`, `connecting`, `reconnecting`, `stale` and `idle` replace its words; "{since}" in them is the time from
    which on values may be old. `text` is what stands there without JavaScript. Others become attributes.
    """
    words = {state: str(options.pop(state)) for state in STATES if state in options}
    return format_html("<dref-status{}>{}</dref-status>", _attributes({"role": "status"} | words, options), text)


@register.simple_tag(takes_context=True)
def dref_script(context: Context, nonce: str = "") -> SafeString:
    """The script element of dref.js. The nonce of a Content-Security-Policy is taken from the argument, or is found
    where Django (`csp_nonce` in the context) or django-csp (`request.csp_nonce`) leave it."""
    found = nonce or context.get("csp_nonce") or getattr(context.get("request"), "csp_nonce", None)
    own = {
        "type": "module",
        "src": static("dref_django/dref.js"),
        "data-dref-url": get_script_prefix().removesuffix("/") + limits.configured().url,
        "data-dref-chart": static("dref_django/dref-chart.js"),
    }
    return format_html("<script{}></script>", _attributes(own, {"nonce": found} if found else {}))


def _shown(
    tag: str, ref: DRef[Any] | str, field: str, own: Mapping[str, str], options: Mapping[str, Any]
) -> SafeString:
    ref = _ref(ref)
    shown = {key: str(options[key]) for key in OPTIONS if key in options}
    text = render.display(render.field_of(render.current_view(ref), field), **shown)
    others = {key: value for key, value in options.items() if key not in shown}
    attributes = {"name": ref.name, **({"field": field} if field else {}), **own, **shown}
    return format_html("<{}{}>{}</{}>", tag, _attributes(attributes, others), text, tag)


def _ref(ref: DRef[Any] | str) -> DRef[Any]:
    return ref_for(ref) if isinstance(ref, str) else ref


def _attributes(own: Mapping[str, str], others: Mapping[str, Any]) -> SafeString:
    """`class_` and `aria_live` are the attributes `class` and `aria-live`."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in others.items()}
    return format_html_join("", ' {}="{}"', {**own, **named}.items())
