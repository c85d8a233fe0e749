"""`manage.py dref run --lock NAME -- COMMAND` and `--leader NAME -- COMMAND`: one running copy in the whole cluster."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from dref_django import backends
from dref_django.elections import Election
from dref_django.exceptions import LockLost
from dref_django.held import Held
from dref_django.locks import DEFAULT_TTL, Lock

from . import exits
from .arguments import add_using, number
from .supervision import MOST_GRACE, Ended, Supervised

HELP = "Runs a command while a lock is held, or as long as it leads: one running copy in the whole cluster."
GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL, where the lease is long enough for that."""
SHORTEST: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lock", metavar="NAME", help="hold this lock meanwhile; end with 75 when it is not free")
    what.add_argument("--leader", metavar="NAME", help="wait to be elected; after a lost lease wait again")
    parser.add_argument(
        "--ttl",
        type=number(SHORTEST, "seconds"),
        default=DEFAULT_TTL,
        help="the lease in seconds (default: %(default)g): so long the others wait when this host dies",
    )
    parser.add_argument(
        "--timeout", type=number(0, "seconds"), help="seconds to wait (default: 0 for --lock, for ever for --leader)"
    )
    parser.add_argument(
        "--grace",
        type=number(0, "seconds"),
        help=f"seconds between SIGTERM and SIGKILL (default: {GRACE:g}, and at most {MOST_GRACE:g} of the lease)",
    )
    parser.add_argument("--at-least", type=number(0, "seconds"), default=0.0, help="keep the lock for so many seconds")
    add_using(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    command = options["command"][1:] if options["command"][:1] == ["--"] else options["command"]
    if not command:
        raise CommandError("There is no command: manage.py dref run --lock NAME -- COMMAND", returncode=exits.USAGE)
    grace = _grace(options)
    with _outliving_leases(options["using"]), _ended_by_signals():
        if options["lock"] is not None:
            timeout = 0.0 if options["timeout"] is None else options["timeout"]
            lock = Lock(options["lock"], ttl=options["ttl"], at_least=options["at_least"], using=options["using"])
            ended = _run(lock, timeout, command, grace, err)
        else:
            metadata = {"command": Path(command[0]).name}
            election = Election(options["leader"], ttl=options["ttl"], metadata=metadata, using=options["using"])
            ended = _lead(election, options["timeout"], command, grace, err)
    return _code(ended, command[0], err)


def _grace(options: dict[str, Any]) -> float:
    most = MOST_GRACE * options["ttl"]
    grace: float | None = options["grace"]
    if grace is not None and grace > most:
        raise CommandError(
            f"--grace {grace:g} leaves no room in a lease of {options['ttl']:g} s: at most {most:g}, or raise --ttl.",
            returncode=exits.USAGE,
        )
    return min(GRACE, most) if grace is None else grace


def _run(lock: Lock, timeout: float | None, command: list[str], grace: float, err: OutputWrapper) -> Ended:
    held = lock.acquire(timeout)
    try:
        ended = Supervised(held, command, grace).run()
    finally:
        lost = _released(lock, held)
    if lost is not None:
        err.write(f"{lost}")
    return ended


def _lead(election: Election, timeout: float | None, command: list[str], grace: float, err: OutputWrapper) -> Ended:
    while True:
        ended = _run(election.lead(timeout), timeout, command, grace, err)
        if not ended.lost or ended.asked:
            return ended
        err.write(f"{command[0]} was ended; waiting to lead {election.name!r} again.")


def _released(lock: Lock, held: Held) -> LockLost | None:
    try:
        lock.release(held)
    except LockLost as lost:
        return lost
    return None


@contextlib.contextmanager
def _outliving_leases(alias: str) -> Iterator[None]:
    """When this process is killed, the command lives for a moment longer, and its lease must do so, too."""
    backend = backends.get_backend(alias)
    options = backend.outliving()
    if not options:
        yield
        return
    params = replace(backend.params, options={**backend.params.options, **options})
    own = type(backend)(params)
    backends.install(alias, own)
    try:
        yield
    finally:
        backends.install(alias, backend)
        own.close()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While there is no command yet that gets them, signals end the wait in the orderly way."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number_, handler in before.items():
            signal.signal(number_, handler)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _code(ended: Ended, command: str, err: OutputWrapper) -> int:
    if ended.error:
        err.write(f"{command}: {os.strerror(ended.error)}")
        return exits.NOT_FOUND if ended.error == errno.ENOENT else exits.NOT_EXECUTABLE
    if ended.lost:
        err.write(f"{command} was ended, as its lease could not be proven any more.")
        return exits.LOST
    return ended.code
