"""The system gives no thread for a moment, as in a container at its limit: nothing is lost or stays broken."""

from __future__ import annotations

from dref_django.backends.base import Backend
from tests.children import Child

STARVED = """
import queue, threading
from dref_django import lock
wanted = {"dref-keeper", "dref-callbacks", "dref-flush"}
refused = set()
start = threading.Thread.start
def refuse_once(thread):
    if thread.name in wanted | {"dref-notify"} and thread.name not in refused:
        refused.add(thread.name)
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse_once

try:
    with lock("job", timeout=0):
        raise SystemExit("a lock was taken that nobody renews")
except RuntimeError:
    pass
with lock("job", timeout=0):
    pass

hits = Counter("hits", flush_interval=0.01)
hits.increment()
hits.increment()
while Counter("hits").get() < 2:
    pass

values = queue.SimpleQueue()
heard = Counter("heard").on_change(lambda change: values.put(change.value))
Counter("heard").increment()
while "dref-callbacks" not in refused:
    pass
Counter("heard").increment()
while values.get(timeout=20) < 2:
    pass
assert wanted <= refused, refused
"""


def test_who_leaves_work_for_a_thread_that_cannot_start_is_served_by_the_next_one(served_backend: Backend) -> None:
    with Child(STARVED, served_backend) as child:
        assert child.ends() == 0
