"""What every part of the suite stands on: a back end, two ways to call it, names that nobody else uses."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pytest

from dref_django.backends import Backend
from dref_django.naming import GROUP_SEPARATOR
from dref_django.protocol import Command, Data, LeaseInfo, Read, Reply, Row, Scan, ScanLeases

from .listener import Listener

SECOND: Final = 1_000_000
NOW: Final = time.time_ns() // 1000 + 86_400 * SECOND
"""Where most tests begin: a day ahead, so that garbage collection by the server's clock touches nothing of theirs."""

_numbers = itertools.count(1)


class Client:
    """Calls a back end, in the caller's thread or on an event loop of its own."""

    def __init__(self, backend: Backend, runner: asyncio.Runner | None) -> None:
        self.backend = backend
        self._runner = runner

    def batch(self, commands: Sequence[Command], *, now: int | None = NOW) -> list[Reply]:
        if self._runner is None:
            return self.backend.execute(commands, now=now)
        return self._runner.run(self.backend.aexecute(commands, now=now))

    def __call__(self, command: Command, *, now: int | None = NOW) -> Reply:
        (reply,) = self.batch([command], now=now)
        return reply

    def data(self, name: str, *, now: int | None = NOW) -> Data | None:
        return self(Read(name), now=now).data

    def scan(self, prefix: str, *, limit: int = 100, values: bool = False, now: int | None = NOW) -> list[Row]:
        """All pages, one after the other."""
        rows: list[Row] = []
        after = ""
        while True:
            reply = self(Scan(prefix, after, limit, values), now=now)
            assert len(reply.page) <= limit
            rows += [row for row in reply.page if isinstance(row, Row)]
            if not reply.cursor:
                return rows
            assert reply.cursor > after, "a cursor must move on"
            after = reply.cursor

    def scan_leases(self, prefix: str, *, limit: int = 100, now: int | None = NOW) -> list[LeaseInfo]:
        rows: list[LeaseInfo] = []
        after = ""
        while True:
            reply = self(ScanLeases(prefix, after, limit), now=now)
            assert len(reply.page) <= limit
            rows += [row for row in reply.page if isinstance(row, LeaseInfo)]
            if not reply.cursor:
                return rows
            assert reply.cursor > after, "a cursor must move on"
            after = reply.cursor


@contextmanager
def listening(backend: Backend) -> Iterator[Listener]:
    """A feed of the back end that is up, and what it delivers."""
    listener = Listener(backend)
    try:
        listener.wait_until_up()
        yield listener
    finally:
        listener.close()


class Contract:
    """The fixtures of the suite, but for `backend`, which who uses the suite gives."""

    @pytest.fixture
    def peer(self, backend: Backend) -> Backend:
        """The same truth through another object, as another process has it. By default the back end itself."""
        return backend

    @pytest.fixture(params=["sync", "async"])
    def client(self, request: pytest.FixtureRequest, backend: Backend) -> Iterator[Client]:
        """The back end, once through `execute` and once through `aexecute`."""
        if request.param == "sync":
            yield Client(backend, None)
        else:
            with asyncio.Runner() as runner:
                yield Client(backend, runner)

    @pytest.fixture
    def listener(self, backend: Backend) -> Iterator[Listener]:
        with listening(backend) as listener:
            yield listener

    @pytest.fixture
    def name(self) -> str:
        """A name that nobody else uses."""
        return f"conformance.{secrets.token_hex(4)}.{next(_numbers)}"

    @pytest.fixture
    def names(self, name: str) -> list[str]:
        """Three names of one group: they may be changed in one batch on every back end."""
        return [f"{name}{GROUP_SEPARATOR}{letter}" for letter in "abc"]
