"""`python -m example_project.demo`: it comes up, a change goes through all of it, and nothing is left behind."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from example_project.demo import PROCESSES
from tests.processes import children, running, wait_until

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "example_project.demo"]
TIMEOUT = 50  # seconds


@pytest.mark.parametrize("backend", sorted(PROCESSES))
def test_change_goes_from_one_process_to_a_websocket_of_the_other(backend: str) -> None:
    command = [*COMMAND, "--backend", backend, "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    ports = re.findall(r"http://127\.0\.0\.1:(\d+)/", done.stdout)
    assert len(set(ports)) == min(2, PROCESSES[backend])  # from the first to the last


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_every_process_of_it(signum: signal.Signals) -> None:
    command = [*COMMAND, "--backend", "redis"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        try:
            assert demo.stdout is not None
            addresses: list[str] = []
            while not addresses:
                line = demo.stdout.readline()
                assert line, "it ended"
                addresses = re.findall(r"http://127\.0\.0\.1:\d+/", line)
            for address in addresses:
                with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310
                    assert b"<dref-value" in answer.read()
            family = children(demo.pid)
            assert len(family) >= PROCESSES["redis"] + 1
        finally:
            demo.send_signal(signum)
        demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0
    wait_until(lambda: not any(map(running, family)), "every process to end", TIMEOUT)


def test_users_with_a_known_password_are_made_by_the_demo_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DREF_DEMO_SECRET", raising=False)
    command = [sys.executable, "-m", "example_project.people"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "for the demo" in done.stderr


def test_unknown_back_end_is_refused() -> None:
    done = subprocess.run([*COMMAND, "--backend", "mysql"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "memory" in done.stderr
