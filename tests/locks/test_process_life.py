"""Locks over forks and at the end of the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from dref_django import LockLost, LockTimeout, backends, lock
from dref_django.inspection import break_lock, lock_info
from dref_django.keeper import keeper_of
from tests.locks.test_entering import is_free
from tests.processes import wait_until
from tests.servers import HasUrl

ROOT = Path(__file__).resolve().parents[2]

SETUP = """
import asyncio, contextlib, json, os, sys, threading
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from django.conf import settings
import django
settings.DREF_BACKEND = json.loads(sys.argv[1])
django.setup()
from dref_django import Unavailable, lock
"""


def in_child(action: Callable[[], object]) -> str:
    """What `action` does in a forked child: "" or the error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os.write(writing, b"ok")
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(pid, 0)
    return told


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", ["redis", "postgres"])
class TestFork:
    def test_child_has_not_the_parents_lock(self) -> None:
        with lock("a", ttl=1) as held:

            def child() -> None:
                assert held.lost
                assert held.lost.wait(0)
                assert held.remaining() == 0
                with pytest.raises(LockLost, match="forked"):
                    held.check()
                with pytest.raises(LockTimeout):
                    lock("a", timeout=0).acquire()

            assert in_child(child) == "ok"
            held.check()

    def test_child_that_leaves_the_block_or_releases_frees_nothing(self) -> None:
        guard = lock("a")
        with guard as held:

            def child() -> None:
                with pytest.raises(LockLost):
                    guard.release(held)
                with pytest.raises(LockLost):
                    guard.__exit__(None, None, None)
                held.hand_back()

            assert in_child(child) == "ok"
            held.check()
            found = lock_info("a")
            assert found is not None
            assert found.token == held.token
        assert is_free("a")

    def test_parents_lock_is_not_renewed_by_the_child(self) -> None:
        held = lock("a", ttl=1).acquire()

        def child() -> None:
            with lock("b", ttl=1) as own:  # its own renewal thread runs
                before = own.deadline()
                wait_until(lambda: own.deadline() > before, "a renewal", 5)
            assert held not in keeper_of(backends.get_backend())._held

        assert in_child(child) == "ok"
        held.check()

    def test_child_takes_locks_of_its_own(self) -> None:
        shared = lock("b", reentrant=True)
        with lock("a"), shared:

            def child() -> None:
                with lock("c", timeout=0) as held:
                    held.check()
                with pytest.raises(LockTimeout):  # the parent is in it, this process is not
                    shared.acquire(timeout=0)

            assert in_child(child) == "ok"

    def test_fork_while_threads_wait_and_renew(self) -> None:
        guard = lock("a", ttl=1)
        held = guard.acquire()
        waiting = threading.Thread(target=lambda: guard.release(guard.acquire()))
        waiting.start()
        for _ in range(5):
            assert in_child(lambda: lock("b", timeout=10).__enter__()) == "ok"
            held.check()
            # The child did not release; what it held is free when its lease is over or it is broken.
            break_lock("b")
        guard.release(held)
        waiting.join(10)
        assert not waiting.is_alive()


class TestInterpreterExit:
    @pytest.fixture
    def setting(self, redis_server: HasUrl) -> str:
        prefix = f"exit-{os.urandom(4).hex()}"
        return json.dumps({"BACKEND": "redis", "KEY_PREFIX": prefix, "OPTIONS": {"URL": redis_server.url}})

    def run(self, setting: str, program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", SETUP + program, setting],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @pytest.mark.parametrize(
        "program",
        [
            pytest.param("held = lock('a').acquire()", id="handle"),
            pytest.param("guard = lock('a'); guard.__enter__()", id="block never left"),
            pytest.param(
                "async def main():\n    await lock('a').aacquire()\nasyncio.run(main())",
                id="async handle",
            ),
            pytest.param(
                "entered = threading.Event()\n"
                "def hold():\n"
                "    with lock('a'):\n"
                "        entered.set(); threading.Event().wait()\n"
                "threading.Thread(target=hold, daemon=True).start(); entered.wait()",
                id="daemon thread",
            ),
            pytest.param("lock('a').acquire(); sys.exit(0)", id="sys.exit"),
            pytest.param(
                "lock('a').acquire()\n"
                "def wait():\n"
                "    with contextlib.suppress(Unavailable):\n"  # what it hears at the end
                "        lock('a').acquire()\n"
                "threading.Thread(target=wait, daemon=True).start()\n"
                "import time; time.sleep(0.2)",
                id="with a waiter",
            ),
        ],
    )
    def test_process_that_ends_gives_back_what_it_holds(self, program: str, setting: str, settings: Settings) -> None:
        ended = self.run(setting, program)
        assert (ended.returncode, ended.stderr) == (0, "")
        settings.DREF_BACKEND = json.loads(setting)
        with lock("a", timeout=5):  # at once, but for the place of a waiter that died
            pass

    def test_ends_soon_when_the_server_is_gone(self, setting: str) -> None:
        program = (
            "from tests.servers import RedisServer\n"
            "server = RedisServer(appendonly=False).start()\n"
            "settings.DREF_BACKEND = {'BACKEND': 'redis', 'OPTIONS': {'URL': server.url}}\n"
            "lock('a').acquire()\n"
            "server.kill()\n"
        )
        ended = self.run(setting, program)
        assert ended.returncode == 0
        assert "could not be released" in ended.stderr
