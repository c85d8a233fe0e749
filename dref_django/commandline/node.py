"""`manage.py dref node`."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import Any

from django.core.management.base import OutputWrapper

from . import exits
from .arguments import add_using
from .raft import describe, raft_backend

HELP = (
    "Runs this machine's Raft node in a process of its own, until SIGTERM or Ctrl-C; leadership is handed over first."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_using(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    backend = raft_backend(options["using"])
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    attachment = backend.attach()
    told = ""
    while not stopping.wait(0.2):
        if (news := describe(attachment)) != told:
            told = news
            out.write(told)
            out.flush()
    backend.close()
    return exits.OK
