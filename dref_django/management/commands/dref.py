"""`manage.py dref SUBCOMMAND`: see `dref_django.commandline`."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from dref_django.commandline import SUBCOMMANDS, load


class Command(BaseCommand):
    help = "Looks at refs, locks, elections and the cluster, and changes them."

    def add_arguments(self, parser: CommandParser) -> None:
        subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        for name in SUBCOMMANDS:
            subcommand = load(name)
            subcommand.add_arguments(subparsers.add_parser(name, help=subcommand.HELP, description=subcommand.HELP))

    def handle(self, *args: Any, **options: Any) -> None:
        code = load(options["subcommand"]).handle(options, self.stdout, self.stderr)
        if code:
            sys.exit(code)
