"""Who hears of every batch that a back end executes: metrics, tracing. Nobody, unless they are turned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dref_django.protocol import Command, Reply

from .base import Backend


class Observer(Protocol):
    """Called in the thread or task that executes. Must not block, and must not raise."""

    def began(self, backend: Backend, commands: Sequence[Command]) -> Any:
        """A batch is about to be sent; what is returned comes back with its end."""

    def ended(self, mark: Any, replies: Sequence[Reply] | None, error: BaseException | None) -> None:
        """It is answered, or (then `replies` is None) has failed, all that was tried again included."""


class _Several:
    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = tuple(observers)

    def began(self, backend: Backend, commands: Sequence[Command]) -> Any:
        return [observer.began(backend, commands) for observer in self.observers]

    def ended(self, mark: Any, replies: Sequence[Reply] | None, error: BaseException | None) -> None:
        for observer, own in zip(self.observers, mark, strict=True):
            observer.ended(own, replies, error)


_observers: list[Observer] = []


def add(observer: Observer) -> None:
    """From now on `observer` hears of every batch of every back end; once, however often it is added."""
    if observer not in _observers:
        _observers.append(observer)
        _install()


def remove(observer: Observer) -> None:
    if observer in _observers:
        _observers.remove(observer)
        _install()


def _install() -> None:
    Backend.observer = None if not _observers else _observers[0] if len(_observers) == 1 else _Several(_observers)


def operation(commands: Sequence[Command]) -> str:
    """What a batch does, in one word of few: the kind of its commands, "batch" when there are several kinds."""
    kinds = {type(command).__name__ for command in commands}
    return kinds.pop().lower() if len(kinds) == 1 else "batch"
