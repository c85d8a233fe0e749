"""Who is outside of a transaction, and what goes to the back end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from dref_django.backends import Backend
from dref_django.protocol import MUTATIONS

R = TypeVar("R")


def elsewhere(function: Callable[..., R], *args: Any) -> R:
    """Calls it as another writer or reader does: in a thread of its own, which is in no transaction."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


class Calls:
    """What goes to a back end."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[list[Any]] = []
        send = backend.send

        def recording(commands: Any, now: int | None, timeout: float) -> Any:
            self.sent.append(list(commands))
            return send(commands, now, timeout)

        monkeypatch.setattr(backend, "send", recording)

    @property
    def changing(self) -> list[list[Any]]:
        return [batch for batch in self.sent if any(isinstance(command, MUTATIONS) for command in batch)]
