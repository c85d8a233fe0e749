"""`manage.py dref prune [APP | APP.MODEL ...]`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandError, OutputWrapper
from django.db import connections

from dref_django.fields import orphans

from . import exits
from .arguments import add_json, number
from .printing import write_json

HELP = "Finds refs of model fields whose row is gone (raw SQL, TRUNCATE, a crash), and with --delete removes them."
OLDER_THAN = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="APP[.MODEL]", help="which models (default: all with ref fields)")
    parser.add_argument("--delete", action="store_true", help="remove them; without it they are only listed")
    parser.add_argument("--dry-run", action="store_true", help="only list them, as without --delete")
    parser.add_argument(
        "--older-than",
        type=number(0, "older_than"),
        default=OLDER_THAN,
        metavar="SECONDS",
        help="leave refs alone that changed since, as their row may not be committed yet (default: %(default)g)",
    )
    parser.add_argument("--database", action="append", help="only rows of this alias of DATABASES; may be repeated")
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    if options["delete"] and options["dry_run"]:
        raise CommandError("--delete and --dry-run contradict each other")
    if unknown := set(options["database"] or ()) - set(connections):
        raise CommandError(f"--database {min(unknown)!r} is no alias of DATABASES")
    try:
        fields = orphans.fields_with_tables(options["models"])
    except LookupError as error:
        raise CommandError(f"{error} Name apps and models as shop, or shop.Article.") from error
    count = 0
    for field in fields:
        for databases in orphans.databases_of(field, options["database"]):
            for orphan in orphans.orphans(field, databases, options["older_than"]):
                deleted = options["delete"] and orphan.delete()
                count += 1
                _tell(out, orphan, databases, deleted, options["json"])
    if not options["json"]:
        out.write(f"{count} refs without a row" + ("" if options["delete"] or not count else "; --delete removes them"))
    return exits.OK


def _tell(out: OutputWrapper, orphan: orphans.Orphan, databases: list[str], deleted: bool, json: bool) -> None:
    label = f"{orphan.field.owner._meta.label}.{orphan.field.name}"
    if json:
        name = orphan.name.rpartition("\x1f")[2]
        group = orphan.name.rpartition("\x1f")[0] or None
        record = {"name": name, "group": group, "field": label, "pk": str(orphan.pk), "databases": databases}
        write_json(out, {**record, "deleted": deleted})
    else:
        out.write(f"{orphan.name.replace(chr(31), '/')}  ({label} of {orphan.pk})" + (" deleted" if deleted else ""))
