"""The replicated state machine of the simulation: integers under keys, and what each client was answered last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from dref_django import protocol
from dref_django.backends.raft.copies import WORTH


class Command(NamedTuple):
    client: str
    number: int
    """Counts up in a client; a command that is sent again keeps its number, so that it is applied once."""
    op: str
    key: str
    args: tuple[int, ...]

    def encode(self) -> bytes:
        encoded: bytes = msgpack.packb(self)
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Command:
        client, number, op, key, args = msgpack.unpackb(data)
        return cls(client, number, op, key, tuple(args))


class Machine:
    def __init__(self, data: bytes | None = None) -> None:
        self.values: dict[str, int] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        if data:
            values, answers = msgpack.unpackb(data)
            self.values = values
            self.answers = {client: (number, answer) for client, (number, answer) in answers.items()}

    # As the real machine, where copies read it

    now = 0

    def turns(self, space: str, commands: Sequence[protocol.Command], now: int) -> bool:
        """Nothing runs out here."""
        return False

    def query(self, space: str, commands: Sequence[protocol.Command], now: int) -> list[protocol.Reply]:
        """Reads. What is there is large."""
        found = [self.values.get(command.name) for command in commands if isinstance(command, protocol.Read)]
        large = [None if value is None else b"%*d" % (WORTH, value) for value in found]
        return [protocol.Reply(protocol.Status.APPLIED, data) for data in large]

    def snapshot(self) -> bytes:
        """The same bytes on every node: what is in a dict of the same history was put there in the same order."""
        encoded: bytes = msgpack.packb([self.values, self.answers])
        return encoded

    def apply(self, command: Command) -> Any:
        number, answer = self.answers.get(command.client, (0, None))
        if command.number <= number:
            return answer
        answer = self._change(command)
        self.answers[command.client] = (command.number, answer)
        return answer

    def _change(self, command: Command) -> Any:
        key, value = command.key, self.values.get(command.key)
        match command.op:
            case "write":
                self.values[key] = command.args[0]
                return None
            case "cas":
                if value != command.args[0]:
                    return False
                self.values[key] = command.args[1]
                return True
            case "add":
                self.values[key] = (value or 0) + command.args[0]
                return self.values[key]
        raise ValueError(f"no such operation: {command.op}")
