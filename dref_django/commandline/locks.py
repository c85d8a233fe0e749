"""`manage.py dref locks [PREFIX]`."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django import inspection
from dref_django.catalog import label

from . import exits
from .arguments import add_json, add_using
from .printing import duration, lock_record, write_json, write_table

HELP = "Lists the locks that are held or waited for: who holds them, since when, and how many wait."
HEADS = ("KIND", "NAME", "HOLDER", "SINCE (UTC)", "LEFT", "WAITERS", "TOKEN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", help="what the names begin with (default: all)")
    parser.add_argument("--kind", default="lock", help="lock, election, ref, semaphore, rwlock (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="of every kind")
    add_using(parser)
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    kind = "" if options["all"] else options["kind"]
    prefix = "" if options["all"] else options["prefix"]
    found = inspection.locks(prefix, kind=kind, using=options["using"])
    if options["all"] and options["prefix"]:
        found = (info for info in found if info.name.startswith(options["prefix"]))
    if options["json"]:
        for info in found:
            write_json(out, lock_record(info))
        return exits.OK
    while page := list(islice(found, inspection.PAGE)):
        write_table(out, HEADS, map(_row, page))
    return exits.OK


def _row(info: inspection.LockInfo) -> tuple[Any, ...]:
    holder = f"{info.host} pid {info.pid}" if info.held else "nobody"
    return (
        info.kind,
        label(info.name),
        holder,
        info.since if info.held else None,
        duration(info.left),
        info.waiters,
        info.token,
    )
