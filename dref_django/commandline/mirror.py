"""`manage.py dref mirror`."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from dref_django.fields.flusher import LAG, Flusher, mirrored_fields
from dref_django.waiting import Waker

from . import exits
from .arguments import number

HELP = "Keeps the columns of mirrored model fields up to date, until it is ended; several may run, one of them works."
LOOK = 0.5
"""Seconds between two looks at whether a signal has come."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="compare all rows with their refs, write what differs, end")
    parser.add_argument(
        "--lag",
        type=number(0.1, "lag"),
        default=LAG,
        metavar="SECONDS",
        help="within which a column follows its ref (default: %(default)g)",
    )
    parser.add_argument("--using", action="append", help="only refs on this one of DREF_BACKENDS; may be repeated")
    parser.add_argument("--database", action="append", help="only rows of this alias of DATABASES; may be repeated")


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    known = sorted({field.ref_using for field in mirrored_fields()})
    if unknown := set(options["using"] or ()) - set(known):
        raise CommandError(f"--using {min(unknown)!r}: no mirrored field has its refs there, but on {known}")
    flushers = [
        Flusher(using, lag=options["lag"], databases=options["database"]) for using in options["using"] or known
    ]
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
