"""Runs a command as long as a lease is held, through the watchdog."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

from dref_django.held import Held

from .watchdog import FORWARDED

WATCHDOG: Final = Path(__file__).with_name("watchdog.py")
MARGIN: Final = 0.05
"""The part of a lease that lies between SIGKILL and the moment from which this process would not trust the lease."""
MOST_GRACE: Final = 0.3
"""The part of a lease that may lie between SIGTERM and SIGKILL: more, and a renewal that is a little late kills."""
LOOKS: Final = 20
"""Times in one lease that its deadline is looked at, and passed on when it has moved."""
ASK_TO_END: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
FAREWELL: Final = 5.0
"""Seconds that a watchdog gets to end after its command."""


class Ended(NamedTuple):
    """How the command came to its end. `lost`: it was ended since its lease could not be proven any more."""

    code: int
    lost: bool
    error: int = 0
    """The errno for which it could not be started."""
    asked: bool = False
    """Somebody sent this process a signal that asks it to end."""


class Supervised:
    """One run of the command under one lease. `grace`: seconds between SIGTERM and SIGKILL."""

    def __init__(self, held: Held, command: Sequence[str], grace: float) -> None:
        self._held = held
        self._command = list(command)
        self._grace = grace
        self._child = 0
        self._told = 0.0
        self._ended: Ended | None = None
        self._pipe: IO[bytes] | None = None
        self._signals: list[int] = []

    def run(self) -> Ended:
        """Returns when the command, and all that it left in its process group, has ended. Passes signals on."""
        status, theirs = os.pipe()
        with self._signals_passed_on():
            try:
                try:
                    self._watchdog, self._pipe = self._spawn(theirs)
                finally:
                    os.close(theirs)
                for number in tuple(self._signals):  # that came too early
                    self._say(f"signal {int(number)}")
                self._watch(status)
            finally:
                os.close(status)
                self._reap()
        ended = self._ended or Ended(128 + signal.SIGKILL, lost=True)
        return ended._replace(asked=not ASK_TO_END.isdisjoint(self._signals))

    def _spawn(self, status: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        self._held.check()
        self._told = self._deadline()
        stdin = _own_stdin()
        try:
            arguments = [str(status), str(stdin), str(self._grace), repr(self._told), *self._command]
            watchdog = subprocess.Popen(  # noqa: S603 (what it is for)
                [sys.executable, "-I", "-S", str(WATCHDOG), *arguments],
                stdin=subprocess.PIPE,
                pass_fds=(status, stdin),
                env={**os.environ, "DREF_TOKEN": str(self._held.token)},
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(stdin)
        pipe = cast("IO[bytes]", watchdog.stdin)
        os.set_blocking(pipe.fileno(), False)  # a watchdog that was stopped does not read
        return watchdog, pipe

    def _deadline(self) -> float:
        return self._held.deadline() - MARGIN * self._held.ttl

    def _watch(self, reports: int) -> None:
        heard, told_of_loss = b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(reports, selectors.EVENT_READ)
            while True:
                if selector.select(self._held.ttl / LOOKS):
                    said = os.read(reports, 4096)
                    if not said:
                        return
                    *lines, heard = (heard + said).split(b"\n")
                    for line in lines:
                        self._note(line.decode())
                elif self._held.is_lost():
                    if told_of_loss:  # and it does not answer
                        self._kill()
                    self._say("kill")
                    told_of_loss = True
                elif (deadline := self._deadline()) > self._told:
                    self._told = deadline
                    self._say(f"deadline {deadline!r}")

    def _note(self, line: str) -> None:
        word, _, number = line.partition(" ")
        if word == "started":
            self._child = int(number)
        elif word == "failed":
            self._ended = Ended(0, lost=False, error=int(number))
        else:
            self._ended = Ended(int(number), lost=word == "ended")

    def _say(self, line: str) -> None:
        if self._pipe is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._pipe.write(f"{line}\n".encode())

    def _kill(self) -> None:
        if self._child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, signal.SIGKILL)

    def _reap(self) -> None:
        """A watchdog that was killed has told nothing of the command's end: then it is ended here."""
        if self._pipe is None:
            return
        if self._ended is None:
            self._kill()
        self._pipe.close()
        self._watchdog.wait(FAREWELL)

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        before = {number: signal.signal(number, lambda n, _: self._pass_on(n)) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int) -> None:
        self._signals.append(number)
        self._say(f"signal {int(number)}")


def _own_stdin() -> int:
    try:
        return os.dup(0)
    except OSError:  # a daemon's may be closed
        return os.open(os.devnull, os.O_RDONLY)
