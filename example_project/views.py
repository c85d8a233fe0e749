"""The dashboard and its buttons.

Each button is a plain form: without JavaScript it posts and the page comes again. With it, dashboard.js posts in the
background, or changes the ref over the page's own connection, and the page hears of the change like every other page:
through the ref.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from dref_django import DRefError

from . import refs
from .rooms import VISITOR, room
from .settings import BACKEND, NAME, PORTS
from .work import write_report

logger = logging.getLogger(__name__)

POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
ADJECTIVES = ("Amber", "Brave", "Calm", "Early", "Gentle", "Keen", "Lucky", "Merry", "Quiet", "Swift")
ANIMALS = ("Badger", "Crane", "Finch", "Hare", "Heron", "Lynx", "Otter", "Robin", "Seal", "Wren")


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
    port = request.get_port()
    context = {
        "backend": BACKEND,
        "port": port,
        "host": request.get_host().rpartition(":")[0],
        "others": [other for other in PORTS if other != port],
        "refs": refs,
        "moods": [(field.name, f"{field.name} weather") for field in dataclasses.fields(refs.Moods)],
        "is_closed": refs.maintenance.get(),
        "report": refs.report.get(),
        "here": room.list(),
        "truth": refs.truth.get(),
        "activities": refs.activity.get(),
        "messages": refs.chat.get(),
        "message_size": refs.MESSAGE_SIZE,
        "nodes": [(name, refs.node_of(name).get()) for name in PORTS or [NAME]],
        "visitor": visitor_of(request),
    }
    return render(request, "example_project/dashboard.html", context)


@require_POST
def click(request: HttpRequest) -> HttpResponse:
    refs.clicks.increment()
    return _answer(request)


@require_POST
def switch_maintenance(request: HttpRequest) -> HttpResponse:
    refs.maintenance.toggle()
    return _answer(request)


@require_POST
def vote(request: HttpRequest, mood: str) -> HttpResponse:
    def counted(moods: refs.Moods) -> refs.Moods:
        return dataclasses.replace(moods, **{mood: getattr(moods, mood) + 1})

    if mood not in {field.name for field in dataclasses.fields(refs.Moods)}:
        raise Http404
    refs.moods.update(counted)
    return _done(request, f"voted {mood}")


@require_POST
def say(request: HttpRequest) -> HttpResponse:
    text = " ".join(request.POST.get("text", "").split())[: refs.MESSAGE_SIZE]
    if not text:
        return _answer(request)
    message = refs.Message(visitor_of(request), text, f"{timezone.now():%H:%M}")

    def with_message(messages: list[refs.Message]) -> list[refs.Message]:
        return [*messages, message][-refs.MESSAGES :]

    refs.chat.update(with_message)
    return _answer(request)


@require_POST
def start_report(request: HttpRequest) -> HttpResponse:
    """The job outlives the request. Whether it starts is decided by its lock, not here."""

    def run() -> None:
        try:
            if not write_report(request.get_port()):
                _note(request, "wanted a report that is being written")
        except DRefError as error:
            logger.warning("demo: the report was given up: %s", error)

    threading.Thread(target=run, name="demo-report", daemon=True).start()
    return _done(request, "asked for a report")


@require_POST
def make_room(request: HttpRequest) -> HttpResponse:
    refs.step_down.set(refs.pulse.get().token)
    return _done(request, "asked the leader to make room")


def visitor_of(request: HttpRequest) -> str:
    """The name that a visitor is given, for as long as the session lasts."""
    if VISITOR not in request.session:
        number = refs.visitors.increment()
        animal = ANIMALS[(number + number // len(ADJECTIVES)) % len(ANIMALS)]  # a hundred names before one comes again
        request.session[VISITOR] = f"{ADJECTIVES[number % len(ADJECTIVES)]} {animal}"
    return str(request.session[VISITOR])


def _done(request: HttpRequest, what: str) -> HttpResponse:
    _note(request, what)
    return _answer(request)


def _note(request: HttpRequest, what: str) -> None:
    line = f"{timezone.now():%H:%M:%S} {visitor_of(request)} on port {request.get_port()} {what}"

    def with_line(lines: list[str]) -> list[str]:
        return [line, *lines][: refs.ACTIVITIES]

    refs.activity.update(with_line)


def _answer(request: HttpRequest) -> HttpResponse:
    if request.headers.get("X-Requested-With") == "fetch":
        return HttpResponse(status=204)
    return redirect("dashboard")
