"""`manage.py dref mirror`."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from dref_django.fields.flusher import LAG, Flusher, Source, mirrored_fields
from dref_django.fields.reports import Status, statuses
from dref_django.waiting import Waker

from . import exits
from .arguments import add_json, number
from .printing import duration, write_json, write_table

HELP = "Keeps the columns of mirrored model fields up to date, until it is ended; several may run, one of them works."
HEADS = ("FIELD", "BACK END", "FLUSHER", "LAG", "WAITING", "FLUSHED", "LAST (UTC)")
LOOK = 0.5
"""Seconds between two looks at whether a signal has come."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    do = parser.add_mutually_exclusive_group()
    do.add_argument("--once", action="store_true", help="compare all rows with their refs, write what differs, end")
    do.add_argument("--status", action="store_true", help="who flushes, and how far behind; exit code 1: nobody does")
    parser.add_argument(
        "--count", action="store_true", help="with --status: read all rows, too, and count those that are behind"
    )
    parser.add_argument(
        "--lag",
        type=number(0.1, "lag"),
        default=LAG,
        metavar="SECONDS",
        help="within which a column follows its ref (default: %(default)g)",
    )
    parser.add_argument("--using", action="append", help="only refs on this one of DREF_BACKENDS; may be repeated")
    parser.add_argument("--database", action="append", help="only rows of this alias of DATABASES; may be repeated")
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    known = sorted({field.ref_using for field in mirrored_fields()})
    if unknown := set(options["using"] or ()) - set(known):
        raise CommandError(f"--using {min(unknown)!r}: no mirrored field has its refs there, but on {known}")
    flushers = [
        Flusher(using, lag=options["lag"], databases=options["database"]) for using in options["using"] or known
    ]
    if options["status"]:
        return _tell(flushers, options, out)
    if options["count"] or options["json"]:
        raise CommandError("--count and --json go with --status")
    if options["once"]:
        for flusher in flushers:
            flusher.compare()
    else:
        _run(flushers)
    out.write(f"{sum(flusher.flushed for flusher in flushers)} values flushed")
    return exits.OK


def _run(flushers: list[Flusher]) -> None:
    stop = Waker()
    threads = [threading.Thread(target=flusher.run, args=(stop,), name="dref-mirror") for flusher in flushers]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for thread in threads:
            thread.start()
        while not stop.is_set() and any(thread.is_alive() for thread in threads):
            stop.wait(LOOK)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for number_, handler in before.items():
            signal.signal(number_, handler)


# --- the status -----------------------------------------------------------------------------------------------------


def _tell(flushers: list[Flusher], options: dict[str, Any], out: OutputWrapper) -> int:
    told: list[tuple[Flusher, Source, Status]] = []
    for flusher in flushers:
        sources = flusher.sources()
        found = statuses(flusher.using, [source.key for source in sources])
        told += [(flusher, source, found[source.key]) for source in sources]
    behind = [flusher.count_behind(source) if options["count"] else None for flusher, source, _ in told]
    if options["json"]:
        for (flusher, source, status), count in zip(told, behind, strict=True):
            write_json(out, _record(flusher.using, source, status, count))
    elif told:
        heads = (*HEADS, "ROWS BEHIND") if options["count"] else HEADS
        write_table(out, heads, [_row(*each, count) for each, count in zip(told, behind, strict=True)])
        troubles = {flusher.using: status.trouble for flusher, _, status in told if status.trouble}
        for using, trouble in troubles.items():
            out.write(f"The flusher of {using} cannot flush: {trouble}")
    else:
        out.write("No field is mirrored.")
    return exits.NO if any(status.holder is None for *_, status in told) else exits.OK


def _row(flusher: Flusher, source: Source, status: Status, behind: int | None) -> tuple[Any, ...]:
    holder = "nobody" if status.holder is None else f"{status.holder.host} pid {status.holder.pid}"
    counts = (status.waiting, status.flushed, status.last_flush)
    return (source.label, flusher.using, holder, duration(status.lag), *counts, *([] if behind is None else [behind]))


def _record(using: str, source: Source, status: Status, behind: int | None) -> dict[str, Any]:
    holder = status.holder
    shown = None if holder is None else {name: getattr(holder, name) for name in ("host", "pid", "since", "left")}
    fields = ("lag", "waiting", "flushed", "last_flush", "reported", "trouble")
    record = {"field": source.label, "using": using, "databases": source.databases, "holder": shown}
    return {**record, **{name: getattr(status, name) for name in fields}, "behind": behind}
