"""`manage.py dref get NAME`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django import catalog
from dref_django.exceptions import InvalidValue

from . import exits
from .arguments import add_ref, ref_name
from .printing import ref_record, to_json_or_repr, write_json

HELP = "Prints the value of a ref; exit code 1 when it has none."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ref(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    ref = catalog.find(ref_name(options), using=options["using"])
    if ref is None:
        err.write(f"{options['name']!r} has no value.")
        return exits.NO
    if options["json"]:
        write_json(out, ref_record(ref))
        return exits.OK
    try:
        out.write(to_json_or_repr(ref.value()))
    except InvalidValue as error:
        err.write(str(error))
        return exits.NO
    return exits.OK
