"""Processes of a project under test, driven over pipes: commands in, JSON lines out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from tests.servers import janitor

Line: TypeAlias = dict[str, Any]
PATIENCE = 30.0
"""Seconds after which something awaited counts as missing, on a loaded machine."""
SHOWN = 15
STRICT = (
    *("-X", "faulthandler", "-W", "always::ResourceWarning", "-W", "always::RuntimeWarning"),
    *(
        "-W",
        "ignore:This process:DeprecationWarning",
    ),  # is multi-threaded and forks: since Python 3.12, and that it may
)
"""What is left open or never awaited is said on stderr, where nothing may be said."""
ROOT = Path(__file__).parent.parent.parent


class Worker:
    """A process that runs `worker.py`. What it says is kept, and shown when something awaited does not come."""

    module: ClassVar[str] = "tests.faults.worker"

    def __init__(self, environment: Mapping[str, str], wrapper: Sequence[str] = ()) -> None:
        """`wrapper`: a program that runs the command behind it, in the same process."""
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, *STRICT, "-m", self.module],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        janitor().watch_process(self._process.pid)
        self._lines: list[Line] = []
        self._news = threading.Condition()
        self._ended = False
        self._errors: list[str] = []
        self._commands = 0
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            with self._news:
                self._lines.append(json.loads(text))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            self._errors.append(text)

    def tell(self, do: str, **arguments: Any) -> int:
        """Sends a command, and returns its number without waiting."""
        assert self._process.stdin is not None
        self._commands += 1
        self._process.stdin.write(json.dumps({"do": do, "id": self._commands, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._commands

    def ask(self, do: str, **arguments: Any) -> Any:
        """Sends a command and returns its result; an error there is an AssertionError here."""
        number = self.tell(do, **arguments)
        line = self.wait_for(lambda line: line.get("id") == number, f"the answer to {do} {arguments}")
        assert "error" not in line, f"{do} {arguments} raised {line['error']}: {line['message']}"
        return line["result"]

    def call(self, name: str, method: str, *args: Any, kind: str = "counter", **kwargs: Any) -> Any:
        """`ref.method(*args)` there."""
        return self.ask("call", name=name, kind=kind, method=method, args=args, kwargs=kwargs)

    def lines(self, event: str) -> list[Line]:
        """What it has said of its own accord so far."""
        with self._news:
            return [line for line in self._lines if line.get("event") == event]

    def wait_for(self, wanted: Callable[[Line], bool], what: str, *, after: int = 0) -> Line:
        """The first line that is `wanted`; from line `after` on."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            seen = after
            while True:
                for line in self._lines[seen:]:
                    if wanted(line):
                        return line
                seen = len(self._lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0 or not self._news.wait(left):
                    raise AssertionError(f"{what}: not within {PATIENCE:g} s\n{self._story()}")

    def wait_for_event(self, event: str, what: str, *, after: int = 0, **fields: Any) -> Line:
        """The first event with these fields."""
        wanted = {"event": event, **fields}
        return self.wait_for(lambda line: wanted.items() <= line.items(), f"{what} {fields}", after=after)

    def mark(self) -> int:
        """A place in what it says, for `after=`."""
        with self._news:
            return len(self._lines)

    def _story(self) -> str:
        said = [json.dumps(line) for line in self._lines[-SHOWN:]]
        state = f"ended with {self._process.poll()}" if self._ended else "runs"
        return "\n".join([f"worker {self.pid} {state}; it said last:", *said, "and to stderr:", *self._errors[-SHOWN:]])

    def close(self) -> None:
        """Closes its input, at which it ends; raises AssertionError unless it ended well, and in silence."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()
        janitor().forget_process(self.pid)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        assert self._process.returncode == 0, self._story()
        assert not self._errors, self._story()


class Program(subprocess.Popen[str]):
    """A running program, and once it has ended what it printed."""

    printed = ""


@contextmanager
def program(source: str, environment: Mapping[str, str], limit: float = 30.0) -> Iterator[Program]:
    """Runs a program; on leaving it must end within `limit` seconds, with code 0 and nothing on stderr."""
    process = Program(
        [sys.executable, *STRICT, "-c", f"import django\ndjango.setup()\n{source}"],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    janitor().watch_process(process.pid)
    try:
        yield process
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGABRT)  # the fault handler tells where every thread stands
        out, err = process.communicate()
        raise AssertionError(f"the program hung for {limit:g} s\nstdout:\n{out}\nstderr:\n{err}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        janitor().forget_process(process.pid)
    assert process.returncode == 0, f"it ended with {process.returncode}\nstdout:\n{out}\nstderr:\n{err}"
    assert err == "", f"it ended well, but said\n{err}\nstdout:\n{out}"
    process.printed = out


def run_python(source: str, environment: Mapping[str, str]) -> str:
    """Runs a program to its end, which must be a good one; returns what it printed."""
    with program(source, environment) as process:
        pass
    return process.printed
