"""What hosting the machine's node takes: its database, its driver, and a door for the other processes.

A process of this machine that dies without a word, a client or the last host, is known to have died, and its session is
closed: what it held is free at once, not after its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable

from .calls import Answer, Answered, Ask, Gate, Question
from .core import Config, HardState, Members, Raft, bootstrap
from .disk import Disk
from .driver import Driver
from .feeds import Tap
from .guests import Guest
from .lock import HostLock, socket_path
from .machine import Machine
from .network import NODE, Network
from .node import ELECTION_TICKS, Node
from .options import Options
from .peers import Peer
from .storage import Storage
from .transport import Acceptor, Channel

logger = logging.getLogger("dref_django")

DATABASE = "node.sqlite3"
PAUSE = 0.1
"""Seconds until a session is closed again when nobody leads."""


class Host:
    """As a `calls.Gate`, and for taps, of the process that it lives in. All on the loop of its attachment."""

    def __init__(self, options: Options, lock: HostLock, disk: Disk, storage: Storage) -> None:
        self.options = options
        self._lock = lock
        self._disk = disk
        self._storage = storage
        self._network = Network(options, storage.node_id, self._serve) if not options.is_alone else None
        self._door = Acceptor(options.secrets, lambda: {"node": storage.node_id, "role": NODE}, self._serve)
        self._node: Node | None = None

    @classmethod
    async def open(cls, options: Options, lock: HostLock) -> Host:
        """Raises `StorageError`."""
        disk = Disk("dref-raft-disk")
        storage = await disk.run(Storage.open, options.data_dir / DATABASE, options.cluster)
        try:
            return cls(options, lock, disk, storage)
        except BaseException:
            storage.close()
            raise

    async def run(self, ready: Callable[[], None], report: Callable[[str], None]) -> None:
        """Until something breaks. Calls `ready` when there is a node, `report` with what is waited for until then."""
        if self._network is not None:
            await self._network.open()
        founded = _is_empty(self._storage) and await self._begin(report)
        self._node = node = await self._start(founded)
        await self._door.listen_unix(socket_path(self.options.data_dir))
        ready()
        settling = asyncio.ensure_future(self._settle())
        try:
            await node.run()
        finally:
            settling.cancel()

    async def _begin(self, report: Callable[[str], None]) -> bool:
        """Whether this node is a founder."""
        founders = Members(frozenset({self._storage.node_id}))
        if self._network is not None:
            founders = await self._network.found(self._storage, self._disk, report)
        if founders.voters:
            hard_state, entries = bootstrap(founders)
            await self._disk.run(self._storage.save, hard_state, None, entries, None)
        return bool(founders.voters)

    async def _start(self, founded: bool) -> Node:
        storage = self._storage
        snapshot = storage.snapshot()
        machine = Machine() if snapshot is None else await self._disk.run(Machine.restore, snapshot.data)
        raft = Raft(
            Config(storage.node_id, election_ticks=ELECTION_TICKS),
            hard_state=storage.hard_state,
            snapshot=snapshot,
            entries=storage.entries(),
            random=random.Random(),  # noqa: S311 -- spreads elections, keeps no secret
        )
        return Node(Driver(raft, storage, self._disk, machine), self._network, self.options, founded=founded)

    async def _serve(self, channel: Channel) -> None:
        if self._node is None:
            return
        guest = Guest(channel, self._node, self._node.driver.fanout)
        with contextlib.closing(Peer.behind(channel.raw)) as peer:
            try:
                await guest.run()
            except (ValueError, TypeError) as error:
                logger.warning("dref: the connection to a client is closed, as it said nonsense: %s", error)
            if guest.sessions and await peer.has_ended():
                for session in guest.sessions:
                    await close_session(self, session)

    async def _settle(self) -> None:
        for session in sorted(self._lock.left):
            await close_session(self, session)
            self._lock.settle(session)

    async def leave(self) -> None:
        """Hands over what others can take over, while the node still runs."""
        if self._node is not None:
            await self._node.hand_over()

    async def close(self) -> None:
        await self._door.close()
        socket_path(self.options.data_dir).unlink(missing_ok=True)
        if self._network is not None:
            await self._network.close()
        if self._node is not None:
            await self._node.driver.close()
        else:
            await self._disk.run(self._storage.close)
            self._disk.close()

    # --- for this process ---------------------------------------------------------------------------------------

    def note_session(self, session: int) -> None:
        """That of this process, for whoever hosts after it."""
        self._lock.note(session)

    def ask(self, question: Question, answered: Answered) -> None:
        self._running().ask(question, answered)

    def add_tap(self, tap: Tap) -> None:
        self._running().driver.fanout.add(tap)

    def remove_tap(self, tap: Tap) -> None:
        self._running().driver.fanout.remove(tap)

    def want(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str], done: Callable[[], None]) -> None:
        """The tap itself knows."""
        done()

    def drop(self, tap: Tap, names: Iterable[str], prefixes: Iterable[str]) -> None:
        """The tap itself knows."""

    def _running(self) -> Node:
        if self._node is None:
            raise RuntimeError("there is no node yet")
        return self._node


async def close_session(gate: Gate, session: int) -> None:
    """Of a process that has ended, for certain. In vain only if the gate ends, too."""
    while True:
        if await _answer(gate, Question(Ask.CLOSE, (session,))) not in (Answer.LATER, Answer.LOST):
            return
        await asyncio.sleep(PAUSE)


async def _answer(gate: Gate, question: Question) -> Answer:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answered(answer: Answer, body: bytes) -> None:
        if not future.done():
            future.set_result(answer)

    gate.ask(question, answered)
    return await future


def _is_empty(storage: Storage) -> bool:
    return storage.hard_state == HardState() and not storage.last_index and storage.snapshot() is None
