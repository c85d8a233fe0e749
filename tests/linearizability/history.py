"""Histories: what clients called, when, and what they were told.

An `Operation` spans the time from its call to its return. Times are integers on one clock: `time.monotonic_ns`
for recorded histories (comparable between the processes of one Linux host), line numbers for Jepsen logs.
An operation whose outcome is unknown has `returned=None`: it may take effect at any time after its call, or never.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. `returned` is None when its outcome is unknown; `result` means nothing then."""

    client: int | str
    op: str
    args: tuple[Any, ...] = ()
    result: Any = None
    called: int = 0
    returned: int | None = None
    key: str = ""

    def __str__(self) -> str:
        arguments = ", ".join(repr(argument) for argument in self.args)
        outcome = "unknown" if self.returned is None else repr(self.result)
        span = f"{self.called}..{'' if self.returned is None else self.returned}"
        return f"client {self.client}: {self.op}({arguments}) -> {outcome} [{span}]"


@dataclass(slots=True)
class Call:
    """A call under way; the body of the `with` stores what it was told in `result`."""

    result: Any = None


@dataclass
class Recorder:
    """Records the calls of threads and asyncio tasks of one process.

    With a `stream` each call is written out before its body runs, so that a process killed in the middle of a call
    leaves that call behind as unknown; one stream a process, put together by `load`. `rejected` names the exceptions
    that prove that nothing was applied.
    """

    stream: IO[str] | None = None
    rejected: frozenset[str] = frozenset({"Conflict", "Unavailable"})
    clock: Callable[[], int] = time.monotonic_ns
    _operations: list[Operation] = field(default_factory=list, init=False)
    _open: dict[int, Operation] = field(default_factory=dict, init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def call(self, client: int | str, op: str, args: tuple[Any, ...] = (), *, key: str = "") -> Iterator[Call]:
        """Record one call; every exception passes through to the caller.

        A rejected call is dropped. Any other exception, cancellation included, leaves the outcome unknown: that is
        right for `OutcomeUnknown`, and never condemns a correct history for the rest.
        """
        number = self._begin(client, op, args, key)
        call = Call()
        try:
            yield call
        except BaseException as error:
            names = {cls.__name__ for cls in type(error).__mro__}
            self._end(number, "rejected" if names & self.rejected else "unknown", None)
            raise
        self._end(number, "returned", call.result)

    def history(self) -> list[Operation]:
        """The calls so far; those still under way count as unknown."""
        with self._lock:
            return [*self._operations, *self._open.values()]

    def _begin(self, client: int | str, op: str, args: tuple[Any, ...], key: str) -> int:
        with self._lock:
            number = next(self._numbers)
            operation = Operation(client, op, args, called=self.clock(), key=key)
            self._open[number] = operation
            self._write(_call_line(number, operation))
        return number

    def _end(self, number: int, outcome: str, result: Any) -> None:
        returned = self.clock()
        with self._lock:
            begun = self._open.pop(number)
            ended = _ended(begun, outcome, result, returned)
            if ended is not None:
                self._operations.append(ended)
            self._write(_end_line(number, outcome, result, returned))

    def _write(self, line: str) -> None:
        if self.stream is not None:
            self.stream.write(line)
            self.stream.flush()


def _ended(begun: Operation, outcome: str, result: Any, returned: int) -> Operation | None:
    if outcome == "rejected":
        return None
    if outcome == "unknown":
        return begun
    return Operation(begun.client, begun.op, begun.args, result, begun.called, returned, begun.key)


def _call_line(number: int, operation: Operation) -> str:
    fields = {"client": operation.client, "op": operation.op, "args": operation.args, "key": operation.key}
    return json.dumps({"call": number, "at": operation.called, **fields}) + "\n"


def _end_line(number: int, outcome: str, result: Any, returned: int) -> str:
    return json.dumps({"end": number, "at": returned, "outcome": outcome, "result": result}) + "\n"


def dump(history: Iterable[Operation], path: Path) -> None:
    """Write a history in the format of a recorder's stream."""
    with path.open("w", encoding="utf-8") as stream:
        for number, operation in enumerate(history):
            stream.write(_call_line(number, operation))
            if operation.returned is not None:
                stream.write(_end_line(number, "returned", operation.result, operation.returned))


def load(*paths: Path) -> list[Operation]:
    """The merged history of the streams that several processes of one host wrote.

    A torn last line is passed over: a torn call never began, a torn end leaves its call unknown.
    """
    merged = [operation for path in paths for operation in _load_one(path)]
    return sorted(merged, key=lambda operation: operation.called)


def _load_one(path: Path) -> Iterator[Operation]:
    pending: dict[int, Operation] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        event = json.loads(line)
        if "call" in event:
            args = tuple(event["args"])
            begun = Operation(event["client"], event["op"], args, called=event["at"], key=event["key"])
            pending[event["call"]] = begun
            continue
        ended = _ended(pending.pop(event["end"]), event["outcome"], event["result"], event["at"])
        if ended is not None:
            yield ended
    yield from pending.values()


_JEPSEN_LINE = re.compile(r"INFO\s+jepsen\.util - (\d+)\s+:(invoke|ok|fail|info)\s+:(read|write|cas)\s+(.*\S)")


def parse_jepsen(text: str) -> list[Operation]:
    """Parse the log of a Jepsen run on one register; times are line numbers.

    `:info` is an unknown outcome, a failed cas a result (False), and any other `:fail` was never applied.
    """
    operations: list[Operation] = []
    pending: dict[int, Operation] = {}
    for number, line in enumerate(text.splitlines()):
        match = _JEPSEN_LINE.fullmatch(line.rstrip())
        if match is None:
            raise ValueError(f"line {number + 1} is not a Jepsen operation: {line!r}")
        client, kind, op, value = int(match[1]), match[2], match[3], match[4]
        if kind == "invoke":
            args = () if op == "read" else tuple(_jepsen_values(value))
            pending[client] = Operation(client, op, args, called=number)
            continue
        begun = pending.pop(client)
        if kind == "info":
            operations.append(begun)
        elif kind == "ok" or op == "cas":
            result = _jepsen_result(kind, op, value)
            operations.append(Operation(client, op, begun.args, result, begun.called, number))
    return operations + list(pending.values())


def _jepsen_values(text: str) -> list[int | None]:
    return [None if word == "nil" else int(word) for word in text.strip("[]").split()]


def _jepsen_result(kind: str, op: str, value: str) -> Any:
    if op == "read":
        return _jepsen_values(value)[0]
    return kind == "ok" if op == "cas" else None
