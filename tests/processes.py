"""Processes of the tests: looking at their children, ending them for good, and never leaving one behind.

A server outlives its test run when the run is killed or pytest-timeout ends it with ``os._exit``: no ``finally`` and no
``atexit`` runs then. So a janitor process holds the read end of a pipe, learns of every server and its directory, and
ends what is left when the pipe closes, which it does however the run ends.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

POLL = 0.01  # seconds between two looks at something that another process does


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    """Return once ``condition()`` holds; raise ``TimeoutError`` naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(POLL)


@contextmanager
def no_threads() -> Iterator[None]:
    """In it the system gives this process no thread."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with mock.patch.object(threading.Thread, "start", refuse):
        yield


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = text.rpartition(")")[2].split()[:2]  # the name before it may hold spaces and parentheses
    return state, int(parent)


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    if not Path("/proc/self/stat").exists():  # macOS
        listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = (line.split() for line in listing.splitlines())
        return [int(child) for child, parent in pairs if int(parent) == pid]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            stat = _stat(int(entry.name))
            if stat is not None and stat[1] == pid:
                found.append(int(entry.name))
    return found


def running(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    if Path("/proc/self/stat").exists():
        stat = _stat(pid)
        return stat is not None and stat[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def send(signum: signal.Signals, *pids: int) -> None:
    """Signal processes, passing over those that have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def freeze(pid: int) -> None:
    """SIGSTOP for a process and its children, the parent first so that it has no more of them."""
    send(signal.SIGSTOP, pid)
    send(signal.SIGSTOP, *children(pid))


def thaw(pid: int) -> None:
    """SIGCONT for a process and its children."""
    send(signal.SIGCONT, *children(pid), pid)


def kill_family(pid: int, timeout: float = 10) -> None:
    """SIGKILL for a process and its children; returns when none runs.

    PostgreSQL's children each lead a session of their own, so a signal to the process group would miss them.
    """
    send(signal.SIGSTOP, pid)
    family = [*children(pid), pid]
    send(signal.SIGKILL, *family)
    wait_until(lambda: not any(map(running, family)), f"processes {family} to end", timeout)


class Janitor:
    """Ends the processes and removes the directories that are still entrusted to it when this process ends."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is for the test run, which then tells us
        )

    def _tell(self, line: str) -> None:
        assert os.getpid() == self._owner, "a forked child must not speak for its parent's servers"
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def watch_process(self, pid: int) -> None:
        self._tell(f"+pid {pid}")

    def forget_process(self, pid: int) -> None:
        self._tell(f"-pid {pid}")

    def watch_directory(self, path: Path) -> None:
        self._tell(f"+dir {path}")

    def forget_directory(self, path: Path) -> None:
        self._tell(f"-dir {path}")

    def close(self) -> None:
        """End everything entrusted and return when that is done."""
        if os.getpid() == self._owner and self._process.poll() is None:
            self._process.communicate(timeout=30)


def _clean_up_at_end_of_input() -> None:
    pids: set[int] = set()
    directories: set[str] = set()
    for line in sys.stdin:
        sign_and_kind, _, value = line.rstrip("\n").partition(" ")
        if sign_and_kind == "+pid":
            pids.add(int(value))
        elif sign_and_kind == "-pid":
            pids.discard(int(value))
        elif sign_and_kind == "+dir":
            directories.add(value)
        elif sign_and_kind == "-dir":
            directories.discard(value)
    for pid in pids:
        kill_family(pid)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _clean_up_at_end_of_input()
