"""`manage.py dref watch PATTERN`."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from django.core.management.base import OutputWrapper
from django.core.management.color import Style, color_style, no_style

from dref_django.catalog import label
from dref_django.exceptions import DRefError
from dref_django.refs import watch
from dref_django.streams import Change

from . import exits
from .arguments import add_json, add_using, number
from .printing import json_value, to_json_or_repr, write_json

HELP = "Prints the refs that match, then each change, until Ctrl-C."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", help='a name, or a prefix with a star: "shop.*"')
    parser.add_argument("--count", type=int, help="end after so many lines")
    parser.add_argument(
        "--timeout", type=number(0, "seconds"), help="end after so many seconds without a change (default: never)"
    )
    add_using(parser)
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    style = _style(options, out)
    with watch(options["pattern"], using=options["using"], every=True, timeout=options["timeout"]) as stream:
        try:
            for count, change in enumerate(stream, 1):
                if options["json"]:
                    write_json(out, _record(change))
                else:
                    out.write(_line(change, style))
                out.flush()
                if count == options["count"]:
                    break
        except KeyboardInterrupt:
            return exits.OK
    return exits.OK


def _style(options: dict[str, Any], out: OutputWrapper) -> Style:
    if options.get("no_color") or not (out.isatty() or options.get("force_color")):
        return no_style()
    return color_style(force_color=bool(options.get("force_color")))


def _line(change: Change[Any], style: Style) -> str:
    gap = style.WARNING(" (changes before this one were missed)") if change.gap else ""
    name = style.MIGRATE_LABEL(label(change.name))
    return f"{datetime.now().astimezone():%H:%M:%S} {name} {_value(change, style)}{gap}"


def _value(change: Change[Any], style: Style) -> str:
    if change.deleted:
        return style.ERROR("deleted")
    try:
        return style.SUCCESS(to_json_or_repr(change.value))
    except DRefError as error:
        return style.ERROR(f"<{error}>")


def _record(change: Change[Any]) -> dict[str, Any]:
    group, _, name = change.name.rpartition("\x1f")
    record: dict[str, Any] = {"name": name, "group": group or None, "version": change.version}
    record |= {"deleted": change.deleted, "gap": change.gap}
    if not change.deleted:
        try:
            record["value"] = json_value(change.value)
        except DRefError as error:
            record["error"] = str(error)
    return record
