"""A span for every exchange with a back end, through OpenTelemetry (extra `otel`). Off, and of no cost, unless

    DREF_TRACING = True

Spans are named `dref read`, `dref write`, `dref acquire` ... and are children of whatever span is current. Attributes:
`dref.alias`, `dref.operation`, `dref.names` (the first few), `dref.commands` (how many), `dref.outcome`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from .backends import observing
from .backends.base import Backend
from .protocol import Command, Reply

MOST_NAMES: Final = 5


class Tracing:
    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("dref_django", tracer_provider=provider)

    def began(self, backend: Backend, commands: Sequence[Command]) -> Span:
        operation = observing.operation(commands)
        span = self._tracer.start_span(f"dref {operation}", kind=SpanKind.CLIENT)
        if span.is_recording():
            names = [name for command in commands[:MOST_NAMES] if (name := getattr(command, "name", ""))]
            span.set_attributes(
                {
                    "dref.alias": backend.params.alias,
                    "dref.operation": operation,
                    "dref.names": names,
                    "dref.commands": len(commands),
                }
            )
        return span

    def ended(self, mark: Span, replies: Sequence[Reply] | None, error: BaseException | None) -> None:
        if error is not None:
            mark.record_exception(error)
            mark.set_status(Status(StatusCode.ERROR, type(error).__name__))
        elif replies:
            mark.set_attribute("dref.outcome", sorted({reply.status.name.lower() for reply in replies}))
        mark.end()


_enabled: Tracing | None = None


def enable(provider: TracerProvider | None = None) -> None:
    """Traces from now on, to `provider` or the global one. Called by the setting `DREF_TRACING`."""
    global _enabled
    if _enabled is None:
        _enabled = Tracing(provider)
        observing.add(_enabled)


def disable() -> None:
    global _enabled
    if _enabled is not None:
        observing.remove(_enabled)
        _enabled = None
