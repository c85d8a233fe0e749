"""One simulated machine: a real core, driven as the contract of `Ready` says, on a disk that can lose its tail."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from dref_django.backends.raft import calls
from dref_django.backends.raft.core import Config, EntryKind, Message, NotLeader, Raft, Ready, Role
from dref_django.backends.raft.wire import decode_commands, encode_replies

from .disk import Disk
from .machine import Command, Machine
from .questions import Frame, Questions

if TYPE_CHECKING:
    from .world import World

Answer = Callable[[Any], None]
"""Called once with what the machine answered, or LOST."""


class Lost:
    """The outcome is unknown, or nothing was done; the same number may be sent again."""


LOST = Lost()


class Waiter(NamedTuple):
    term: int
    answer: Answer


class Read(NamedTuple):
    look: Callable[[], None]
    fail: Callable[[], None]


class Host:
    def __init__(self, world: World, name: str, disk: Disk) -> None:
        self.name = name
        self.disk = disk
        self.raft: Raft | None = None
        """None: not running."""
        self.machine = Machine()
        self.applied = 0
        self.life = 0
        """Counts restarts: what was scheduled for an earlier life does not happen."""
        self.tick_length = 8 * world.random.uniform(1, world.scenario.drift)
        self.disk_slowness = 1.0
        self.leads = False
        """As far as this node has made known."""
        self.leader = ""
        self.installs = 0
        """Snapshots received."""
        self.units_per_second = world.scenario.units_per_second
        self.paused_until = 0.0
        self._world = world
        self._inflight: Ready | None = None
        self._writes: dict[int, Waiter] = {}
        self._reads: dict[bytes, Read] = {}
        self._later: list[tuple[int, Callable[[], None]]] = []
        self._questions = Questions(world, self)

    def start(self) -> None:
        contents = self.disk.durable
        self.life += 1
        self.machine = Machine(contents.snapshot.data if contents.snapshot else None)
        self.applied = contents.snapshot.index if contents.snapshot else 0
        self._questions = Questions(self._world, self)
        self.raft = Raft(
            self._config(),
            hard_state=contents.hard_state,
            snapshot=contents.snapshot,
            entries=contents.entries,
            random=Random(self._world.random.getrandbits(32)),
        )
        self._world.after(self._world.random.uniform(0, self.tick_length), self, self._tick)

    def restart(self) -> None:
        if self.raft is None:
            self.start()

    def _config(self) -> Config:
        """Small numbers, so that every limit is met."""
        scenario = self._world.scenario
        return Config(
            self.name,
            election_ticks=5,
            heartbeat_ticks=1,
            max_inflight=scenario.max_inflight,
            max_batch_bytes=scenario.max_batch_bytes,
            chunk_bytes=40,
            chunk_window=2,
        )

    def crash(self) -> bool:
        """Returns whether a write was torn apart."""
        writes, reads = list(self._writes.values()), list(self._reads.values())
        self.raft = self._inflight = None
        self.leads, self.leader = False, ""
        self.paused_until = 0.0
        self._writes, self._reads, self._later = {}, {}, []
        for write in writes:
            write.answer(LOST)
        for read in reads:
            read.fail()
        return self.disk.crash(self._world.random)

    @property
    def is_running(self) -> bool:
        return self.raft is not None

    @property
    def is_writing(self) -> bool:
        return self._inflight is not None

    # Input

    def _tick(self) -> None:
        self._world.after(self.tick_length, self, self._tick)
        self.jump(1)

    def jump(self, ticks: int) -> None:
        if self.raft:
            for _ in range(ticks):
                self.raft.tick()
            self._pump()

    def receive(self, message: Message | Frame) -> None:
        if self.raft is None:
            return
        if isinstance(message, Frame):
            self._questions.hear(message)
        else:
            self.raft.step(message)
            self._pump()

    def write(self, command: Command, answer: Answer) -> None:
        if self.raft is None:
            answer(LOST)
            return
        try:
            term, index = self.raft.propose(command.encode())
        except NotLeader:
            answer(LOST)
            return
        self._displace(index)
        self._writes[index] = Waiter(term, answer)
        self._pump()

    def _displace(self, index: int) -> None:
        """The entry that was expected there was truncated."""
        if index in self._writes:
            self._writes.pop(index).answer(LOST)

    def read(self, key: str, answer: Answer) -> None:
        """Whatever the role of this node: the core asks the leader for the index."""
        self._confirm(Read(lambda: answer(self.machine.values.get(key)), lambda: answer(LOST)))

    def read_as_node(self, key: str, answer: Answer) -> None:
        """As a node answers its clients: a follower looks at its own copy."""
        if self.raft is None:
            answer(LOST)
        else:
            self._questions.read(key, answer, lambda: answer(LOST))

    def query(self, commands: bytes, answered: calls.Answered, witness: tuple[str, int] = ("", 0)) -> None:
        """As the driver of a leader does."""

        def look() -> None:
            answered(calls.Answer.DONE, encode_replies(self.machine.query("", decode_commands(commands), 0)))

        self._confirm(Read(look, lambda: answered(calls.Answer.LATER, b"")), witness)

    def _confirm(self, read: Read, witness: tuple[str, int] = ("", 0)) -> None:
        if self.raft is None:
            read.fail()
            return
        context = str(self._world.count()).encode()
        self._reads[context] = read
        self.raft.read(context, witness)
        self._pump()

    def after(self, index: int, callback: Callable[[], None]) -> None:
        """Calls back once so much is applied."""
        self._later.append((index, callback))
        self._serve()

    def ask(self, request: Callable[[Raft], object]) -> None:
        """Anything else that the core can be asked, by whoever runs the cluster."""
        if self.raft:
            request(self.raft)
            self._pump()

    def compact(self, keep: int) -> bool:
        if self.raft is None:
            return False
        snapshot = self.raft.compact(self.raft.status().applied, self.machine.snapshot(), keep)
        if snapshot is None:
            return False
        self._world.checkers.state(self.name, snapshot)
        self.disk.compact(snapshot, keep)
        return True

    # The driver's loop

    def _pump(self) -> None:
        raft = self.raft
        while raft is not None and raft is self.raft and raft.has_ready():
            ready = raft.ready()
            world = self._world
            if ready.role is Role.LEADER and not self.leads:
                world.nemesis.elected(self)
            self.leads, self.leader = ready.role is Role.LEADER, ready.leader or ""
            self._questions.follow(self.leader, ready.term)
            world.trace(self, ready)
            world.checkers.ready(self.name, ready, self.disk.written)
            world.send(ready.early_messages)
            self.disk.save(ready)
            if ready.must_sync and (delay := world.sync_delay(self)):
                self._inflight = ready
                world.after(delay, self, self._on_synced)
                return
            self._finish(ready)
        if raft is not None and raft is self.raft and self._inflight:
            self._world.send(raft.early_messages())

    def _on_synced(self) -> None:
        ready, self._inflight = self._inflight, None
        if ready is not None:
            self._finish(ready)
            self._pump()

    def _finish(self, ready: Ready) -> None:
        world, raft = self._world, self.raft
        if raft is None:
            return
        if ready.must_sync:
            self.disk.sync()
        world.send(ready.messages)
        if ready.snapshot:
            world.checkers.state(self.name, ready.snapshot)
            self.machine, self.applied = Machine(ready.snapshot.data), ready.snapshot.index
            self.installs += 1
            for waiter in self._writes.values():
                waiter.answer(LOST)
            self._writes.clear()
        self._apply(ready)
        raft.advance(ready)
        self._later += [(each.index, self._reads.pop(each.context).look) for each in ready.reads]
        for context in ready.failed_reads:
            self._reads.pop(context).fail()
        self._serve()

    def _apply(self, ready: Ready) -> None:
        world = self._world
        for entry in ready.committed:
            if ready.role is Role.LEADER:
                world.check_durability(self, entry)
            result = None
            if entry.kind is EntryKind.COMMAND:
                result = self.machine.apply(Command.decode(entry.data))
            world.checkers.applied(self.name, self.applied, entry, result)
            self.applied = entry.index
            waiter = self._writes.pop(entry.index, None)
            if waiter:
                waiter.answer(result if waiter.term == entry.term else LOST)

    def _serve(self) -> None:
        waiting, self._later = self._later, []
        there = [callback for index, callback in waiting if index <= self.applied]
        self._later = [(index, callback) for index, callback in waiting if index > self.applied]
        for callback in there:
            callback()
