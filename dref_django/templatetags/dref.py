"""`{% load dref %}`: values of refs in templates, live.

{% dref "visits" format="number" %}           the value now; dref.js keeps it current
{% dref "mood" field="happy" %}               one field of it
{% dref "maintenance" on="closed" off="open" %}
{% dref_script %}                             once, in the head or at the end of the body
"""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context
from django.templatetags.static import static
from django.urls import get_script_prefix
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dref_django.live import limits, render
from dref_django.refs import DRef, ref_for

register = template.Library()

OPTIONS = ("format", "on", "off", "empty")


@register.simple_tag
def dref(ref: DRef[Any] | str, field: str = "", **options: str) -> SafeString:
    """The current value of a ref (or of the ref of that name), escaped, in an element that dref.js keeps current.

    `field` is a dotted path into the value; `format="number"` groups digits; `on`, `off` are shown for a boolean,
    `empty` where there is no value. While the back end is down it shows the default, else `empty`. Further keyword
    arguments become attributes (`class`, `id`, `aria_live`).
    """
    if isinstance(ref, str):
        ref = ref_for(ref)
    shown = {key: str(options.pop(key)) for key in OPTIONS if key in options}
    text = render.display(render.field_of(render.current_view(ref), field), **shown)
    attributes = {"name": ref.name, **({"field": field} if field else {}), **shown}
    attributes |= {key.rstrip("_").replace("_", "-"): str(value) for key, value in options.items()}
    return format_html("<dref-value{}>{}</dref-value>", format_html_join("", ' {}="{}"', attributes.items()), text)


@register.simple_tag(takes_context=True)
def dref_script(context: Context, nonce: str = "") -> SafeString:
    """The script element of dref.js. The nonce of a Content-Security-Policy is taken from the argument, or is found
    where Django (`csp_nonce` in the context) or django-csp (`request.csp_nonce`) leave it."""
    found = nonce or context.get("csp_nonce") or getattr(context.get("request"), "csp_nonce", None)
    url = get_script_prefix().removesuffix("/") + limits.configured().url
    attributes = {"type": "module", "src": static("dref_django/dref.js"), "data-dref-url": url}
    if found:
        attributes["nonce"] = str(found)
    return format_html("<script{}></script>", format_html_join("", ' {}="{}"', attributes.items()))
