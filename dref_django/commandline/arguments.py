"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable
from typing import Any

from dref_django import conf
from dref_django.naming import grouped


def add_using(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--using", default=conf.DEFAULT_ALIAS, metavar="ALIAS", help="which of DREF_BACKENDS (default: %(default)s)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object a line")


def add_ref(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the ref's name")
    parser.add_argument("--group", help="the ref's group, if it has one")
    add_using(parser)
    add_json(parser)


def ref_name(options: dict[str, Any]) -> str:
    return grouped(options["name"], options["group"])


def number(least: float, what: str) -> Callable[[str], float]:
    """A `type=` for numbers that are not below `least`."""

    def parse(text: str) -> float:
        value = float(text)
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"{what} is a number from {least:g} on, not {text}")
        return value

    parse.__name__ = what
    return parse


def user_name() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return "a user without a name"
