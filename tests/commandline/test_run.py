"""`manage.py dref run`: processes, signals and leases are all real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dref_django import Election, lock
from dref_django.backends import Backend, Params
from dref_django.backends.memory import MemoryBackend
from dref_django.inspection import break_lock
from tests.commandline.conftest import dref
from tests.kinds import installed, make
from tests.processes import children, kill_family, running, wait_until
from tests.servers import janitor

ROOT = Path(__file__).parent.parent.parent
JOB = Path(__file__).with_name("job.py")
PATIENCE = 30.0
TTL = 2.5
"""Seconds. The longer, the less a busy machine upsets: a tenth of it and some is what a watchdog may be late."""


class Run:
    """One `manage.py dref run`, its watchdog and its command; all ended with the test."""

    def __init__(self, backend: Backend, *arguments: str) -> None:
        kind = type(backend)
        settings = {"BACKEND": f"{kind.__module__}.{kind.__qualname__}", "KEY_PREFIX": backend.params.key_prefix}
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.commandline.settings",
            "DREF_TEST_BACKEND": json.dumps(settings | {"OPTIONS": dict(backend.params.options)}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "django", "dref", "run", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        janitor().watch_process(self.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def watchdog(self) -> int | None:
        return next(iter(children(self.pid)), None)

    @property
    def command(self) -> int | None:
        return None if self.watchdog is None else next(iter(children(self.watchdog)), None)

    def ends(self) -> tuple[int, str, str]:
        """Exit code and what was printed."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def close(self) -> None:
        if self.process.poll() is None:
            kill_family(self.pid)
        self.process.communicate(timeout=PATIENCE)
        janitor().forget_process(self.pid)


Start = Callable[..., Run]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(backend: Backend, *arguments: str) -> Run:
        runs.append(Run(backend, *arguments))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@pytest.fixture
def alone(start: Start) -> Start:
    """On memory, where nobody else is: for what concerns one process only."""
    return lambda *arguments: start(MemoryBackend(Params()), *arguments)


@pytest.fixture
def on_redis(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with installed(make("redis", request)) as backend:
        yield backend


class Diary:
    """What jobs wrote: their tokens, in the order of writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tokens(self) -> list[int]:
        if not self.path.exists():
            return []
        return [int(line) for line in self.path.read_text().splitlines() if line]

    def newer(self, than: int) -> int:
        """Waits for a job with a higher token and returns that."""
        wait_until(lambda: self.tokens()[-1:] > [than], f"a job after {than}", PATIENCE)
        return self.tokens()[-1]


def of(runs: list[Run]) -> Run:
    """The one that runs the command."""
    return next(run for run in runs if run.process.poll() is None and run.command is not None)


@pytest.mark.alone
class TestFailOver:
    def test_killed_and_stopped_holders_never_run_beside_their_successor(
        self, served_backend: Backend, start: Start, tmp_path: Path
    ) -> None:
        diary = Diary(tmp_path / "diary")
        job = [sys.executable, "-I", "-S", str(JOB), str(diary.path), "stubborn"]
        runs = [start(served_backend, "--leader", "beat", "--ttl", f"{TTL}", "--", *job) for _ in range(3)]

        first = diary.newer(0)
        killed = of(runs)
        killed.process.kill()
        second = diary.newer(first)

        stopped = of([run for run in runs if run is not killed])
        os.kill(stopped.pid, signal.SIGSTOP)
        third = diary.newer(second)
        os.kill(stopped.pid, signal.SIGCONT)

        assert first < second < third
        leader = Election("beat").leader()
        assert leader is not None
        assert leader.token == third
        wait_until(lambda: diary.tokens().count(third) > 20, "the third to run for a while", PATIENCE)
        assert all(before <= after for before, after in pairwise(diary.tokens())), "two jobs ran at once"

    def test_the_stopped_one_ends_its_command_and_waits_to_lead_again(
        self, on_redis: Backend, start: Start, tmp_path: Path
    ) -> None:
        diary = Diary(tmp_path / "diary")
        job = [sys.executable, "-I", "-S", str(JOB), str(diary.path), "polite"]
        run = start(on_redis, "--leader", "beat", "--ttl", "1", "--", *job)
        first = diary.newer(0)
        command = run.command
        assert command is not None
        os.kill(run.pid, signal.SIGSTOP)
        wait_until(lambda: not running(command), "the command to end", PATIENCE)
        os.kill(run.pid, signal.SIGCONT)
        diary.newer(first)
        run.process.terminate()
        assert run.ends()[0] == 128 + signal.SIGTERM
        assert Election("beat").leader() is None


class TestLoss:
    def test_broken_lock_ends_the_command(self, on_redis: Backend, start: Start) -> None:
        run = start(on_redis, "--lock", "report", "--ttl", "3", "--", "sleep", "60")
        wait_until(lambda: run.command is not None, "the command", PATIENCE)
        command = run.command
        assert command is not None
        assert break_lock("report")
        code, _, err = run.ends()
        assert code == 76
        assert "'report'" in err
        assert not running(command)

    def test_killed_watchdog_takes_the_command_with_it(self, alone: Start) -> None:
        run = alone("--lock", "report", "--", "sh", "-c", "sleep 60; true")
        wait_until(lambda: bool(run.command and children(run.command)), "the command's own child", PATIENCE)
        watchdog, command = run.watchdog, run.command
        assert watchdog is not None
        assert command is not None
        (grandchild,) = children(command)
        os.kill(watchdog, signal.SIGKILL)
        assert run.ends()[0] == 76
        wait_until(lambda: not running(command) and not running(grandchild), "both to end", PATIENCE)


class TestCommand:
    def test_keeps_its_exit_code_and_gets_the_token(self, alone: Start) -> None:
        code, out, _ = alone("--lock", "report", "--", "sh", "-c", "echo $DREF_TOKEN; exit 7").ends()
        assert code == 7
        assert int(out) > 0

    def test_ended_by_a_signal_of_its_own_is_told_as_a_shell_does(self, alone: Start) -> None:
        assert alone("--leader", "report", "--", "sh", "-c", "kill -USR1 $$").ends()[0] == 128 + signal.SIGUSR1

    def test_gets_the_signals(self, alone: Start) -> None:
        run = alone("--lock", "report", "--", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep .1; done")
        assert run.process.stdout is not None
        assert run.process.stdout.readline() == "ready\n"
        run.process.send_signal(signal.SIGTERM)
        assert run.ends()[0] == 5

    def test_leaves_nothing_behind_in_its_process_group(self, alone: Start) -> None:
        code, out, _ = alone("--lock", "report", "--", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!").ends()
        assert code == 0
        wait_until(lambda: not running(int(out)), "what it started to end", PATIENCE)

    def test_that_does_not_exist_is_code_127(self, alone: Start) -> None:
        code, _, err = alone("--lock", "report", "--", "no-such-command").ends()
        assert code == 127
        assert "no-such-command: No such file" in err


class TestLock:
    def test_taken_is_code_75_and_nothing_is_run(self, on_redis: Backend, start: Start, tmp_path: Path) -> None:
        made = tmp_path / "made"
        with lock("report"):
            code, _, err = start(on_redis, "--lock", "report", "--", "touch", str(made)).ends()
        assert code == 75
        assert "'report' was not free" in err
        assert not made.exists()

    def test_is_free_again_at_once(self, on_redis: Backend, start: Start) -> None:
        assert start(on_redis, "--lock", "report", "--", "true").ends()[0] == 0
        with lock("report", timeout=0):
            pass

    def test_who_waits_can_be_ended(self, on_redis: Backend, start: Start) -> None:
        with Election("beat").lead():
            run = start(on_redis, "--leader", "beat", "--", "true")
            wait_until(lambda: "1" in dref("locks", "--kind", "election").out.split()[-2], "it to wait", PATIENCE)
            run.process.terminate()
            assert run.ends()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    "arguments", [["--lock", "a"], ["--lock", "a", "--ttl", "1", "--grace", "1", "--", "true"], ["--lock", "a", "--"]]
)
def test_senseless_arguments_are_code_2(arguments: list[str]) -> None:
    assert dref("run", *arguments).code == 2
