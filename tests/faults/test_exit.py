"""A process ends while everything is at work: exit code 0, not a word on stderr, no hang."""

from __future__ import annotations

import time

import pytest

from tests.faults.labs import Lab

EVERYTHING = """
import asyncio, threading
from dref_django import Counter, DRef, watch

counter, text = Counter("counted"), DRef("text", "")
called, followed = threading.Event(), threading.Event()
counter.on_change(lambda change: called.set())

def follow():
    for change in watch("*"):
        followed.set()

async def use():
    async with counter.changes() as changes:
        async for change in changes:
            break
    await text.aset("async")

threading.Thread(target=follow, daemon=True).start()
stream = counter.changes(every=True).__enter__()
counter.increment()
assert called.wait(20) and followed.wait(20)
counter.peek(), text.peek()
asyncio.run(use())
"""
ENDINGS = {
    "end of the program": "",
    "sys.exit": "import sys; sys.exit(0)",
    "in the middle of an iteration": "next(stream)\nstream_of_all = iter(watch('*')); next(stream_of_all)",
    "with work under way": "threading.Thread(target=lambda: [counter.increment() for _ in range(300)]).start()",
    "callback at work": "import time\ncounter.on_change(lambda change: time.sleep(30))\ncounter.increment()",
}
QUICK = 20.0
"""Seconds, for starting Python and Django on a loaded machine, too; a process that waits for something ends later."""


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_well_with_everything_open(lab: Lab, ending: str) -> None:
    started = time.monotonic()
    lab.run_python(EVERYTHING + ENDINGS[ending])
    assert time.monotonic() - started < QUICK


def test_a_process_ends_well_while_the_server_is_out_of_reach(lab: Lab) -> None:
    quiet = "import logging; logging.getLogger('dref_django').addHandler(logging.NullHandler())"
    source = quiet + EVERYTHING + "print('ready', flush=True)\nimport sys\nsys.stdin.readline()\n"
    for trouble in (lab.proxy.refuse, lab.proxy.blackhole):
        with lab.program(source, proxied=True) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            trouble()
            started = time.monotonic()
        assert time.monotonic() - started < QUICK
        lab.proxy.heal()
        lab.proxy.accept()


def test_a_process_that_never_reached_the_server_ends_well(lab: Lab) -> None:
    source = """
from dref_django import Counter, Unavailable, start
counter = Counter("counted")
counter.on_change(print)
start()
try:
    counter.get()
except Unavailable:
    print("unavailable")
else:
    raise AssertionError("there is no server")
"""
    for trouble in (lab.proxy.refuse, lab.proxy.blackhole):
        trouble()
        assert lab.run_python(source, proxied=True, timeout=0.5).strip() == "unavailable"
        lab.proxy.heal()
        lab.proxy.accept()


def test_an_imported_ref_that_is_never_used_connects_to_nothing(lab: Lab) -> None:
    before = lab.connections()
    lab.run_python(
        "from dref_django import Counter, Flag, lock\n"
        "counter, flag = Counter('counted'), Flag('flagged')\n"
        "counter.on_change(print)\n"
        "import threading\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    assert lab.connections() == before
