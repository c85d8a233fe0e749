"""`manage.py dref list [PREFIX]`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django import catalog

from . import exits
from .arguments import add_json, add_using
from .printing import duration, ref_record, shown_value, write_json, write_table

HELP = "Lists the refs whose names begin with a prefix."
PAGE = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", help="what the names begin with (default: all)")
    parser.add_argument("--values", action="store_true", help="also read the values")
    parser.add_argument("--all", action="store_true", help="also dref_django's own records")
    parser.add_argument("--limit", type=int, help="stop after so many")
    add_using(parser)
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    for page in _pages(options):
        if options["json"]:
            for ref in page:
                write_json(out, ref_record(ref))
        else:
            heads = ["NAME", "CHANGED (UTC)", "SIZE", "TTL", *(["VALUE"] if options["values"] else [])]
            write_table(out, heads, [_row(ref, options["values"]) for ref in page])
    return exits.OK


def _row(ref: catalog.StoredRef, values: bool) -> list[Any]:
    row = [ref.label, ref.changed, ref.size, duration(ref.left)]
    return [*row, shown_value(ref)] if values else row


def _pages(options: dict[str, Any]) -> Iterator[list[catalog.StoredRef]]:
    """Page after page, so that any number of refs can be listed."""
    refs = islice(_refs(options), options["limit"])
    while page := list(islice(refs, PAGE)):
        yield page


def _refs(options: dict[str, Any]) -> Iterator[catalog.StoredRef]:
    after = ""
    limit = min(PAGE, options["limit"] or PAGE)
    while True:
        found, after = catalog.page(
            options["prefix"],
            after,
            limit,
            values=options["values"],
            reserved=options["all"],
            using=options["using"],
        )
        yield from found
        if not after:
            return
