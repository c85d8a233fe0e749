"""What hosting the machine's node takes: its database, its driver, and a door for the other processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .calls import Answered, Question
from .core import Config, Entry, HardState, Members, Raft, Snapshot, bootstrap
from .disk import Disk
from .driver import Driver
from .feeds import Fanout, Tap
from .machine import Machine
from .node import ELECTION_TICKS, Node
from .options import Options
from .storage import Storage

DATABASE = "node.sqlite3"
SOCKET = "node.sock"


class Loaded(NamedTuple):
    storage: Storage
    hard_state: HardState
    snapshot: Snapshot | None
    entries: list[Entry]
    machine: Machine


class Host:
    """As a `calls.Gate`, and for taps, of the process that it lives in. All on the loop of its attachment."""

    def __init__(self, options: Options, node: Node) -> None:
        self.options = options
        self.node = node
        self._fanout: Fanout = node.driver.fanout

    @classmethod
    async def open(cls, options: Options) -> Host:
        disk = Disk("dref-raft-disk")
        loaded = await disk.run(_load, options)
        raft = Raft(
            Config(loaded.storage.node_id, election_ticks=ELECTION_TICKS),
            hard_state=loaded.hard_state,
            snapshot=loaded.snapshot,
            entries=loaded.entries,
            random=random.Random(),  # noqa: S311 -- spreads elections, keeps no secret
        )
        node = Node(Driver(raft, loaded.storage, disk, loaded.machine), lambda to, frame: False)
        return cls(options, node)

    async def run(self) -> None:
        """Until something breaks."""
        await self.node.run()

    async def leave(self) -> None:
        """Hands over what others can take over, while the node still runs."""
        await self.node.hand_over()

    async def close(self) -> None:
        await self.node.driver.close()

    # --- for this process ---------------------------------------------------------------------------------------

    def ask(self, question: Question, answered: Answered) -> None:
        self.node.ask(question, answered)

    def add_tap(self, tap: Tap) -> None:
        self._fanout.add(tap)

    def remove_tap(self, tap: Tap) -> None:
        self._fanout.remove(tap)

    def want(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str], done: Callable[[], None]) -> None:
        """The tap itself knows."""
        done()

    def drop(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str]) -> None:
        """The tap itself knows."""


def _load(options: Options) -> Loaded:
    storage = Storage.open(options.data_dir / DATABASE, options.cluster)
    snapshot, entries = storage.snapshot(), storage.entries()
    hard_state = storage.hard_state
    if hard_state == HardState() and not entries and snapshot is None:
        hard_state, founding = bootstrap(Members(frozenset({storage.node_id})))
        storage.save(hard_state, None, founding, None)
        entries = list(founding)
    machine = Machine() if snapshot is None else Machine.restore(snapshot.data)
    return Loaded(storage, hard_state, snapshot, entries, machine)
