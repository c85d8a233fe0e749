"""`manage.py dref status`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django import backends, health
from dref_django.exceptions import DRefError

from . import exits
from .arguments import add_json
from .printing import write_json

HELP = "Says of every back end whether it is READY or DOWN, and what its server tells; exit code 69 when one is down."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    found = health.check_all()
    for each in found:
        facts = _facts(each)
        if options["json"]:
            record = {"alias": each.alias, "backend": each.backend, "state": each.state, "reasons": each.reasons}
            write_json(out, record | {"latency": each.latency, "facts": facts})
            continue
        latency = "" if each.latency is None else f", a read takes {each.latency * 1000:.1f} ms"
        out.write(f"{each.alias} ({each.backend}): {each.state}{latency}")
        for reason in each.reasons:
            out.write(f"  {reason}")
        for name, value in facts.items():
            out.write(f"  {name}: {value}")
    return exits.UNAVAILABLE if health.worst(found) is health.State.DOWN else exits.OK


def _facts(each: health.Health) -> dict[str, Any]:
    if each.state is health.State.DOWN:
        return {}
    try:
        return backends.get_backend(each.alias).facts()
    except DRefError as error:
        return {"error": str(error)}
