"""Clients: one call at a time, sent again under the same number when its answer does not come, all of it recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dref_django.backends.raft.copies import PATIENCE as COPIES_PATIENCE
from tests.linearizability import Operation

from .host import LOST
from .machine import Command

if TYPE_CHECKING:
    from .world import World

IMPATIENT = 0.1
"""Calls given up after a few attempts: the outcome is unknown, and the client goes on under another name."""
ATTEMPTS = 2
PATIENCE = 60.0
"""Time before a call is sent again."""
COUNTER, REGISTER = "counter", "register"


class Client:
    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.history: list[Operation] = []
        self.acknowledged: list[Command] = []
        self.is_stopped = False
        self._world = world
        self._reads = world.random.choice((0.1, 0.5, 0.9))
        self._target = ""
        self._session = 0
        self._number = 0
        self._attempts = 0
        self._most_attempts = 0
        self._called = 0
        self._of_node = False
        self._open: Command | None = None

    def start(self) -> None:
        """Begin the next call soon."""
        self._world.after(self._world.random.uniform(0, 2 * self._world.scenario.think), None, self._call)

    @property
    def is_busy(self) -> bool:
        return self._open is not None

    def _call(self) -> None:
        if self.is_stopped:
            return
        world, random = self._world, self._world.random
        self._number += 1
        self._of_node = False
        client = f"{self.name}.{self._session}"
        roll = random.random()
        if random.random() < self._reads:
            self._of_node = random.random() < world.scenario.copies
            # Any node answers a read, and most of all those should be asked that take themselves for leaders.
            self._target = random.choice(self._preferred() or [*world.hosts])
            command = Command(client, self._number, "read", random.choice((COUNTER, REGISTER)), ())
        elif roll < 0.6:
            command = Command(client, self._number, "add", COUNTER, (1 + random.randrange(9),))
        elif roll < 0.85:
            command = Command(client, self._number, "write", REGISTER, (world.count(),))
        else:
            command = Command(client, self._number, "cas", REGISTER, (world.last_written, world.count()))
        if command.op in ("write", "cas"):
            world.last_written = command.args[-1]
        self._called, self._attempts, self._open = world.count(), 0, command
        self._most_attempts = ATTEMPTS if random.random() < IMPATIENT else 1000
        self._send(command)

    def _preferred(self) -> list[str]:
        """Nodes that take themselves for leaders; for a copy those that follow one."""
        hosts = self._world.hosts.values()
        return [host.name for host in hosts if host.leader and host.leads is not self._of_node]

    def _send(self, command: Command) -> None:
        """One attempt. Its answer may overtake that of an earlier attempt: the first one counts."""
        if self._open is not command:
            return
        if self._attempts == self._most_attempts:
            self._end(command, LOST)
            return
        self._attempts += 1
        world = self._world
        host = world.hosts[self._target if self._target in world.hosts else world.random.choice(list(world.hosts))]
        attempt, of_node = self._attempts, self._of_node

        def answer(result: Any) -> None:
            world.after(world.random.uniform(0, 5), None, lambda: self._on_answer(command, attempt, result))

        def ask() -> None:
            if host.paused_until > world.now:
                world.after(host.paused_until - world.now, None, ask)
            elif command.op == "read":
                (host.read_as_node if of_node else host.read)(command.key, answer)
            else:
                host.write(command, answer)

        patience = max(PATIENCE, 1.2 * COPIES_PATIENCE * world.scenario.units_per_second) if of_node else PATIENCE
        world.after(patience, None, lambda: self._on_silence(command, attempt))
        ask()

    def _on_answer(self, command: Command, attempt: int, result: Any) -> None:
        if self._open is not command:
            return
        if result is not LOST:
            self._end(command, result)
        elif attempt == self._attempts:
            self._elsewhere(command)

    def _on_silence(self, command: Command, attempt: int) -> None:
        if self._open is command and attempt == self._attempts:
            self._elsewhere(command)

    def _elsewhere(self, command: Command) -> None:
        """Mostly ask whoever seems to lead (or for a copy: to follow), sometimes anyone."""
        world = self._world
        wanted = self._preferred()
        names = wanted if wanted and world.random.random() < 0.8 else list(world.hosts)
        self._target = world.random.choice(names)
        world.after(world.random.uniform(0, 20), None, lambda: self._send(command))

    def _end(self, command: Command, result: Any) -> None:
        returned = None if result is LOST else self._world.count()
        if command.op != "read" or returned:
            known = None if result is LOST else result
            self.history.append(
                Operation(command.client, command.op, command.args, known, self._called, returned, command.key)
            )
        if result is LOST:
            self._session += 1
        elif command.op != "read":
            self.acknowledged.append(command)
        self._open = None
        self.start()

    def give_up(self) -> None:
        """The run is over."""
        self.is_stopped = True
        if self._open is not None:
            self._end(self._open, LOST)
