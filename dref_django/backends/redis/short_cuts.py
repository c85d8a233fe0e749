"""One command alone, in its usual case, by a script of a few straight lines: a third of what the whole scripts cost.
Several Reads go by a script that does nothing else.

A short cut either does exactly what the whole way would do, or changes nothing and answers nil: then the whole way
is gone. The random comparison with the store goes through both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dref_django.protocol import KEEP, Acquire, Add, Command, Read, Release, Reply, Splice, Status, Write

from .keys import Keys
from .scripts import Call, Script

ADD = Script("add.lua")
READ = Script("read.lua")
READS = Script("clock.lua", "reads.lua")
WRITE = Script("write.lua")
ACQUIRE = Script("acquire.lua")
RELEASE = Script("release.lua")
STATUSES = tuple(Status)


class ShortCuts:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._wakes = keys.wakes.encode()
        self._ways: dict[type, Callable[[Any, bytes], Call | None]] = {
            Acquire: self._acquire,
            Add: self._add,
            Read: self._read,
            Release: self._release,
            Write: self._write,
        }

    def find(self, command: Command, now: int | None) -> Call | None:
        """The call for this command alone; its decoded answer is None when the short cut does not lead there."""
        way = self._ways.get(type(command))
        return None if way is None else way(command, b"" if now is None else b"%d" % now)

    def find_reads(self, commands: Sequence[Command], now: int | None) -> Call | None:
        """The call for this batch, if that is Reads of readers that hold no version, and nothing else."""
        if not all(type(command) is Read and command.known is None for command in commands):
            return None
        keys = [self._keys.entry(command.name) for command in commands if isinstance(command, Read)]
        moment = b"" if now is None else b"%d" % now
        return Call(READS, keys[0], [b"%d" % len(keys), *keys, moment], _were_read)

    def _add(self, command: Add, moment: bytes) -> Call:
        name = command.name
        key = self._keys.entry(name)
        amount, op = b"%d" % command.amount, command.op.hex().encode()
        return Call(ADD, key, [b"1", key, moment, self._keys.channel(name), amount, op], _added)

    def _read(self, command: Read, moment: bytes) -> Call:
        key = self._keys.entry(command.name)
        return Call(READ, key, [b"1", key, b"" if command.known is None else b"%d" % command.known], _was_read)

    def _write(self, command: Write, moment: bytes) -> Call | None:
        name, data = command.name, command.data
        if isinstance(data, Splice) or (command.ttl is not None and command.ttl is not KEEP):
            return None
        key = self._keys.entry(name)
        form, body = (b"i", b"%d" % data) if isinstance(data, int) else (b"b", data)
        expect = b"" if command.expect is None else b"%d" % command.expect
        op = command.op.hex().encode()
        return Call(WRITE, key, [b"1", key, moment, self._keys.channel(name), expect, op, form, body], _written)

    def _acquire(self, command: Acquire, moment: bytes) -> Call | None:
        if command.wait > 0:  # has been refused once: somebody holds it, or there is a queue
            return None
        key = self._keys.lease(command.name)
        owner, ttl, meta = command.owner.encode(), b"%d" % command.ttl, command.meta.encode()
        return Call(ACQUIRE, key, [b"1", key, moment, owner, ttl, meta], _acquired)

    def _release(self, command: Release, moment: bytes) -> Call | None:
        if command.keep:
            return None
        name = command.name
        key = self._keys.lease(name)
        owner, token = command.owner.encode(), b"%d" % command.token
        return Call(RELEASE, key, [b"1", key, moment, owner, token, self._wakes, name.encode()], _released)


def _added(answer: Any) -> list[Reply] | None:
    if answer is None:
        return None
    version, total = answer.split(b" ")
    return [Reply(Status.APPLIED, int(total), int(version), None, True)]


def _was_read(answer: Any) -> list[Reply] | None:
    if answer is None:
        return None
    if isinstance(answer, list):
        version, data = answer
        return [Reply(Status.APPLIED, data, int(version), None, True)]
    version, changed, number = answer.partition(b" ")
    if changed:
        return [Reply(Status.APPLIED, int(number), int(version), None, True)]
    return [Reply(Status.UNCHANGED, None, int(version), None, True)]


def _were_read(answer: Any) -> list[Reply]:
    lines, *values = answer if isinstance(answer, list) else (answer,)
    data = iter(values)
    replies = []
    for line in lines.split(b"\n"):
        version, exists, value = line.partition(b" ")
        if not exists:
            replies.append(Reply(Status.APPLIED, None, int(version)))
            continue
        left, _, number = value.partition(b" ")
        life = None if left == b"-" else int(left)
        replies.append(Reply(Status.APPLIED, int(number) if number else next(data), int(version), life, True))
    return replies


def _written(answer: Any) -> list[Reply] | None:
    return None if answer is None else [Reply(Status.APPLIED, None, int(answer), None, True)]


def _acquired(answer: Any) -> list[Reply] | None:
    if answer is None:
        return None
    status, token, left = answer.split(b" ")
    return [Reply(STATUSES[int(status)], None, 0, int(left), False, int(token))]


def _released(answer: Any) -> list[Reply] | None:
    return None if answer is None else [Reply(Status.APPLIED, None, 0, None, True, int(answer))]
