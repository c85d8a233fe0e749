"""The process's background loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dref_django import background
from dref_django.waiting import Waker
from tests.scripted import PATIENCE

ROOT = Path(__file__).parent.parent


def run(program: str, *, silent: bool = True) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert not (silent and done.stderr), done.stderr
    return done.stdout


class TestLoop:
    def test_there_is_one_however_many_threads_ask(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            loops = set(pool.map(lambda _: background.get_loop(), range(64)))
        assert len(loops) == 1

    def test_work_runs_on_its_daemon_thread(self) -> None:
        async def where() -> tuple[bool, str, bool]:
            thread = threading.current_thread()
            return background.on_loop(), thread.name, thread.daemon

        assert background.submit(where()).result(PATIENCE) == (True, "dref-background", True)
        assert not background.on_loop()

    def test_nothing_starts_at_import(self) -> None:
        program = (
            "import threading, os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'\n"
            "import django; django.setup()\n"
            "from dref_django import *\nimport dref_django.refs, dref_django.streams, dref_django.locks\n"
            "Counter('n').on_change(print)\n"
            "print(threading.active_count())"
        )
        assert run(program) == "1\n"

    def test_exit_ends_what_runs_after_the_farewells(self) -> None:
        program = (
            "import asyncio\nfrom dref_django import background\n"
            "async def run():\n"
            "    try:\n        await asyncio.Event().wait()\n    finally:\n        print('cancelled')\n"
            "task = background.submit(run())\n"
            "background.submit(asyncio.sleep(0)).result()\n"
            "background.at_exit(lambda: print('farewell'))"
        )
        assert run(program) == "farewell\ncancelled\n"

    def test_task_that_will_not_end_does_not_keep_the_interpreter(self) -> None:
        program = (
            "import asyncio\nfrom contextlib import suppress\nfrom dref_django import background\n"
            "background.STOP_TIMEOUT = 0.1\n"
            "async def run():\n"
            "    while True:\n"
            "        with suppress(asyncio.CancelledError):\n"
            "            await asyncio.Event().wait()\n"
            "background.submit(run())\n"
            "background.submit(asyncio.sleep(0)).result()"
        )
        run(program, silent=False)  # asyncio complains of the task

    def test_child_of_a_fork_has_a_loop_of_its_own(self) -> None:
        program = (
            "import asyncio, os\nfrom dref_django import background\n"
            "loop = background.get_loop()\n"
            "child = os.fork()\n"
            "mine = background.get_loop()\n"
            "assert (mine is loop) == (child != 0)\n"
            "assert background.submit(asyncio.sleep(0, 5)).result(10) == 5\n"
            "if child:\n    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0"
        )
        run(program)


class TestWaker:
    def test_ring_wakes_threads_and_tasks(self) -> None:
        waker = Waker()

        async def wait() -> bool:
            return await waker.await_(PATIENCE)

        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(waker.wait, PATIENCE), *(pool.submit(lambda: asyncio.run(wait())) for _ in range(2))]
            threading.Timer(0.01, waker.set).start()
            assert [each.result(PATIENCE) for each in waiting] == [True] * 3

    async def test_ring_is_remembered_until_it_is_cleared(self) -> None:
        waker = Waker()
        waker.set()
        assert waker.is_set()
        assert await waker.await_(0)
        assert waker.wait(0)
        waker.clear()
        assert not waker.wait(0)
        assert not await waker.await_(0.001)

    async def test_cancelled_waiter_is_forgotten(self) -> None:
        waker = Waker()
        task = asyncio.create_task(waker.await_(None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not waker._futures

    def test_ring_after_a_waiters_loop_has_ended_is_harmless(self) -> None:
        waker = Waker()
        loop = asyncio.new_event_loop()
        task = loop.create_task(waker.await_(None))
        loop.run_until_complete(asyncio.sleep(0))
        futures = list(waker._futures)
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        waker._futures = futures
        waker.set()
