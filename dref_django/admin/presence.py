"""Who is where: the rooms of `Presence`, and their members."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from django.http import HttpRequest, HttpResponse

from dref_django import backends
from dref_django.attendance import GROUP
from dref_django.naming import GROUP_SEPARATOR, grouped
from dref_django.presence import Presence
from dref_django.protocol import Row, Scan

from . import rights

if TYPE_CHECKING:
    from .frame import Frame

PAGE: Final = 25
"""Rooms; the members of each are read."""
NAMED: Final = 20
"""Members of a room that are named; the others are only counted."""
_LAST: Final = "\U0010ffff"


def presence(frame: Frame, request: HttpRequest) -> HttpResponse:
    rights.demand(rights.may_see_refs(request))
    prefix, after = request.GET.get("q", ""), request.GET.get("after", "")
    rooms, more = _rooms(prefix, after, frame.using)
    context = {
        "title": "Presence",
        "prefix": prefix,
        "rows": [row for room in rooms if (row := _row(room, frame.using))["count"]],
        "first": frame.url("presence", q=prefix) if after else "",
        "following": frame.url("presence", q=prefix, after=rooms[-1]) if more else "",
    }
    return frame.render("presence.html", context)


def _rooms(prefix: str, after: str, using: str) -> tuple[list[str], bool]:
    """The next rooms in the order of their names, and whether there are more. It jumps from one to the next: each
    process has an entry in each room."""
    backend = backends.get_backend(using)
    rooms: list[str] = []
    cursor = _behind(after) if after else ""
    while len(rooms) < PAGE:
        (reply,) = backend.execute([Scan(grouped(prefix, GROUP) if prefix else GROUP + GROUP_SEPARATOR, cursor, 1)])
        names = [row.name for row in reply.page if isinstance(row, Row)]
        if names:
            rooms.append(names[0].split(GROUP_SEPARATOR)[1])
        if not reply.cursor:
            return rooms, False
        cursor = _behind(rooms[-1]) if names else reply.cursor
    return rooms, True


def _behind(room: str) -> str:
    return grouped(room, GROUP) + GROUP_SEPARATOR + _LAST


def _row(room: str, using: str) -> dict[str, Any]:
    members = Presence(room, using=using).list()
    named = [(name, ", ".join(f"{key}: {value}" for key, value in info.items())) for name, info in members.items()]
    return {"room": room, "count": len(members), "members": list(islice(named, NAMED)), "others": len(named) - NAMED}
