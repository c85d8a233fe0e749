"""Is it usable, and if not, why: for load balancers, pages and `manage.py dref status`.

- READY: the back end answers, and what this process watches is up to date;
- STALE: it answers, but this process's listener is away or catching up: `peek` and pages may show old values;
- DOWN: it does not answer: reads and changes raise `Unavailable`, locks cannot be taken.

    urlpatterns = [path("health/dref/", HealthView.as_view())]
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse
from django.views import View

from . import backends, conf
from .cells import FeedStatus
from .exceptions import DRefError
from .naming import grouped
from .protocol import Read
from .streams import get_hub

TIMEOUT: Final = 2.0
"""Seconds that the back end gets to answer."""
PROBE: Final = grouped("probe", "dref.health")
"""Is read, and never written."""


class State(StrEnum):
    READY = "READY"
    STALE = "STALE"
    DOWN = "DOWN"


_WORST_FIRST: Final = (State.DOWN, State.STALE, State.READY)


@dataclass(frozen=True, slots=True)
class Health:
    """Of one back end, as this process sees it. `latency`: seconds of one read; None when it failed."""

    alias: str
    backend: str
    state: State
    reasons: tuple[str, ...]
    latency: float | None


def check(alias: str = conf.DEFAULT_ALIAS, *, timeout: float = TIMEOUT) -> Health:
    """Reads once from the back end, and asks the listener. Never raises for a server that is away."""
    try:
        backend = backends.get_backend(alias)
    except ImproperlyConfigured as error:
        return Health(alias, "", State.DOWN, (str(error),), None)
    kind = type(backend).__name__.removesuffix("Backend").lower()
    started = time.monotonic()
    try:
        backend.execute([Read(PROBE)], timeout=min(timeout, backend.params.timeout))
    except DRefError as error:
        return Health(alias, kind, State.DOWN, (str(error),), None)
    latency = time.monotonic() - started
    hub = get_hub(backend)
    if not hub.listens or hub.status is FeedStatus.READY:
        return Health(alias, kind, State.READY, (), latency)
    reason = f"the listener is away: {hub.trouble}" if hub.trouble else "watched values are being compared"
    return Health(alias, kind, State.STALE, (reason,), latency)


def check_all(*, timeout: float = TIMEOUT) -> list[Health]:
    """Of every back end in the settings, one after the other."""
    try:
        return [check(alias, timeout=timeout) for alias in conf.aliases()]
    except ImproperlyConfigured as error:
        return [Health(conf.DEFAULT_ALIAS, "", State.DOWN, (str(error),), None)]


def worst(found: list[Health]) -> State:
    return min((health.state for health in found), key=_WORST_FIRST.index, default=State.READY)


class HealthView(View):
    """GET answers {"state": ..., "backends": {alias: state}}; 503 when a back end is DOWN, else 200.

    Reasons may name hosts, so only users with `dref_django.view_ref` see them, or everybody with `details=True`.
    `stale_status`: the status code for STALE (200: old values are better than none). `timeout`: seconds a back end.
    """

    details = False
    stale_status = HTTPStatus.OK
    timeout = TIMEOUT
    http_method_names = ["get", "head", "options"]

    def get(self, request: HttpRequest) -> JsonResponse:
        found = check_all(timeout=self.timeout)
        state = worst(found)
        codes = {State.READY: HTTPStatus.OK, State.STALE: self.stale_status, State.DOWN: HTTPStatus.SERVICE_UNAVAILABLE}
        shown = _detailed if self.details or _may_see(request) else _bare
        body = {"state": state, "backends": {health.alias: shown(health) for health in found}}
        response = JsonResponse(body, status=codes[state])
        response["Cache-Control"] = "no-store"
        return response


def _bare(health: Health) -> Any:
    return health.state


def _detailed(health: Health) -> Any:
    latency = None if health.latency is None else round(health.latency, 6)
    return {"state": health.state, "backend": health.backend, "reasons": health.reasons, "latency": latency}


def _may_see(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.has_perm("dref_django.view_ref")
