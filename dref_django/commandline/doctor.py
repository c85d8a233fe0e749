"""`manage.py dref doctor`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import OutputWrapper
from django.core.management.color import color_style, no_style

from dref_django import conf

from . import exits
from .arguments import add_json
from .printing import write_json
from .probes import FAILED, examine

HELP = "Examines settings and servers, takes a lock, listens for a change, and says what is wrong; exit code 1 then."
WORDS = {checks.INFO: "note", checks.WARNING: "warning", checks.ERROR: "error"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    style = color_style() if out.isatty() and not options.get("no_color") else no_style()
    paint = {checks.INFO: style.NOTICE, checks.WARNING: style.WARNING, checks.ERROR: style.ERROR}
    sick = False
    for message in _findings():
        sick = sick or message.level >= checks.WARNING
        if options["json"]:
            record = {"id": message.id, "level": WORDS[message.level], "message": str(message.msg)}
            write_json(out, record | {"hint": message.hint})
            continue
        out.write(paint[message.level](f"{WORDS[message.level]} {message.id}: {message.msg}"))
        if message.hint:
            out.write(f"    {message.hint}")
    if not sick and not options["json"]:
        out.write(style.SUCCESS("Nothing is wrong."))
    return exits.NO if sick else exits.OK


def _findings() -> Iterator[checks.CheckMessage]:
    """Those of the settings first; servers are only tried where their settings can be read."""
    found = checks.run_checks(tags=["dref"], include_deployment_checks=True)
    yield from found
    unusable = [message for message in found if message.level >= checks.ERROR]
    if unusable:
        return
    try:
        for alias in conf.aliases():
            yield from examine(alias)
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), id=FAILED)
