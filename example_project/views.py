"""The dashboard and its three kinds of button.

Each button is a plain form: without JavaScript it posts and the page comes again. With it, dashboard.js posts in the
background, and the page hears of the change like every other page: through the ref.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from dref_django import DRefError

from . import refs
from .settings import BACKEND, PORTS

POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


def content_security_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Nothing inline, nothing from elsewhere: what dref.js needs is allowed by 'self'."""

    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            response = get_response(request)
        except DRefError as error:
            response = HttpResponse(f"{error}\n", status=503, content_type="text/plain; charset=utf-8")
        response["Content-Security-Policy"] = POLICY
        return response

    return middleware


@require_GET
def dashboard(request: HttpRequest) -> HttpResponse:
    refs.page_views.increment()
    context = {
        "backend": BACKEND,
        "port": request.get_port(),
        "host": request.get_host().rpartition(":")[0],
        "others": [port for port in PORTS if port != request.get_port()],
        "refs": refs,
        "moods": [(field.name, f"{field.name} weather") for field in dataclasses.fields(refs.Moods)],
        "votes": dataclasses.asdict(refs.moods.get()),
        "is_closed": refs.maintenance.get(),
        "activities": refs.activity.get(),
    }
    return render(request, "example_project/dashboard.html", context)


@require_POST
def click(request: HttpRequest) -> HttpResponse:
    refs.clicks.increment()
    return _done(request, "clicked")


@require_POST
def switch_maintenance(request: HttpRequest) -> HttpResponse:
    is_closed = refs.maintenance.toggle()
    return _done(request, "closed the shop" if is_closed else "opened the shop")


@require_POST
def vote(request: HttpRequest, mood: str) -> HttpResponse:
    def counted(moods: refs.Moods) -> refs.Moods:
        return dataclasses.replace(moods, **{mood: getattr(moods, mood) + 1})

    if mood not in {field.name for field in dataclasses.fields(refs.Moods)}:
        raise Http404
    refs.moods.update(counted)
    return _done(request, f"voted {mood}")


def _done(request: HttpRequest, what: str) -> HttpResponse:
    line = f"{timezone.now():%H:%M:%S} port {request.get_port()}: somebody {what}"

    def with_line(lines: list[str]) -> list[str]:
        return [line, *lines][: refs.ACTIVITIES]

    refs.activity.update(with_line)
    if request.headers.get("X-Requested-With") == "fetch":
        return HttpResponse(status=204)
    return redirect("dashboard")
