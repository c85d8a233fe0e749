"""Machines, each with a node, a process that hosts it and one that is its client; and what goes wrong between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextvars import Context, copy_context
from random import Random
from typing import Any, cast

from dref_django.backends import Params
from dref_django.backends.raft.caller import Call, Caller
from dref_django.backends.raft.calls import Answer, Answered, Ask, Question
from dref_django.backends.raft.core import Config, Members, Raft, RaftError, bootstrap
from dref_django.backends.raft.disk import Disk
from dref_django.backends.raft.driver import Driver
from dref_django.backends.raft.host import close_session
from dref_django.backends.raft.machine import Machine as StateMachine
from dref_django.backends.raft.network import Network
from dref_django.backends.raft.node import ELECTION_TICKS, Node
from dref_django.backends.raft.options import read_options
from dref_django.backends.raft.storage import Storage
from dref_django.backends.raft.wire import decode_replies
from dref_django.protocol import Command, Reply

from .storage import MemoryStorage, VirtualDisk
from .timeline import MACHINERY, RATE, Clock, Machinery, VirtualLoop

SPACE = "space"
LOCAL = 0.0002
"""Seconds from a process to its machine's node."""
WIRE = 0.0005
SYNC = 0.002
DRIFT = 0.03
"""How much faster or slower than right a clock goes, at most."""
TIMEOUT = 3.0
"""Seconds that an operation takes, at most."""


class Wire:
    """What one node says to another, in order. `is_cut`: the connection is closed; `is_mute`: what is said is lost."""

    def __init__(self, stage: Stage) -> None:
        self.is_cut = self.is_mute = False
        self._stage = stage
        self._last = 0.0

    def carry(self, delay: float, context: Context, deliver: Callable[[], None]) -> bool:
        if self.is_cut:
            return False
        loop = self._stage.loop
        self._last = max(self._last + 1e-7, loop.time() + self._stage.random.expovariate(1 / delay))
        if not self.is_mute:
            loop.call_at(self._last, lambda: None if self.is_cut else deliver(), context=context)
        return True


class Wires:
    """As `Network`, of one life of a node."""

    def __init__(self, machine: Machine) -> None:
        self.hear: Callable[[str, bytes, Callable[[bytes], object]], None] = lambda *_: None
        self.is_alive = True
        self._machine = machine
        self._stage = machine.stage

    def send(self, to: str, frame: bytes) -> bool:
        sender, receiver = self._machine.name, self._stage.machines.get(to)
        theirs = None if receiver is None else receiver.wires
        if receiver is None or theirs is None or not self.is_alive:
            return False

        def back(answer: bytes) -> object:
            return theirs.is_alive and self._stage.wires[to, sender].carry(
                WIRE, self._machine.context, lambda: self.hear(to, answer, lambda _: None) if self.is_alive else None
            )

        def deliver() -> None:
            if theirs.is_alive:
                theirs.hear(sender, frame, back)

        return self._stage.wires[sender, to].carry(WIRE, receiver.context, deliver)

    def is_gone(self, node: str) -> bool:
        return self._stage.machines[node].wires is None

    def reachable(self) -> set[str]:
        me, stage = self._machine.name, self._stage
        return {name for name in stage.machines if name != me and not stage.wires[me, name].is_cut}

    def insisting(self) -> set[str]:
        return set()

    def forget_all_but(self, members: Collection[str]) -> None:
        pass


class Way:
    """From a process to the node of its machine; what is under way when that ends is lost."""

    def __init__(self, process: Process, node: Node) -> None:
        self._process = process
        self._node = node
        self._asked: dict[int, Answered] = {}
        self._number = 0
        self._last = 0.0
        self._is_open = True

    def ask(self, question: Question, answered: Answered) -> None:
        if not self._is_open:
            answered(Answer.LATER, b"")
            return
        self._number += 1
        number = self._number
        self._asked[number] = answered
        self._later(lambda: self._node.ask(question, lambda *said: self._later(lambda: self._answer(number, *said))))

    def _later(self, action: Callable[[], None]) -> None:
        loop = self._process.stage.loop
        self._last = max(self._last + 1e-7, loop.time() + LOCAL)
        loop.call_at(self._last, lambda: action() if self._is_open else None, context=self._process.machine.context)

    def _answer(self, number: int, answer: Answer, body: bytes) -> None:
        self._asked.pop(number)(answer, body)

    def close(self) -> None:
        self._is_open = False
        asked, self._asked = self._asked, {}
        for answered in asked.values():
            answered(Answer.LOST, b"")


class Process:
    def __init__(self, machine: Machine, number: int) -> None:
        self.name = f"p{number}"
        self.machine = machine
        self.stage = machine.stage
        self.caller = Caller(self.stage.loop)
        self._way: Way | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.leave: list[Callable[[], None]] = []
        """Called when it dies."""

    def start(self, action: Coroutine[Any, Any, None]) -> None:
        task = self.stage.loop.create_task(action, context=self.machine.context.copy())
        self._tasks.append(task)
        task.add_done_callback(self.stage.note_failure)

    def attach(self, node: Node | None) -> None:
        if self._way is not None:
            self._way.close()
        self._way = None if node is None else Way(self, node)
        self.caller.attach(self._way)

    async def ask(self, *commands: Command) -> list[Reply] | None:
        """None: it may have been done, or not, as the time is over. Any other reason is a fault."""
        call = Call(SPACE, commands, None, self.stage.clock.monotonic() + TIMEOUT)
        self.caller.submit(call)
        try:
            async with asyncio.timeout(TIMEOUT):
                return decode_replies(await asyncio.wrap_future(call.future))
        except TimeoutError:
            self.caller.give_up(call)
            return None

    def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        for action in self.leave:
            action()
        self.attach(None)


class Machine:
    def __init__(self, stage: Stage, name: str, founders: frozenset[str]) -> None:
        self.stage = stage
        self.name = name
        self.context = copy_context()
        self.machinery = Machinery()
        self.context.run(RATE.set, stage.random.uniform(1 - DRIFT, 1 + DRIFT))
        self.context.run(MACHINERY.set, self.machinery)
        self.wires: Wires | None = None
        self.node: Node | None = None
        self.disk = VirtualDisk(stage.random, SYNC)
        self._lost: list[VirtualDisk] = []
        self.host: Process | None = None
        self.client: Process | None = None
        self._storage = MemoryStorage()
        hard_state, entries = bootstrap(Members(founders))
        self._storage.save(hard_state, entries=entries)
        self._left: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def processes(self) -> list[Process]:
        return [process for process in (self.host, self.client) if process is not None]

    def start(self) -> None:
        """The node, the process that hosts it, and its client if that had died."""
        if self.node is not None:
            return
        stage, storage = self.stage, self._storage
        self.disk = VirtualDisk(stage.random, SYNC)
        self.wires = Wires(self)
        snapshot = storage.snapshot()
        raft = Raft(
            Config(self.name, election_ticks=ELECTION_TICKS),
            hard_state=storage.hard_state,
            snapshot=snapshot,
            entries=storage.entries(),
            random=Random(stage.random.getrandbits(32)),
        )
        machine = StateMachine() if snapshot is None else StateMachine.restore(snapshot.data)
        stage.seen["snapshots restored"] += snapshot is not None

        async def run() -> None:
            driver = Driver(raft, cast(Storage, storage), cast(Disk, self.disk), machine)
            node = self.node = Node(driver, cast(Network, self.wires), stage.options, founded=True)
            self.host = stage.process(self)
            if self.client is None:
                self.client = stage.process(self)
            for process in self.processes:
                process.attach(node)
            for session in sorted(self._left):
                self.host.start(self._bury(node, session))
            await node.run()

        self._task = stage.loop.create_task(run(), context=self.context.copy())
        self._task.add_done_callback(stage.note_failure)

    def crash(self) -> None:
        """Of the process that hosts the node."""
        if self.node is None or self.wires is None or self._task is None or self.host is None:
            return
        self.stage.seen["crashes"] += 1
        self.go_on()
        self._left.add(self.host.caller.session)
        self.wires.is_alive = False
        self.disk.crash()
        self._lost.append(self.disk)
        self._task.cancel()
        self.node = self.wires = self._task = None
        self.host.die()
        self.host = None
        if self.client is not None:
            self.client.attach(None)

    def go_on(self) -> None:
        self.machinery.go_on(self.stage.loop)

    def kill_client(self) -> None:
        """Its end is certain, so that the node closes its session; another one starts."""
        if self.node is None or self.client is None or self.host is None:
            return
        self.stage.seen["clients killed"] += 1
        session = self.client.caller.session
        self.client.die()
        self.host.start(self._bury(self.node, session))
        self.client = self.stage.process(self)
        self.client.attach(self.node)

    async def _bury(self, node: Node, session: int) -> None:
        await close_session(node, session)
        self._left.discard(session)
        self.stage.seen["sessions closed"] += 1


class Stage:
    def __init__(self, seed: int, loop: VirtualLoop, clock: Clock, nodes: int, live: Callable[[Process], None]) -> None:
        """`live` is given each process when it starts, on the loop."""
        self.random = Random(seed)
        self.loop = loop
        self.clock = clock
        self.seen: Counter[str] = Counter()
        """What happened."""
        options = {"NODES": ["127.0.0.1"], "DATA_DIR": "nowhere", "SECRET": "rehearsal-rehearsal"}
        self.options = read_options(Params(options=options), {})
        self._live = live
        self._numbers = 0
        self._failures: list[BaseException] = []
        names = [f"n{number}" for number in range(nodes)]
        self.wires = {(one, other): Wire(self) for one in names for other in names if one != other}
        self.machines = {name: Machine(self, name, frozenset(names)) for name in names}

    def process(self, machine: Machine) -> Process:
        self._numbers += 1
        process = Process(machine, self._numbers)
        self._live(process)
        return process

    def note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    def check(self) -> None:
        """Raises what a node or a process raised."""
        for error in self._failures:
            raise error

    # --- a run --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for machine in self.machines.values():
            machine.start()

    async def suffer(self, seconds: float) -> None:
        end = self.loop.time() + seconds
        while self.loop.time() < end:
            await asyncio.sleep(self.random.uniform(0.2, 3.0))
            self.random.choice(FAULTS)(self)
            self.check()

    async def rest(self, seconds: float) -> None:
        """Everything works again."""
        for wire in self.wires.values():
            wire.is_cut = wire.is_mute = False
        for machine in self.machines.values():
            machine.disk.delay = SYNC
            machine.go_on()
            machine.start()
        await asyncio.sleep(seconds)
        self.check()
        nodes = [machine.node for machine in self.machines.values() if machine.node is not None]
        self.seen["elections"] = max(node.driver.raft.status().term for node in nodes)

    # --- what goes wrong ----------------------------------------------------------------------------------------

    def _victim(self) -> Machine:
        """The leader, most of the time."""
        machines = list(self.machines.values())
        leaders = [it for it in machines if it.node is not None and it.node.driver.leader == it.name]
        return self.random.choice(leaders if leaders and self.random.random() < 0.6 else machines)

    def _crash(self) -> None:
        victim = self._victim()
        victim.crash()
        self.loop.call_later(self.random.uniform(0.1, 4.0), victim.start)

    def _crash_all(self) -> None:
        for machine in self.machines.values():
            machine.crash()
            self.loop.call_later(self.random.uniform(0.1, 2.0), machine.start)

    def _kill_client(self) -> None:
        self._victim().kill_client()

    def _cut(self) -> None:
        """One machine, from all others, in both directions or in one."""
        name, kind = self._victim().name, self.random.choice(("cut", "deaf", "mute"))
        self.seen["cuts"] += 1
        hit = [
            wire
            for (sender, to), wire in self.wires.items()
            if name in (sender, to) and (kind == "cut" or name == (to if kind == "deaf" else sender))
        ]
        attribute = "is_cut" if kind == "cut" else "is_mute"

        def set_all(value: bool) -> None:
            for wire in hit:
                setattr(wire, attribute, value)

        set_all(True)
        self.loop.call_later(self.random.uniform(0.5, 8.0), set_all, False)

    def _stall(self) -> None:
        """A disk that takes a tenth of a second for each call."""
        disk = self._victim().disk
        disk.delay = 0.1
        self.loop.call_later(self.random.uniform(0.5, 4.0), lambda: setattr(disk, "delay", SYNC))

    def _pause(self) -> None:
        """One machine stands still, and does not know of it afterwards."""
        victim = self._victim()
        self.seen["pauses"] += 1
        victim.machinery.is_still = True
        self.loop.call_later(self.random.uniform(0.2, 6.0), victim.go_on)

    def _remove(self) -> None:
        """A member that is alive: the leader takes it in again, first as a learner."""
        leader, victim = self._victim().node, self.random.choice([*self.machines])

        def answered(answer: Answer, body: bytes) -> None:
            self.seen["members removed"] += answer is Answer.DONE

        if leader is not None and len(self.machines) > 1:
            leader.ask(Question(Ask.CHANGE, ("remove", victim)), answered)

    def _transfer(self) -> None:
        node = self._victim().node
        if node is not None:
            with contextlib.suppress(RaftError):
                node.driver.transfer(None)
                self.seen["transfers"] += 1


FAULTS: Sequence[Callable[[Stage], None]] = (
    Stage._crash,
    Stage._crash,
    Stage._crash_all,
    Stage._kill_client,
    Stage._kill_client,
    Stage._cut,
    Stage._cut,
    Stage._stall,
    Stage._pause,
    Stage._pause,
    Stage._transfer,
    Stage._remove,
)
