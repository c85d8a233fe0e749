"""The current value for a page that the server renders: at hand, or nearly so, or left out.

A page must not wait for a back end that is down. A value that this process watches already is read without a round
trip. Another one is waited for, shortly; and when that wait was in vain, for a while nobody waits at all.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
import weakref
from typing import Any, Final, cast

from django.utils.formats import number_format

from dref_django import backends
from dref_django.backends.base import Backend
from dref_django.exceptions import DRefError
from dref_django.hub import Hub, Near
from dref_django.refs import DRef
from dref_django.streams import get_hub

from .view import to_json, view_of

logger = logging.getLogger("dref_django")

PATIENCE: Final = 0.3
"""Seconds that one value is waited for."""
PAUSE: Final = 5.0
"""Seconds for which, after such a wait in vain, values that are not at hand are left out at once."""
EMPTY: Final = "\N{EN DASH}"

_absent: weakref.WeakKeyDictionary[Backend, float] = weakref.WeakKeyDictionary()


def current_view(ref: DRef[Any]) -> Any:
    """The JSON view of the ref's value as this process last heard of it, else of its default; None without one.

    Does no I/O itself, so that it may be called inside a running event loop too.
    """
    try:
        if getattr(ref, "is_loaded", False):  # a row's, read together with the rest of its page
            return view_of(cast("Any", ref).loaded)
        near = _near(ref)
        return view_of(ref._decode(ref.name, near.data if near is not None else None))
    except DRefError as error:
        logger.warning("dref: %r is left out of a page: %s", ref.name, error)
        return None


def _near(ref: DRef[Any]) -> Near | None:
    backend = backends.get_backend(ref.using)
    hub = get_hub(backend)
    near = _at_hand(hub, ref.name)
    if near is not None or time.monotonic() < _absent.get(backend, 0.0):
        return near
    known = hub.keep_near(ref.name)
    if asyncio._get_running_loop() is not None:
        return None  # a template rendered by an async view: it may not block, and the page soon hears the value
    try:
        known.result(PATIENCE)
    except concurrent.futures.TimeoutError:
        known.cancel()
        _absent[backend] = time.monotonic() + PAUSE
    return _at_hand(hub, ref.name)


def _at_hand(hub: Hub, name: str) -> Near | None:
    cell = hub.cells.get(name)
    near = None if cell is None else cell.near
    if near is not None and near.has_expired(hub.backend.clock.monotonic()):
        return near._replace(data=None)
    return near


def field_of(view: Any, path: str) -> Any:
    """The part of a view that a dotted path leads to; None when it leads nowhere."""
    for step in filter(None, path.split(".")):
        if isinstance(view, dict):
            view = view.get(step)
        elif isinstance(view, list) and step.isdecimal() and int(step) < len(view):
            view = view[int(step)]
        else:
            return None
    return view


def display(view: Any, *, format: str = "", on: str = "on", off: str = "off", empty: str = EMPTY) -> str:  # noqa: A002
    """A view as text, as `display` of dref.js writes it."""
    if view is None or view == "":
        return empty
    if isinstance(view, bool):
        return on if view else off
    if isinstance(view, float) and view.is_integer() and abs(view) < 1e21:
        view = int(view)
    if format == "number" and (number := _number(view)) is not None:
        return number_format(number, use_l10n=True, force_grouping=True)
    if isinstance(view, dict | list):
        return to_json(view)
    return str(view)


def _number(view: Any) -> int | float | None:
    if isinstance(view, int | float):
        return view
    return int(view) if isinstance(view, str) and view.removeprefix("-").isdecimal() else None
