"""`manage.py dref leader NAME`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import OutputWrapper

from dref_django.elections import Election

from . import exits
from .arguments import add_json, add_using
from .printing import duration, write_json

HELP = "Says who leads an election; exit code 1 when nobody does."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the election's name")
    add_using(parser)
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    leader = Election(options["name"], using=options["using"]).leader()
    if options["json"]:
        write_json(out, {"name": options["name"], "leader": None if leader is None else _record(leader)})
    elif leader is None:
        err.write(f"Nobody leads {options['name']!r}.")
    else:
        out.write(
            f"{leader.identity} (host {leader.host}, pid {leader.pid}) since {leader.since:%Y-%m-%d %H:%M:%S} UTC, "
            f"token {leader.token}, lease runs out in {duration(leader.left)} unless renewed"
        )
    return exits.NO if leader is None else exits.OK


def _record(leader: Any) -> dict[str, Any]:
    fields = ("identity", "metadata", "token", "since", "host", "pid", "left")
    return {field: getattr(leader, field) for field in fields}
