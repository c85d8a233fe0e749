"""Locks and elections: who holds what, and taking it from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect

from dref_django import inspection
from dref_django.catalog import label
from dref_django.exceptions import InvalidName
from dref_django.inspection import LockInfo

from . import rights
from .audit import traced

if TYPE_CHECKING:
    from .frame import Frame

PAGE: Final = 100
ELECTION: Final = "election"
KINDS: Final = ("lock", "ref", "semaphore", "rwlock")
"""What the page of locks shows; a ref's own lock is that of `edit()` and queued updates."""


def listing(frame: Frame, request: HttpRequest) -> HttpResponse:
    kind = request.GET.get("kind", KINDS[0])
    if kind not in KINDS:
        raise Http404(f"there is no kind of lock {kind!r}")
    return _listing(frame, request, kind, "locks", "locks.html", "Locks")


def elections(frame: Frame, request: HttpRequest) -> HttpResponse:
    return _listing(frame, request, ELECTION, "elections", "elections.html", "Elections")


def _listing(frame: Frame, request: HttpRequest, kind: str, page: str, template: str, title: str) -> HttpResponse:
    rights.demand(rights.may_see_locks(request))
    prefix, after = request.GET.get("q", ""), request.GET.get("after", "")
    found, following = inspection.lock_page(prefix, after, kind=kind, limit=PAGE, using=frame.using)
    query = {"q": prefix, **({"kind": kind} if page == "locks" and kind != KINDS[0] else {})}
    context = {
        "title": title,
        "prefix": prefix,
        "kind": kind,
        "kinds": [(each, frame.url("locks", kind=each)) for each in KINDS],
        "rows": [_row(frame, info) for info in found],
        "first": frame.url(page, **query) if after else "",
        "following": frame.url(page, **query, after=following) if following else "",
    }
    return frame.render(template, context)


def _row(frame: Frame, info: LockInfo) -> dict[str, Any]:
    breaking = frame.url("break", kind=info.kind, name=info.name, token=info.token) if info.held else ""
    return {"info": info, "label": label(info.name), "break": breaking}


def breaking(frame: Frame, request: HttpRequest) -> HttpResponse:
    """Asks first, then takes the lock from the holder that the user saw, and from no other."""
    rights.demand(rights.may(request, rights.BREAK))
    kind, name, token = _named(request)
    back = frame.url("elections" if kind == ELECTION else "locks", kind="" if kind in (KINDS[0], ELECTION) else kind)
    try:
        info = inspection.lock_info(name, kind=kind, using=frame.using)
    except InvalidName as error:
        raise Http404(str(error)) from error
    what = f"{kind} {label(name)}"
    if info is None or not info.held or info.token != token:
        messages.warning(request, f"{what} is not held under token {token} any more; nothing was done.")
        return HttpResponseRedirect(back)
    if request.method != "POST":
        return frame.render("break.html", {"title": f"Break {what}?", "info": info, "what": what, "back": back})
    with traced(request, what, f"Taken from {info.host} pid {info.pid} (token {token})") as trace:
        broken = inspection.break_lock(name, token=token, kind=kind, using=frame.using)
        if not broken:
            trace.forget()
    if broken:
        messages.success(request, f"{what} was taken from {info.host} pid {info.pid}.")
    else:
        messages.warning(request, f"{what} was released meanwhile; nothing was done.")
    return HttpResponseRedirect(back)


def _named(request: HttpRequest) -> tuple[str, str, int]:
    kind, name, token = (request.GET.get(key, "") for key in ("kind", "name", "token"))
    if kind not in (*KINDS, ELECTION) or not name or not token.isdecimal():
        raise Http404("which lock?")
    return kind, name, int(token)
