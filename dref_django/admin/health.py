"""How the back ends are: what `manage.py dref status` and the system checks say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core import checks
from django.http import HttpRequest, HttpResponse

from dref_django import backends
from dref_django.exceptions import DRefError
from dref_django.health import Health, State, check_all

from . import rights

if TYPE_CHECKING:
    from .frame import Frame

LEVELS = {checks.INFO: "note", checks.WARNING: "warning", checks.ERROR: "error"}


def health(frame: Frame, request: HttpRequest) -> HttpResponse:
    rights.demand(rights.may_see_refs(request))
    return frame.render("health.html", {"title": "Health", "rows": [_row(each) for each in check_all()]})


def _row(each: Health) -> dict[str, Any]:
    row: dict[str, Any] = {"health": each, "latency": None if each.latency is None else each.latency * 1000}
    if each.state is State.DOWN:
        return row
    backend = backends.get_backend(each.alias)
    try:
        row["facts"] = backend.facts()
    except DRefError as error:
        row["trouble"] = str(error)
    row["findings"] = [(LEVELS[found.level], found) for found in backend.check()]
    return row
