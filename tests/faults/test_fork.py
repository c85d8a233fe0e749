"""A process forks while its back end and its hub are at work: both sides go on, and share no connection."""

from __future__ import annotations

import pytest

from tests.faults.labs import Lab
from tests.processes import wait_until

PRELUDE = """
import gc, os, signal, socket, sys, threading
from dref_django import Counter
from tests.processes import wait_until

counter, other = Counter("forked"), Counter("other")
called = []
counter.on_change(lambda change: called.append((os.getpid(), change.value)))
stream = counter.changes(every=True, timeout=20).__enter__()
assert next(stream).value == 0

def hears(value):
    wait_until(lambda: (os.getpid(), value) in called, f"the callback of {os.getpid()} for {value}: {called}", 20)

def follows(value):
    for change in stream:
        assert not change.gap, change
        if change.value == value:
            return
    raise AssertionError(f"the stream ended before {value}")

def ended_well(child):
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


assert counter.increment() == 1
hears(1)
follows(1)
"""

FORK = """
from_parent, to_child = os.pipe()
from_child, to_parent = os.pipe()
child = os.fork()
if child == 0:
    ending = "%s"
    try:
        assert counter.increment() == 2          # on a connection of its own
        own = Counter("own")
        heard = threading.Event()
        subscription = own.on_change(lambda change: heard.set())
        with own.changes(timeout=20) as mine:
            assert next(mine).value == 0
            own.increment()
            assert next(mine).value == 1
        assert heard.wait(20), "the child's callback was not called"
        del mine, subscription
        gc.collect()
        os.write(to_parent, b"x")
        assert os.read(from_parent, 1) == b"x"
        hears(3)                                 # what was registered before the fork works here, too
        assert counter.increment() == 4
        assert counter.peek() in (3, 4)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    if ending == "exit at once":
        os._exit(0)
    sys.exit(0)                                  # finalizes the interpreter, and what it inherited
assert os.read(from_child, 1) == b"x"
follows(2)
hears(2)
assert counter.increment() == 3
os.write(to_child, b"x")
follows(3)
ended_well(child)
follows(4)
hears(4)
for value in range(5, 60):
    assert counter.increment() == value
    follows(value)
stream.close()
"""


@pytest.mark.parametrize("ending", ["exit at once", "run to the end"])
def test_both_sides_of_a_fork_go_on(lab: Lab, ending: str) -> None:
    lab.run_python(PRELUDE + FORK % ending, heartbeat=60)  # nothing is made up for by a heartbeat


def test_a_grandchild_leaves_its_grandparent_in_peace(lab: Lab) -> None:
    lab.run_python(
        PRELUDE
        + """
child = os.fork()
if child == 0:
    grandchild = os.fork()      # as daemons do; the child has used nothing of its own
    if grandchild == 0:
        assert counter.increment() == 2
        gc.collect()
        sys.exit(0)
    ended_well(grandchild)
    gc.collect()
    sys.exit(0)
ended_well(child)
follows(2)
hears(2)
assert counter.increment() == 3
follows(3)
hears(3)
stream.close()
""",
        heartbeat=60,
    )


def test_a_child_that_uses_nothing_leaves_its_parent_in_peace(lab: Lab) -> None:
    lab.run_python(
        PRELUDE
        + """
for _ in range(3):
    child = os.fork()
    if child == 0:
        gc.collect()
        sys.exit(0)
    ended_well(child)
for value in range(2, 20):
    assert counter.increment() == value
    follows(value)
    hears(value)
stream.close()
""",
        heartbeat=60,
    )


def test_a_pool_of_forked_workers_loses_nothing(lab: Lab) -> None:
    lab.run_python(
        PRELUDE
        + """
import multiprocessing

def work(number):
    for _ in range(25):
        other.increment()
    return other.get() >= 25

with multiprocessing.get_context("fork").Pool(4) as pool:
    assert all(pool.map(work, range(8), chunksize=1))
assert other.get() == 200
assert counter.increment() == 2
follows(2)
hears(2)
stream.close()
""",
        heartbeat=60,
    )


def test_a_fork_while_other_threads_are_at_work_hangs_nobody(lab: Lab) -> None:
    """As gunicorn --preload does it when the application uses a ref while it is loaded."""
    lab.run_python(
        PRELUDE
        + """
stopping = threading.Event()
busy = [Counter(f"busy-{number}") for number in range(4)]

def work(one):
    while not stopping.is_set():
        one.increment()
        one.peek()

threads = [threading.Thread(target=work, args=(one,)) for one in busy]
for thread in threads:
    thread.start()
for round_ in range(8):
    child = os.fork()
    if child == 0:
        signal.alarm(20)                     # a child that hangs is ended, and seen
        for one in busy:
            one.increment()
            one.peek()
        other.increment()
        os._exit(0)
    ended_well(child)
stopping.set()
for thread in threads:
    thread.join()
assert other.get() == 8
assert counter.increment() == 2
follows(2)
hears(2)
stream.close()
"""
    )


def test_a_child_uses_no_socket_that_it_inherited(lab: Lab) -> None:
    """In the child every inherited socket is replaced by one that leads nowhere: who used it would wait in vain."""
    before = lab.connections()
    lab.run_python(
        PRELUDE
        + """
import asyncio, stat

def sockets():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            pass

other.get()                                  # on a connection that lies idle at the fork
child = os.fork()
if child == 0:
    nowhere, _kept_open = socket.socketpair()
    for fd in list(sockets()):
        if fd not in (nowhere.fileno(), _kept_open.fileno()):
            os.dup2(nowhere.fileno(), fd)
    for number in range(1, 101):
        assert other.increment() == number
    async def on_a_loop():
        for number in range(101, 151):
            assert await other.aincrement() == number
    asyncio.run(on_a_loop())
    assert counter.increment() == 2
    hears(2)
    os._exit(0)
ended_well(child)
assert other.get() == 150
assert counter.increment() == 3
hears(3)
stream.close()
"""
    )
    wait_until(lambda: lab.connections() == before, "the connections of both to end", 20)
