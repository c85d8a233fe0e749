"""How the back ends are: what `manage.py dref status` and the system checks say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from django.core import checks
from django.http import HttpRequest, HttpResponse

from dref_django import backends
from dref_django.backends import Backend
from dref_django.cells import FeedStatus
from dref_django.exceptions import DRefError
from dref_django.health import Health, State, check_all
from dref_django.streams import get_hub

from . import rights

if TYPE_CHECKING:
    from .frame import Frame

RAFT: Final = "raft"
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
        row["facts"] = backend.facts() | _of_this_process(backend)
        row["members"] = _members(backend) if each.backend == RAFT else []
    except DRefError as error:
        row["trouble"] = str(error)
    row["findings"] = [(LEVELS[found.level], found) for found in backend.check()]
    return row


def _of_this_process(backend: Backend) -> dict[str, Any]:
    hub = get_hub(backend)
    if not hub.listens:
        return {"listener of this process": "not needed so far"}
    listener = "up to date" if hub.status is FeedStatus.READY else "away, or catching up"
    return {"listener of this process": listener, "names it watches": len(hub.cells)}


def _members(backend: Backend) -> list[dict[str, Any]]:
    """Of the embedded cluster, as its leader sees them."""
    from dref_django.backends.raft.diagnosis import leader_status, members

    return members(leader_status(cast("Any", backend)), {})
