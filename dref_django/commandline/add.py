"""`manage.py dref add NAME AMOUNT`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django.binding import known_ref
from dref_django.counters import Counter

from . import exits
from .arguments import add_ref, ref_name
from .printing import write_json

HELP = "Adds to a counter, atomically, and prints the sum; a negative amount subtracts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ref(parser)
    parser.add_argument("amount", type=int, nargs="?", default=1, help="default: %(default)s")


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    known = known_ref(ref_name(options), options["using"])
    counter = (
        known
        if isinstance(known, Counter)
        else Counter(options["name"], using=options["using"], group=options["group"])
    )
    total = counter.increment(options["amount"])
    if options["json"]:
        write_json(out, {"name": options["name"], "group": options["group"], "value": total})
    else:
        out.write(str(total))
    return exits.OK
