"""The memory back end with a network between: replies take turns of the loop, and get lost when a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from dref_django.backends.base import Params
from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.backends.memory import MemoryBackend
from dref_django.protocol import Command, Reply


class ScriptedBackend(MemoryBackend):
    """`calls` are the batches that were sent."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.calls: list[Sequence[Command]] = []
        self.lose_replies: Callable[[Sequence[Command]], bool] = _never
        self.lose_requests: Callable[[Sequence[Command]], bool] = _never
        self.delays: Callable[[Sequence[Command]], threading.Event | None] = _no_delay
        """A batch for which it returns an event is applied at once; its reply waits for the event."""
        self.after_send: Callable[[Sequence[Command]], None] = lambda commands: None

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        self.calls.append(commands)
        if self.lose_requests(commands):
            raise NotSent("scripted")
        replies = super().send(commands, now, timeout)
        self.after_send(commands)
        delay = self.delays(commands)
        if delay is not None and not delay.wait(timeout):
            raise ReplyLost("scripted: too late")
        if self.lose_replies(commands):
            raise ReplyLost("scripted")
        return replies

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        await asyncio.sleep(0)
        replies = self.send(commands, now, timeout)
        await asyncio.sleep(0)
        return replies

    def sent(self, kind: type[Command]) -> int:
        """How many commands of that kind were sent."""
        return sum(isinstance(command, kind) for commands in self.calls for command in commands)


def _never(commands: Sequence[Command]) -> bool:
    return False


def _no_delay(commands: Sequence[Command]) -> threading.Event | None:
    return None


def once(kind: type[Command]) -> Callable[[Sequence[Command]], bool]:
    """True for the first batch that begins with such a command."""
    left = [True]

    def matches(commands: Sequence[Command]) -> bool:
        return isinstance(commands[0], kind) and bool(left) and left.pop()

    return matches
