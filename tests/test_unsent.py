"""What is said of a server to which nothing could be sent."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from dref_django.backends.base import Params
from dref_django.backends.delivery import NotSent
from dref_django.backends.memory import MemoryBackend
from dref_django.exceptions import Unavailable
from dref_django.protocol import Command, Read, Reply


class Refusing(MemoryBackend):
    """Refuses the first attempt with a reason. The others have less time than it takes to be refused."""

    attempts = 0

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        self.attempts += 1
        if self.attempts == 1:
            raise NotSent from ConnectionError("a certificate")
        threading.Event().wait(timeout)
        raise NotSent("no connection")


def test_reason_is_that_of_the_last_attempt_that_had_one() -> None:
    backend = Refusing(Params(timeout=0.1))
    with pytest.raises(Unavailable, match="ConnectionError: a certificate"):
        backend.execute([Read("a")])
    assert backend.attempts > 1
