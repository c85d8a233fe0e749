"""Clients that go on whatever happens to the nodes, and record what they were told: for the outside checkers."""

from __future__ import annotations

import itertools
import random
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Self

from dref_django import DRef, DRefError, lock
from dref_django.backends import Params
from dref_django.backends.raft.backend import RaftBackend
from tests.crowd import play
from tests.kinds import installed
from tests.linearizability import Recorder, Ref, check
from tests.lock_faults.test_histories import Passage, faults
from tests.processes import wait_until
from tests.raft.clusters import TIMEOUT, Cluster

KEYS: Final = 3
"""Refs that are at work at a time; a new episode has others, so that no history becomes long."""
PATIENCE: Final = 30.0
TTL: Final = 10.0
LONGEST_TURN: Final = 1.5
"""Seconds in the lock: some turns outlast an election."""


class Crew:
    """For each of `places` (NODES of a client) two threads that change refs and one that takes turns in a lock."""

    def __init__(self, cluster: Cluster, places: Sequence[Sequence[str]], *, timeout: float = TIMEOUT) -> None:
        self._params = [
            Params(f"crew-{number}", cluster.prefix, timeout=timeout, options=client_options(cluster, place))
            for number, place in enumerate(places)
        ]
        self._name = secrets.token_hex(4)  # other crews may have worked on this cluster
        self._recorder = Recorder()
        self._passages: list[Passage] = []
        self._done = [0] * len(places)
        self._episode = 0
        self._failures: list[BaseException] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for number, params in enumerate(self._params):
            self._stack.enter_context(installed(RaftBackend(params), params.alias))
            for act in (self._change, self._change, self._take_turns):
                self._threads.append(threading.Thread(target=self._work, args=(act, number)))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._stack.close()

    # --- what a test commands -----------------------------------------------------------------------------------

    def begin_episode(self) -> None:
        """From now on other refs are at work."""
        self._episode += 1

    def wait_for_more(self, more: int, *members: int) -> None:
        """Until that much more was acknowledged to each of these members, by default to all together."""
        before = list(self._done)

        def is_enough() -> bool:
            assert not self._failures, self._failures
            grown = [now - then for now, then in zip(self._done, before, strict=True)]
            return all(grown[member] >= more for member in members) if members else sum(grown) >= more

        wait_until(is_enough, f"{more} more acknowledged to {members or 'all'}: {self._done}", PATIENCE)

    def stop_and_check(self) -> None:
        """Ends the work, reads all that was written, and has all of it judged."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self._failures, self._failures
        using = self._params[0].alias
        for name in sorted({operation.key for operation in self._recorder.history()}):
            with self._recorder.call("last", "read", key=name) as call:
                call.result = DRef[Any](name, None, using=using).get()
        result = check(Ref(), self._recorder.history())
        assert result.ok, result.explanation
        assert self._passages, "nobody was ever in the lock"
        assert not faults(self._passages)

    # --- threads ------------------------------------------------------------------------------------------------

    def _work(self, act: Any, number: int) -> None:
        seed = random.Random(f"{act.__name__} {number} {threading.get_ident()}")
        try:
            for turn in itertools.count():
                if self._stopping.is_set():
                    return
                with suppress(DRefError):
                    act(number, f"{threading.get_ident()}", f"{seed.random()} {turn}")
        except BaseException as error:
            self._failures.append(error)
            raise

    def _change(self, number: int, client: str, seed: str) -> None:
        names = [f"{self._name}-{self._episode}-{key}" for key in range(KEYS)]
        play(self._recorder, client, names, 1, seed, self._params[number].alias)
        self._done[number] += 1

    def _take_turns(self, number: int, client: str, seed: str) -> None:
        guard = lock(self._name, ttl=TTL, timeout=LONGEST_TURN, using=self._params[number].alias)
        held = guard.acquire()
        entered = time.monotonic()
        held.lost.wait(random.Random(seed).uniform(0, LONGEST_TURN))
        with suppress(DRefError):
            held.check()
            left = time.monotonic()
            if held.remaining() > 0:
                self._passages.append(Passage(held.token, entered, left))
        guard.release(held)


def client_options(cluster: Cluster, places: Sequence[str]) -> Mapping[str, Any]:
    return {**cluster.options(0, ROLE="client"), "NODES": list(places)}
