"""The subcommands of `manage.py dref`, a module each; imported when that command is run, not before.

A module has `HELP` (one line), `add_arguments(parser)` and `handle(options, out, err) -> exit code`. Bad input raises
`CommandError`, which names what is wrong and what to do.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any, Protocol, cast

from django.core.management.base import OutputWrapper

SUBCOMMANDS: dict[str, str] = {
    "list": "list",
    "get": "get",
    "set": "set",
    "add": "add",
    "watch": "watch",
    "locks": "locks",
    "break": "break_",
    "leader": "leader",
    "status": "status",
    "doctor": "doctor",
    "prune": "prune",
    "mirror": "mirror",
    "node": "node",
    "cluster": "cluster",
    "run": "run",
}
"""Name to the module in this package. In the order of the help text."""


class Subcommand(Protocol):
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def handle(self, options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int: ...


def load(name: str) -> Subcommand:
    return cast(Subcommand, importlib.import_module(f"{__name__}.{SUBCOMMANDS[name]}"))
