"""`manage.py dref SUBCOMMAND`: see `dref_django.commandline`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from dref_django.commandline import SUBCOMMANDS, exits, load
from dref_django.exceptions import (
    CounterOverflow,
    DRefError,
    InvalidName,
    InvalidValue,
    LockTimeout,
    OutcomeUnknown,
    ValueTooLarge,
    WrongKind,
)

_USERS_MISTAKES = (CounterOverflow, InvalidName, InvalidValue, ValueTooLarge, WrongKind)


class Command(BaseCommand):
    help = "Looks at refs, locks, elections and the cluster, and changes them."

    def add_arguments(self, parser: CommandParser) -> None:
        subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        for name in SUBCOMMANDS:
            subcommand = load(name)
            own = subparsers.add_parser(name, help=subcommand.HELP, description=subcommand.HELP)
            subcommand.add_arguments(own)
            _add_django_options(own)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            code = load(options["subcommand"]).handle(options, self.stdout, self.stderr)
        except DRefError as error:
            raise CommandError(str(error), returncode=_exit_code(error)) from error
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=exits.USAGE) from error
        if code:
            sys.exit(code)


def _add_django_options(parser: argparse.ArgumentParser) -> None:
    """What Django reads before the subcommand's parser sees it may stand behind the subcommand, too."""
    group = parser.add_argument_group("as in every command of manage.py")
    for option in ("--settings", "--pythonpath"):
        group.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for option in ("--traceback", "--no-color", "--force-color"):
        group.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _exit_code(error: DRefError) -> int:
    if isinstance(error, _USERS_MISTAKES):
        return exits.USAGE
    if isinstance(error, OutcomeUnknown):
        return exits.OUTCOME_UNKNOWN
    return exits.BUSY if isinstance(error, LockTimeout) else exits.UNAVAILABLE
