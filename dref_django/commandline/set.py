"""`manage.py dref set NAME VALUE`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from dref_django import catalog
from dref_django.exceptions import InvalidValue, ValueTooLarge
from dref_django.history import acting
from dref_django.protocol import ABSENT

from . import exits
from .arguments import add_ref, number, ref_name, user_name
from .printing import ref_record, shown_value, write_json

HELP = "Sets the value of a ref, from any version or from one only."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ref(parser)
    parser.add_argument("value", help='JSON: 5, true, "text", {"a": 1}')
    parser.add_argument("--text", action="store_true", help="the value is text as it stands, without quotes")
    parser.add_argument("--ttl", type=number(0.001, "seconds"), help="seconds until it is deleted (default: never)")
    condition = parser.add_mutually_exclusive_group()
    condition.add_argument("--if-version", type=int, metavar="N", help="only if the stored version is N")
    condition.add_argument("--if-absent", action="store_true", help="only if there is no value")


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    name, using = ref_name(options), options["using"]
    text = json.dumps(options["value"]) if options["text"] else options["value"]
    try:
        data = catalog.encoded(name, text, using=using)
    except (InvalidValue, ValueTooLarge) as error:
        raise CommandError(str(error), returncode=exits.USAGE) from error
    expect = ABSENT if options["if_absent"] else options["if_version"]
    with acting(f"{user_name()} (shell)"):
        other = catalog.put(name, data, expect=expect, ttl=options["ttl"], using=using)
    if other is None:
        return exits.OK
    if options["json"]:
        write_json(out, ref_record(other))
    what = "it has no value" if other.data is None else f"version {other.version} is stored: {shown_value(other)}"
    err.write(f"{options['name']!r} was not changed: {what}")
    return exits.NO
