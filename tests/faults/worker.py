"""One process of a project under test: reads commands (JSON lines) on stdin, does them, and reports on stdout.

Calls are done one after the other; a load and a watch run on threads of their own until stopped or until the end.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any

import django

django.setup()

from dref_django import Counter, DRef, DRefError, Flag, watch  # noqa: E402

MILESTONE = 10
"""Acknowledged operations between two reports of progress."""

_mutex = threading.Lock()
_loads: dict[str, Load] = {}


def say(**line: Any) -> None:
    text = json.dumps(line)
    with _mutex:
        print(text, flush=True)


def ref_of(kind: str, name: str) -> DRef[Any]:
    if kind == "counter":
        return Counter(name)
    return Flag(name) if kind == "flag" else DRef(name, None, type=Any)


class Load:
    """Changes a counter as fast as it can; knows what was acknowledged and what became of the rest."""

    def __init__(self, name: str, way: str) -> None:
        self._name = name
        self._counter = Counter(name)
        self._change: Callable[[], Any] = {
            "increment": self._counter.increment,
            "update": lambda: self._counter.update(lambda number: number + 1),
        }[way]
        self._stopping = threading.Event()
        self._outcomes: Tally[str] = Tally()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._change()
            except DRefError as error:
                self._outcomes[type(error).__name__] += 1
                say(event="trouble", name=self._name, error=type(error).__name__, message=str(error))
            except BaseException as error:
                say(event="broken", name=self._name, error=repr(error))
                raise
            else:
                self._outcomes["acked"] += 1
                if self._outcomes["acked"] % MILESTONE == 0:
                    say(event="progress", name=self._name, acked=self._outcomes["acked"])

    def stop(self) -> dict[str, int]:
        self._stopping.set()
        self._thread.join()
        return dict(self._outcomes)


def start_watch(name: str, kind: str, every: bool) -> None:
    opened = threading.Event()

    def follow() -> None:
        stream = watch(name) if name.endswith("*") else ref_of(kind, name).changes(every=every)
        with stream:
            opened.set()
            for change in stream:
                say(
                    event="change",
                    name=change.name,
                    value=change.value,
                    version=change.version,
                    gap=change.gap,
                    deleted=change.deleted,
                    every=every,
                )

    threading.Thread(target=follow, daemon=True).start()
    if not opened.wait(20):
        raise TimeoutError(f"the stream of {name!r} did not open")


class LogLines(logging.Handler):
    """What the library logs, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        say(event="log", level=record.levelname, message=record.getMessage())


def perform(do: str, command: dict[str, Any]) -> Any:
    match do:
        case "call":
            method = getattr(ref_of(command["kind"], command["name"]), command["method"])
            return method(*command["args"], **command["kwargs"])
        case "status":
            return str(ref_of("counter", command["name"]).status)
        case "watch":
            return start_watch(command["name"], command.get("kind", "counter"), command.get("every", False))
        case "on_change":
            counter = ref_of("counter", command["name"])
            counter.on_change(lambda change: say(event="called", name=change.name, value=change.value, gap=change.gap))
            return None
        case "load":
            _loads[command["name"]] = Load(command["name"], command["way"])
            return None
        case "stop":
            return _loads.pop(command["name"]).stop()
        case _:
            raise ValueError(do)


def main() -> None:
    logger = logging.getLogger("dref_django")
    logger.addHandler(LogLines())
    logger.propagate = False
    for text in sys.stdin:
        command = json.loads(text)
        number = command.pop("id")
        try:
            result = perform(command.pop("do"), command)
        except Exception as error:
            say(id=number, error=type(error).__name__, message=str(error))
        else:
            say(id=number, result=result)
    for load in list(_loads.values()):
        load.stop()


if __name__ == "__main__":
    main()
