"""The list of refs, and one of them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect

from dref_django import catalog
from dref_django.exceptions import CounterOverflow, DRefError, InvalidName, InvalidValue, ValueTooLarge
from dref_django.history import TooLarge, acting
from dref_django.live import render
from dref_django.live.view import view_of

from . import rights
from .audit import shortened, traced
from .sparkline import sparkline

if TYPE_CHECKING:
    from .frame import Frame

PAGE: Final = 50
SHOWN: Final = 2048
"""Bytes of a value up to which the list shows it."""
LEAST_ROWS: Final = 4
MOST_ROWS: Final = 24
"""Lines of the text area in which a value is changed."""


def listing(frame: Frame, request: HttpRequest) -> HttpResponse:
    """A page of names in their order; never more is read than it shows."""
    rights.demand(rights.may_see_refs(request))
    prefix, after = request.GET.get("q", ""), request.GET.get("after", "")
    found, following = catalog.page(prefix, after, PAGE, using=frame.using)
    found = catalog.with_values(found, largest=SHOWN)
    branches, complete = ([], True) if after else catalog.branches(prefix, using=frame.using)
    context = {
        "title": "Refs",
        "prefix": prefix,
        "crumbs": _crumbs(frame, prefix),
        "branches": [(catalog.label(branch[len(prefix) :]), frame.url("changelist", q=branch)) for branch in branches],
        "more_branches": not complete,
        "rows": [_row(frame, ref) for ref in found],
        "first": frame.url("changelist", q=prefix) if after else "",
        "following": frame.url("changelist", q=prefix, after=following) if following else "",
    }
    return frame.render("refs.html", context)


def _row(frame: Frame, ref: catalog.StoredRef) -> dict[str, Any]:
    return {
        "ref": ref,
        "url": frame.url("change", object_id=ref.name),
        "shown": "" if ref.data is None else _shortly(ref),
        "live": ref.data is not None and not ref.group,
    }


def _shortly(ref: catalog.StoredRef) -> str:
    try:
        return render.display(view_of(ref.value()))
    except DRefError as error:
        return str(error)


def _crumbs(frame: Frame, prefix: str) -> list[tuple[str, str]]:
    """The shorter prefixes, longest last, each with its address."""
    crumbs, start = [("all", frame.url("changelist"))], 0
    for place, character in enumerate(prefix, 1):
        if character in catalog.SEPARATORS or place == len(prefix):
            crumbs.append((catalog.label(prefix[start:place]), frame.url("changelist", q=prefix[:place])))
            start = place
    return crumbs


def one(frame: Frame, request: HttpRequest, object_id: str) -> HttpResponse:
    """The value, and with the permission a form that changes this version of it and no other."""
    rights.demand(rights.may_see_refs(request))
    name = unquote(object_id)
    try:
        ref = catalog.find(name, using=frame.using)
    except InvalidName as error:
        raise Http404(str(error)) from error
    if request.method == "POST":
        rights.demand(rights.may(request, rights.CHANGE))
        return _change(frame, request, name, ref)
    if ref is None:
        raise Http404(f"{catalog.label(name)} has no value")
    return _show(frame, ref, name)


def _show(frame: Frame, ref: catalog.StoredRef | None, name: str, **more: Any) -> HttpResponse:
    text = None if ref is None else ref.text()
    changes = _changes(frame, name)
    context = {
        "title": catalog.label(name),
        "name": name,
        "ref": ref,
        "version": 0 if ref is None else ref.version,
        "pretty": "" if ref is None else _pretty(ref),
        "editable": ref is None or text is not None,
        "entered": None if text is None else _indented(text),
        "back": frame.url("changelist"),
        "changes": changes,
        "sparkline": sparkline([change["record"] for change in changes]),
        **more,
    }
    context["rows"] = min(max(LEAST_ROWS, str(context["entered"]).count("\n") + 1), MOST_ROWS)
    return frame.render("ref.html", context, HTTPStatus.CONFLICT if more.get("conflict") else HTTPStatus.OK)


def _change(frame: Frame, request: HttpRequest, name: str, before: catalog.StoredRef | None) -> HttpResponse:
    entered, seen = request.POST.get("value", ""), request.POST.get("version", "")
    if not seen.isdecimal():
        raise Http404("the form names no version")
    try:
        data = catalog.encoded(name, entered, using=frame.using)
    except (CounterOverflow, InvalidValue, ValueTooLarge) as error:
        return _show(frame, before, name, entered=entered, version=int(seen), refused=str(error))
    old = "no value" if before is None else _shortly(before)
    message = f"Changed from {shortened(old)} to {shortened(entered)}"
    with traced(request, catalog.label(name), message, object_id=name) as trace:
        with acting(request.user.get_username()):
            other = catalog.put(name, data, expect=int(seen), using=frame.using)
        if other is not None:
            trace.forget()
    if other is not None:
        return _show(frame, None if other.data is None else other, name, entered=entered, conflict=True)
    messages.success(request, f"The value of {catalog.label(name)} was changed.")
    return HttpResponseRedirect(frame.url("change", object_id=name))


def _changes(frame: Frame, name: str) -> list[dict[str, Any]]:
    """The history, each with the text that brings the value before it back, where there is such a text."""
    found = []
    for record in catalog.records(name, using=frame.using):
        text = None if isinstance(record.old, TooLarge | None) else catalog.text_of(name, record.old, using=frame.using)
        found.append({"record": record, "old": _display(record.old), "new": _display(record.new), "revert": text})
    return found


def _display(value: Any) -> str:
    try:
        return repr(value) if isinstance(value, TooLarge) else render.display(view_of(value))
    except DRefError:
        return repr(value)


def _pretty(ref: catalog.StoredRef) -> str:
    try:
        return json.dumps(view_of(ref.value()), indent=2, ensure_ascii=False)
    except DRefError as error:
        return f"{error}\n\n{ref.data!r}"


def _indented(text: str) -> str:
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
