"""A process that takes and holds locks as it is told: JSON lines in, JSON lines out, monotonic times in each.

Every lock that it is told of has a key and, while it is waited for, a thread of its own.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# The wall clock of this host may step.
_step = [0.0]
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _step[0]
time.time_ns = lambda: _time_ns() + int(_step[0] * 1e9)

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.core.signals import setting_changed  # noqa: E402

from dref_django import DRefError, LockLost, backends, lock  # noqa: E402
from dref_django.held import Held  # noqa: E402
from dref_django.keeper import clock, keeper_of  # noqa: E402

_mutex = threading.Lock()
_helds: dict[str, Held] = {}


def say(event: str, key: str, **more: Any) -> None:
    line = json.dumps({"event": event, "key": key, "at": clock(), **more})
    with _mutex:
        print(line, flush=True)


def acquire(key: str, name: str, ttl: float, timeout: float) -> None:
    try:
        held = lock(name, ttl=ttl, timeout=timeout).acquire()
    except DRefError as error:
        say("failed", key, error=type(error).__name__)
        return
    _helds[key] = held
    held.when_lost(lambda: say("lost", key, trusted_until=held.deadline()))
    say("acquired", key, token=held.token, left=held.remaining())


def release(key: str) -> None:
    held = _helds[key]
    try:
        lock(held.name).release(held)
    except DRefError as error:
        say("failed", key, error=type(error).__name__)
    else:
        say("released", key)


def check(key: str) -> None:
    """What a guarded statement would do first."""
    try:
        _helds[key].check()
    except LockLost:
        say("checked", key, held=False)
    else:
        say("checked", key, held=True)


def rounds(key: str, name: str, count: int, ttl: float) -> None:
    """Enters and leaves; says the token and the times between which it was inside."""
    guard = lock(name, ttl=ttl, timeout=60)
    for _ in range(count):
        held = guard.acquire()
        entered = clock()
        try:
            held.check()
        except LockLost:  # frozen before it could begin
            continue
        left = clock()
        still = held.remaining() > 0
        try:
            guard.release(held)
        except LockLost:
            still = False
        say("round", key, token=held.token, entered=entered, left=left, held=still)
    say("done", key)


def step(key: str, seconds: float) -> None:
    """The wall clock of this host steps."""
    _step[0] += seconds
    say("stepped", key)


def settle(key: str, setting: dict[str, Any]) -> None:
    """From now on locks live there; what was held before is lost."""
    _step[0] = 0
    settings.DREF_BACKEND = setting
    setting_changed.send(sender=None, setting="DREF_BACKEND", value=setting, enter=True)
    _helds.clear()
    say("settled", key)


def race(key: str, name: str, count: int) -> None:
    """Enters and leaves as fast as it can, its lease renewed all the time."""
    keeper = keeper_of(backends.get_backend())
    guard = lock(name, timeout=60)
    for _ in range(count):
        held = guard.acquire()
        keeper.look_again(held.lease, held.owner)
        guard.release(held)
    say("done", key)


COMMANDS: dict[str, Callable[..., None]] = {
    "acquire": acquire,
    "release": release,
    "check": check,
    "rounds": rounds,
    "race": race,
    "settle": settle,
    "step": step,
}


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        function = COMMANDS[command.pop("do")]
        if function in (check, settle):  # nothing between the resumption of this process and the answer
            function(**command)
        else:
            threading.Thread(target=function, kwargs=command, daemon=True).start()


if __name__ == "__main__":
    main()
