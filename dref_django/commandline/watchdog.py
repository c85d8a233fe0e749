"""The process between `manage.py dref run` and its command: ends the command before the lease ends.

It is run by its path (`python -I -S watchdog.py STATUS_FD STDIN_FD GRACE DEADLINE COMMAND ...`) and imports nothing of
Django or of this package: small, in a session of its own, and with one thing to do. On stdin it hears, a line each:

- `deadline SECONDS`: the lease was renewed, the command may run until then (by the clock below);
- `signal NUMBER`: for the command;
- `kill`: the lease is lost, somebody else may have it already.

The end of stdin is the end of `run`. Silence is what a stopped or frozen `run` sounds like: the last deadline holds.
SIGTERM goes out GRACE seconds before the deadline, SIGKILL at it, both to the command's process group. What it tells
on STATUS_FD: `started PID`, then `exited CODE`, `ended CODE` (it was ended for its lease) or `failed ERRNO`.

Whatever the command leaves behind in its process group ends with it. When this process is killed, Linux ends the
command; elsewhere, and for the command's own children, `run` does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time

CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The one that leases go by, see dref_django/clock.py."""
LONGEST_WAIT = 1.0
"""Seconds between two looks at the clock: it passes while the machine sleeps, and `select` does not notice."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def now() -> float:
    return time.clock_gettime(CLOCK)


class Watchdog:
    def __init__(self, status: int, stdin: int, grace: float, deadline: float, command: list[str]) -> None:
        self._status = status
        self._stdin = stdin  # the command's
        self._grace = grace
        self._deadline = deadline
        self._command = command
        self._heard = b""
        self._over = False  # the command is being ended; no renewal takes that back

    def run(self) -> None:
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if not self._start():
            return
        for number in FORWARDED:
            signal.signal(number, lambda number, _: self._send(number))
        with selectors.DefaultSelector() as selector:
            selector.register(read, selectors.EVENT_READ)
            selector.register(0, selectors.EVENT_READ)
            while not self._has_exited():
                for key, _ in selector.select(self._wait()):
                    if key.fd == read:
                        with contextlib.suppress(BlockingIOError):
                            os.read(read, 512)
                    elif not self._hear():
                        selector.unregister(0)
                        self._end(min(self._deadline, now() + self._grace))
                self._enforce()
        self._send_group(signal.SIGKILL)
        code = self._process.wait()
        self._tell(f"{'ended' if self._over else 'exited'} {code if code >= 0 else 128 - code}")

    def _start(self) -> bool:
        try:
            self._process = subprocess.Popen(  # noqa: S603 (what it is for)
                self._command,
                stdin=self._stdin,
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (one thread, and all is imported before)
            )
        except OSError as error:
            self._tell(f"failed {error.errno or 0}")
            return False
        os.close(self._stdin)
        self._tell(f"started {self._process.pid}")
        return True

    def _has_exited(self) -> bool:
        """Where the system lets us, without reaping it: its process group keeps its number until then."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _wait(self) -> float:
        moment = self._deadline if self._over else self._deadline - self._grace
        return min(max(moment - now(), 0.0), LONGEST_WAIT)

    def _hear(self) -> bool:
        """What `run` says; False when it is gone."""
        said = os.read(0, 4096)
        *lines, self._heard = (self._heard + said).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == b"deadline" and not self._over:
                self._deadline = max(self._deadline, float(rest))
            elif word == b"signal":
                self._send(int(rest))
            elif word == b"kill":
                self._end(now())
        return bool(said)

    def _enforce(self) -> None:
        if now() >= self._deadline:
            self._over = True
            self._send_group(signal.SIGKILL)
        elif not self._over and now() >= self._deadline - self._grace:
            self._end(self._deadline)

    def _end(self, deadline: float) -> None:
        """SIGTERM now, SIGKILL at the deadline."""
        self._deadline = min(self._deadline, deadline)
        if not self._over:
            self._over = True
            self._send_group(signal.SIGTERM)
            self._send_group(signal.SIGCONT)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def _send_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
            os.killpg(self._process.pid, number)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self._status, f"{line}\n".encode())


def _die_with_parent() -> None:
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _, status_fd, stdin_fd, grace_, deadline_, *command_ = sys.argv
    Watchdog(int(status_fd), int(stdin_fd), float(grace_), float(deadline_), command_).run()
