"""The truth lives in an embedded Raft cluster: the project's own processes keep it, on one host or on several.

A process joins at the first use of the back end: it hosts its machine's node, or is a client of the process that does
(see `attachment.py`). Writes are linearizable and durable on a majority before they are acknowledged, reads are
linearizable, and both are carried out by the leader. All aliases of a process with one `DATA_DIR` share its node.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dref_django.backends.base import Backend, Params, Sink
from dref_django.backends.delivery import NotSent
from dref_django.exceptions import Unavailable
from dref_django.protocol import Command, Reply

from . import attachment, diagnosis, gauges
from .caller import Call
from .feeds import RaftFeed
from .options import read_options
from .returns import returns
from .wire import decode_replies

if TYPE_CHECKING:
    from django.core.checks import CheckMessage


class RaftBackend(Backend):
    """Options: see `options.py` and `docs/raft.md`."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.options = read_options(params)
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._attachment: attachment.Attachment | None = None

    def attach(self) -> attachment.Attachment:
        """This process's part in the cluster, made at the first use. Returns at once."""
        if self._pid != os.getpid():
            self.after_fork()
        found = self._attachment
        if found is None:
            with self._mutex:
                found = self._attachment = self._attachment or attachment.acquire(self.options)
        return found

    def send(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        caller, call = self._submit(commands, now, timeout)
        try:
            return decode_replies(call.future.result(timeout))
        except concurrent.futures.TimeoutError:
            raise caller.give_up(call) from self._trouble()

    async def asend(self, commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
        caller, call = self._submit(commands, now, timeout)
        try:
            async with asyncio.timeout(timeout):
                return decode_replies(await returns().wait(call.future))
        except TimeoutError:
            raise caller.give_up(call) from self._trouble()
        except asyncio.CancelledError:
            caller.give_up(call)
            raise

    def _submit(self, commands: Sequence[Command], now: int | None, timeout: float) -> tuple[attachment.Caller, Call]:
        caller = self.attach().caller
        call = Call(self.params.key_prefix, commands, now, time.monotonic() + timeout)
        caller.submit(call)
        return caller, call

    def _trouble(self) -> NotSent:
        found = self._attachment
        return NotSent(found.trouble if found is not None and found.trouble else "no leader answered in time")

    def feed(self, sink: Sink) -> RaftFeed:
        return RaftFeed(self.attach, self.params.key_prefix, self.node_id(), sink)

    def warm_up(self) -> None:
        self.attach()

    def close(self) -> None:
        if self._pid != os.getpid():
            self.after_fork()
        with self._mutex:
            found, self._attachment = self._attachment, None
        if found is not None:
            attachment.release(found)

    def after_fork(self) -> None:
        self._start_anew()

    def check(self) -> list[CheckMessage]:
        return diagnosis.check(self)

    def facts(self) -> dict[str, Any]:
        return diagnosis.facts(self)

    def gauges(self) -> Mapping[str, float]:
        found = self._attachment
        return {} if found is None or self._pid != os.getpid() else gauges.gauges(found)

    def unreachable(self, where: str, error: BaseException) -> Unavailable:
        return Unavailable(
            f"DREF_BACKENDS[{self.params.alias!r}]: the Raft cluster does not answer: {error}. Nothing was changed. A "
            "majority of its voters has to run and to reach each other; `manage.py dref cluster` shows them."
        )
