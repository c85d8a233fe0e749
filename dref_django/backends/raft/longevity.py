"""Whether this process is one that should host a node: a server or a worker, or a command that is soon gone."""

from __future__ import annotations

import os
import sys
from typing import Final

LONG_LIVED_COMMANDS: Final = frozenset(
    ("runserver", "runserver_plus", "rundaphne", "rungunicorn", "runworker", "qcluster", "rqworker", "dref node")
)
"""Management commands that run until they are stopped."""


def is_short_lived() -> bool:
    """True for management commands, but for those that serve, and for interactive interpreters."""
    if hasattr(sys, "ps1") or sys.flags.interactive:
        return True
    program = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 -- of a text, not of a file
    arguments = sys.argv[1:]
    if program == "__main__.py" and "django" in os.path.dirname(sys.argv[0]):  # noqa: PTH120
        program = "django-admin"
    if program not in {"manage.py", "django-admin", "django-admin.py"}:
        return False
    return not {" ".join(arguments[:1]), " ".join(arguments[:2])} & LONG_LIVED_COMMANDS
