"""What each process of the demo does by itself: it says that it is there, and one of them leads.

The leader writes the pulse once a second. When it is asked to, or dies, another one is elected.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from django.utils import timezone

from dref_django import Change, DRefError, Election, LockTimeout, backends, lock

from . import refs

logger = logging.getLogger(__name__)

PERIOD: Final = 1.0  # seconds
LEASE: Final = 3.0
SHY: Final = 2 * PERIOD
"""Seconds for which a leader that made room leaves the election to the others."""
FACTS: Final = 5
"""Every so many beats the leader asks the back end about itself, and tells so many facts."""
STEPS: Final = 10
PROOFREADING: Final = 30.0  # seconds
STEP: Final = 0.3  # seconds


class Worker:
    """The two threads of one process, `port` is its name. `start()` once; they end with the process."""

    def __init__(self, port: str) -> None:
        self.port = port
        self.election = Election("demo", ttl=LEASE, metadata={"port": port})
        self._since = timezone.now().isoformat(timespec="seconds")
        self._lag_ms = 0.0
        self._asked = threading.Event()

    def start(self) -> None:
        refs.pulse.on_change(self._heard)
        refs.step_down.on_change(lambda _: self._asked.set())
        for task in (self._lead, self._appear):
            threading.Thread(target=self._forever, args=(task,), name=f"demo{task.__name__}", daemon=True).start()

    def _forever(self, task: Callable[[], None]) -> None:
        while True:
            try:
                task()
            except DRefError as error:
                logger.info("demo: %s", error)
                time.sleep(PERIOD)

    def _heard(self, change: Change[refs.Pulse]) -> None:
        if change.value.at:
            self._lag_ms = max(0.0, (time.time() - change.value.at) * 1000)

    def _lead(self) -> None:
        with self.election.lead(timeout=None) as term:
            since = timezone.now().isoformat(timespec="seconds")
            write_ms, beat = 0.0, 0
            while refs.step_down.get() != term.token:
                term.check()
                self._asked.clear()
                started = time.perf_counter()
                word = refs.Pulse(self.port, term.token, since, time.time(), round(write_ms, 2))
                refs.pulse.set(word, ttl=LEASE)
                write_ms = (time.perf_counter() - started) * 1000
                if beat % FACTS == 0:
                    facts = list(backends.get_backend().facts().items())[:FACTS]
                    refs.truth.set({name: str(fact) for name, fact in facts}, ttl=10 * FACTS * PERIOD)
                beat += 1
                self._asked.wait(PERIOD)
        time.sleep(SHY)

    def _appear(self) -> None:
        node, beat = refs.node_of(self.port), 0
        refs.articles_shown.set_if_absent(refs.ARTICLES)  # the admin lists what is stored
        while True:
            beat += 1
            role = "leader" if self.election.is_leader else "follower"
            word = refs.Node(os.getpid(), role, self._since, round(self._lag_ms, 1), beat)
            node.set(word, ttl=refs.NODE_TTL)
            time.sleep(PERIOD)


def write_report(port: str) -> bool:
    """A job of some seconds that runs in one process at a time. Returns False when it runs already."""
    try:
        with lock("demo.report", timeout=0, ttl=LEASE) as held:
            for step in range(STEPS):
                held.check()
                refs.report.set(refs.Report(port, held.token, 100 * step // STEPS), ttl=LEASE)
                time.sleep(STEP)
            refs.report.delete()
    except LockTimeout:
        return False
    return True


def proofread() -> None:
    """Half a minute of work, by one at a time; others wait for it. Raises `LockLost` when its lock is broken."""
    with lock("demo.proofreading", timeout=2 * PROOFREADING, ttl=LEASE) as held:
        if held.lost.wait(PROOFREADING):
            held.check()
