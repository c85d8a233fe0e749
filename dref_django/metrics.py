"""Numbers for Prometheus, through prometheus-client (extra `metrics`). Off, and of no cost, unless turned on:

    DREF_METRICS = True                          # in the settings
    path("metrics/", dref_django.metrics.scrape) # or whatever else exposes prometheus_client.REGISTRY

Labels are few: the alias of the back end, the kind of operation, its outcome, the kind of lock; never a name. What
counts operations hears of them in one place, `Backend.execute`; what a gauge says is asked for at each scrape.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from . import backends, keeper, streams
from .backends import observing
from .backends.base import Backend
from .cells import FeedStatus
from .exceptions import OutcomeUnknown, Unavailable
from .live.counting import counts
from .protocol import Acquire, Break, Command, Release, Renew, Reply, Status

LATENCIES: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
WAITS: Final = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
MOST_OWNERS: Final = 10_000
"""Handles of locks whose time of waiting or holding is measured at once; beyond that the oldest is not."""


class _Batch(NamedTuple):
    backend: Backend
    commands: Sequence[Command]
    began: float


class Metrics:
    """All of ours in one registry. It is an `Observer` of operations, and a collector of the rest."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.operations = Counter(
            "dref_operations", "Commands by outcome.", ["alias", "command", "outcome"], registry=registry
        )
        self.latency = Histogram(
            "dref_operation_seconds",
            "Time of one exchange with the back end.",
            ["alias", "operation"],
            buckets=LATENCIES,
            registry=registry,
        )
        locks = ["alias", "kind"]
        self.waits = Histogram(
            "dref_lock_wait_seconds",
            "Time from asking for a lock to holding it.",
            locks,
            buckets=WAITS,
            registry=registry,
        )
        self.holds = Histogram(
            "dref_lock_hold_seconds",
            "Time that a lock was held, when given back.",
            locks,
            buckets=WAITS,
            registry=registry,
        )
        self.lost = Counter(
            "dref_locks_lost", "Locks of this process that ended without being given back.", locks, registry=registry
        )
        self.broken = Counter(
            "dref_locks_broken", "Locks that this process took from others.", locks, registry=registry
        )
        self._waiting: dict[str, float] = {}
        self._holding: dict[str, float] = {}
        registry.register(self)

    def close(self) -> None:
        """Takes all of it out of the registry."""
        own = (self.operations, self.latency, self.waits, self.holds, self.lost, self.broken, self)
        for collector in own:
            self.registry.unregister(collector)

    # --- operations ---------------------------------------------------------------------------------------------

    def began(self, backend: Backend, commands: Sequence[Command]) -> _Batch:
        return _Batch(backend, commands, time.monotonic())

    def ended(self, mark: _Batch, replies: Sequence[Reply] | None, error: BaseException | None) -> None:
        now, alias = time.monotonic(), mark.backend.params.alias
        self.latency.labels(alias, observing.operation(mark.commands)).observe(now - mark.began)
        outcomes = [_failure(error)] * len(mark.commands) if replies is None else [_outcome(reply) for reply in replies]
        for command, outcome in zip(mark.commands, outcomes, strict=True):
            self.operations.labels(alias, type(command).__name__.lower(), outcome).inc()
        for command, reply in zip(mark.commands, replies or (), strict=False):
            if isinstance(command, Acquire | Renew | Release | Break):
                self._lease(alias, command, reply, mark.began, now)

    def _lease(
        self, alias: str, command: Acquire | Renew | Release | Break, reply: Reply, began: float, now: float
    ) -> None:
        kind = command.name.partition(":")[0]
        if isinstance(command, Break):
            self.broken.labels(alias, kind).inc(int(reply.existed))
        elif isinstance(command, Acquire):
            self._acquire(alias, kind, command.owner, reply, began, now)
        elif isinstance(command, Renew):
            if reply.status is Status.LOST and self._holding.pop(command.owner, None) is not None:
                self.lost.labels(alias, kind).inc()
        else:
            self._waiting.pop(command.owner, None)
            since = self._holding.pop(command.owner, None)
            if since is not None and reply.existed:
                self.holds.labels(alias, kind).observe(now - since)
            elif since is not None:
                self.lost.labels(alias, kind).inc()

    def _acquire(self, alias: str, kind: str, owner: str, reply: Reply, began: float, now: float) -> None:
        if reply.status is not Status.APPLIED:
            _remember(self._waiting, owner, self._waiting.get(owner, began))
        elif owner not in self._holding:  # else it asked again
            self.waits.labels(alias, kind).observe(now - self._waiting.pop(owner, began))
            _remember(self._holding, owner, now)

    # --- what is asked for at each scrape -----------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("dref_listener_ready", "1: what is watched is up to date.", labels=["alias"])
        names = GaugeMetricFamily("dref_watched_names", "Names that this process keeps a copy of.", labels=["alias"])
        held = GaugeMetricFamily("dref_locks_held", "Leases that this process renews.", labels=["alias"])
        gaps = CounterMetricFamily("dref_gaps", "Changes that came after missed ones.", labels=["alias"])
        reconnects = CounterMetricFamily("dref_reconnects", "Times that the listener came back.", labels=["alias"])
        own: dict[str, GaugeMetricFamily] = {}
        for alias, backend in backends.in_use():
            hub = streams.get_hub(backend)
            if hub.listens:
                ready.add_metric([alias], float(hub.status is FeedStatus.READY))
            names.add_metric([alias], len(hub.cells))
            held.add_metric([alias], keeper.keeper_of(backend).count())
            gaps.add_metric([alias], hub.gaps)
            reconnects.add_metric([alias], hub.reconnects)
            for name, value in backend.gauges().items():
                family = own.setdefault(
                    name, GaugeMetricFamily(f"dref_{name}", "See docs/monitoring.md.", labels=["alias"])
                )
                family.add_metric([alias], value)
        yield from (ready, names, held, gaps, reconnects, *own.values())
        yield from _live([alias for alias, _ in backends.in_use()])
        yield _mirror()

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: registering must not touch a back end."""
        return iter(())


def _live(aliases: Sequence[str]) -> Iterator[Metric]:
    """The pages that this process serves."""
    gauges = {
        field: GaugeMetricFamily(f"dref_live_{field}", help_, labels=["alias"])
        for field, help_ in (
            ("sockets", "Pages that are connected, over websockets or Server-Sent Events."),
            ("subscriptions", "Names and prefixes that they watch, counted for each page."),
            ("rooms", "Rooms that they are in, counted for each page."),
            ("slow", "Pages that are behind, so that their changes conflate."),
        )
    }
    lag = GaugeMetricFamily("dref_live_lag_seconds", "Age of the last change when it was sent.", labels=["alias"])
    dropped = CounterMetricFamily("dref_live_dropped", "Pages that were disconnected.", labels=["alias", "reason"])
    for alias in aliases:
        now = counts(alias)
        for field, family in gauges.items():
            family.add_metric([alias], getattr(now, field))
        if now.lag is not None:
            lag.add_metric([alias], now.lag)
        for reason, count in now.dropped.items():
            dropped.add_metric([alias, reason], count)
    yield from (*gauges.values(), lag, dropped)


def _mirror() -> Metric:
    """Of the flushers of mirrored columns in this process."""
    lag = GaugeMetricFamily("dref_mirror_lag_seconds", "Age of the oldest change to flush.", labels=["alias"])
    flusher = sys.modules.get("dref_django.fields.flusher")  # only where one runs is it loaded
    if flusher is not None:
        for alias, seconds in flusher.Flusher.lags().items():
            lag.add_metric([alias], seconds)
    return lag


def _remember(times: dict[str, float], owner: str, moment: float) -> None:
    times[owner] = moment
    if len(times) > MOST_OWNERS:
        times.pop(next(iter(times)), None)


def _outcome(reply: Reply) -> str:
    return reply.status.name.lower()


def _failure(error: BaseException | None) -> str:
    if isinstance(error, Unavailable):
        return "unavailable"
    return "outcome_unknown" if isinstance(error, OutcomeUnknown) else "error"


_enabled: Metrics | None = None


def enable(registry: CollectorRegistry = REGISTRY) -> Metrics:
    """Counts from now on. Called by the setting `DREF_METRICS`; a second call changes nothing."""
    global _enabled
    if _enabled is None:
        _enabled = Metrics(registry)
        observing.add(_enabled)
    return _enabled


def disable() -> None:
    """Counts no more, and forgets what was counted."""
    global _enabled
    if _enabled is not None:
        observing.remove(_enabled)
        _enabled.close()
        _enabled = None


def scrape(request: HttpRequest) -> HttpResponse:
    """A view for Prometheus. It asks nobody who they are: route it where only the scraper comes."""
    registry = REGISTRY if _enabled is None else _enabled.registry
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
