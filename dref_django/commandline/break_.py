"""`manage.py dref break NAME`."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django import inspection
from dref_django.naming import grouped

from . import exits
from .arguments import add_json, add_using, user_name
from .printing import write_json

logger = logging.getLogger("dref_django")

HELP = "Takes a lock from its holder, who learns of it; the next one in the queue gets it. Exit code 1: nobody held it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the lock's name")
    parser.add_argument("--kind", default="lock", help="lock, election, ref, semaphore, rwlock (default: %(default)s)")
    parser.add_argument("--group", help="what the name belongs to, as `locks` shows it before the slash")
    parser.add_argument("--token", type=int, default=0, help="only from the holder with this token")
    add_using(parser)
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    name = grouped(options["name"], options["group"])
    broken = inspection.break_lock(name, token=options["token"], kind=options["kind"], using=options["using"])
    if broken:
        extra = {
            "dref_event": "lock_broken",
            "dref_kind": options["kind"],
            "dref_name": name,
            "dref_actor": user_name(),
        }
        logger.warning("dref: %s %r was broken by %s", options["kind"], options["name"], user_name(), extra=extra)
    if options["json"]:
        write_json(out, {"kind": options["kind"], "name": options["name"], "broken": broken})
    elif broken:
        out.write(f"{options['kind']} {options['name']!r} is taken from its holder.")
    else:
        held = f"not under token {options['token']}" if options["token"] else "by nobody"
        err.write(f"{options['kind']} {options['name']!r} is held {held}.")
    return exits.OK if broken else exits.NO
