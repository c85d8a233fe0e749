"""Who this process says is present: one lease for the process, one entry a room, many changes in one write.

The lease "presence:<seat>" says that the process lives; the keeper renews it with all others. An entry "<room> <seat>"
in the group "dref.presence" names the members that this process has in the room, and counts for as long as the lease
of its seat is held. So members that sit still cost nothing, and those of a process that died go with its lease. A seat
is used once: a process whose lease was lost takes a new one and says everything anew.

What is joined and left while a write is on its way goes with the next one.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import json
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from . import backends, background
from .backends.base import Backend
from .deltas import make_splice
from .exceptions import DRefError, Unavailable, ValueTooLarge
from .flows import Flow, adrive
from .held import MARGIN, Held
from .leasing import Grant, hold, new_owner
from .locks import who_am_i
from .naming import GROUP_SEPARATOR, grouped
from .op_ids import new_op_id
from .protocol import Acquire, Command, Delete, Inspect, Reply, Row, Scan, Status, Write

logger = logging.getLogger("dref_django")

KIND: Final = "presence"
GROUP: Final = "dref.presence"
"""The reserved group of the entries; on a Redis Cluster they share a slot, so that one write takes many rooms."""
BATCH: Final = 100
PAGE: Final = 500
RETRY: Final = 1.0
"""Seconds until what could not be written is written again."""
FAREWELL_TIMEOUT: Final = 1.0

Info = dict[str, Any]
Future = concurrent.futures.Future[None]


def entry_of(room: str, seat: str) -> str:
    return f"{prefix_of(room)}{seat}"


def prefix_of(room: str) -> str:
    return grouped(room, GROUP) + GROUP_SEPARATOR


def seat_of(entry: str) -> str:
    return entry.rpartition(GROUP_SEPARATOR)[2]


def lease_of(seat: str) -> str:
    return f"{KIND}:{seat}"


class _Room:
    """What this process has in one room."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """How often each member has joined here."""
        self.infos: dict[str, Info] = {}
        self.size = 0
        """Bytes of the image, about."""

    def image(self) -> bytes:
        return json.dumps(self.infos, sort_keys=True, separators=(",", ":")).encode("ascii")


class Attendance:
    """This process's members on one back end, in all rooms whose lease is `ttl` seconds."""

    def __init__(self, backend: Backend, ttl: float) -> None:
        self._backend = backend
        self._ttl = ttl
        self._mutex = threading.Lock()
        self._rooms: dict[str, _Room] = {}
        self._dirty: set[str] = set()
        self._waiting: list[Future] = []
        self._writing = False
        self._held: Held | None = None
        self._seat = ""
        self._pid = os.getpid()
        self._written: dict[str, tuple[int, bytes]] = {}
        """By room the version and bytes of our entry, where they are certain. Touched by the writing task only."""

    # --- from any thread ----------------------------------------------------------------------------------------

    def join(self, room: str, member: str, info: Info) -> Future:
        """Counts the member in. Done when it is written. Raises `ValueTooLarge`."""
        with self._mutex:
            state = self._rooms.setdefault(room, _Room())
            before = state.infos.get(member)
            size = state.size + _size(member, info) - (0 if before is None else _size(member, before))
            if size > self._backend.params.max_value_size:
                raise ValueTooLarge(f"presence {room!r}: one process has more members there than one value can hold")
            state.counts[member] = state.counts.get(member, 0) + 1
            state.infos[member], state.size = info, size
            return self._note(room, changed=before != info)

    def leave(self, room: str, member: str) -> tuple[bool, Future]:
        """Counts the member out. Returns whether it was in, and what is done when that is written."""
        with self._mutex:
            state = self._rooms.get(room)
            if state is None or member not in state.counts:
                return False, self._note(room, changed=False)
            state.counts[member] -= 1
            gone = not state.counts[member]
            if gone:
                del state.counts[member]
                state.size -= _size(member, state.infos.pop(member))
            return True, self._note(room, changed=gone)

    def _note(self, room: str, *, changed: bool) -> Future:
        """Called with the mutex held. Also who changes nothing waits for the write that is on its way."""
        done = Future()
        if not changed and not self._writing:
            done.set_result(None)
            return done
        if changed:
            self._dirty.add(room)
        self._waiting.append(done)
        self._ensure_writing()
        return done

    def _ensure_writing(self) -> None:
        if not self._writing:
            self._writing = True
            background.submit(self._write_all())

    def _lost(self) -> None:
        """The lease is: everything is said anew, from another seat."""
        with self._mutex:
            self._dirty.update(self._rooms)
            if self._dirty and self._is_in_use():
                self._ensure_writing()

    def _is_in_use(self) -> bool:
        return any(backend is self._backend for _, backend in backends.in_use())

    # --- on the background loop ---------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        while True:
            with self._mutex:
                if not self._dirty and not self._waiting:
                    self._writing = False
                    return
                rooms, self._dirty = self._dirty, set()
                waiting, self._waiting = self._waiting, []
            try:
                if not self._is_in_use():
                    raise Unavailable("the back end is not in use any more: the settings were changed")
                await adrive(self._backend, self._write(rooms))
            except Exception as error:
                if not isinstance(error, DRefError):
                    logger.exception("dref: presence could not be written")
                _fail(waiting, error)
                if not await self._try_again(rooms):
                    return
            else:
                for future in waiting:
                    with suppress(concurrent.futures.InvalidStateError):  # who waited has given up
                        future.set_result(None)

    async def _try_again(self, rooms: set[str]) -> bool:
        await asyncio.sleep(RETRY if self._is_in_use() else 0)
        with self._mutex:
            self._dirty |= rooms
            if self._is_in_use():
                return True
            self._writing = False
            waiting, self._waiting = self._waiting, []
        _fail(waiting, Unavailable("the back end is not in use any more: the settings were changed"))
        return False

    def _write(self, rooms: Iterable[str]) -> Flow[None]:
        if self._held is None or self._held.remaining() <= 0:
            yield from self._take_seat()
            with self._mutex:
                rooms = {*rooms, *self._rooms}
        names = sorted(rooms)
        for start in range(0, len(names), BATCH):
            yield from self._write_rooms(names[start : start + BATCH])

    def _take_seat(self) -> Flow[None]:
        backend, seat = self._backend, new_owner(self._backend)
        self._written.clear()
        sent = backend.clock.monotonic()
        reply: Reply = yield Acquire(lease_of(seat), seat, int(self._ttl * 1e6), 0, json.dumps(who_am_i()))
        if backend.clock.monotonic() >= sent + self._ttl * (1 - MARGIN):
            raise Unavailable("the back end took longer than the lease of presence")
        self._seat = seat
        self._held = hold(backend, seat, Grant(lease_of(seat), seat, reply.token, sent), self._ttl)
        self._held.when_lost(self._lost)
        yield from sweep()

    def _write_rooms(self, rooms: Sequence[str]) -> Flow[None]:
        images = self._images(rooms)
        before = {room: self._written.pop(room) for room in rooms if room in self._written}
        commands = [self._command(room, images[room], before.get(room)) for room in rooms]
        replies: list[Reply] = yield commands
        if any(reply.status is not Status.APPLIED for reply in replies):  # somebody took us for dead
            replies = yield [self._command(room, images[room], None) for room in rooms]
        for room, reply in zip(rooms, replies, strict=True):
            image = images[room]
            if image is not None:
                self._written[room] = (reply.version, image)

    def _images(self, rooms: Sequence[str]) -> dict[str, bytes | None]:
        with self._mutex:
            images: dict[str, bytes | None] = {}
            for room in rooms:
                state = self._rooms.get(room)
                if state is not None and not state.counts:
                    del self._rooms[room]
                    state = None
                images[room] = None if state is None else state.image()
            return images

    def _command(self, room: str, image: bytes | None, before: tuple[int, bytes] | None) -> Command:
        name = entry_of(room, self._seat)
        if image is None:
            return Delete(name, op=new_op_id())
        if before is not None and (splice := make_splice(before[1], image)) is not None:
            return Write(name, splice, before[0], op=new_op_id())
        return Write(name, image, op=new_op_id())

    def farewell(self) -> None:
        """The process ends: watchers are told at once, where that is possible."""
        if self._pid != os.getpid():
            return
        with self._mutex:
            rooms, self._rooms = list(self._rooms), {}
        commands = [Delete(entry_of(room, self._seat), op=new_op_id()) for room in rooms[:BATCH] if self._seat]
        if commands:
            with suppress(DRefError):  # then they go with the lease
                self._backend.execute(commands, timeout=FAREWELL_TIMEOUT)


def _size(member: str, info: Info) -> int:
    return len(json.dumps(member)) + len(json.dumps(info)) + 2


def _fail(waiting: list[Future], error: Exception) -> None:
    for future in waiting:
        with suppress(concurrent.futures.InvalidStateError):
            future.set_exception(error)


# --- what the dead leave behind ---------------------------------------------------------------------------------


def alive(seats: Sequence[str]) -> Flow[dict[str, float]]:
    """Those of the seats whose processes live, with the seconds that their leases have left."""
    found: dict[str, float] = {}
    for start in range(0, len(seats), PAGE):
        some = seats[start : start + PAGE]
        replies: list[Reply] = yield [Inspect(lease_of(seat)) for seat in some]
        for seat, reply in zip(some, replies, strict=True):
            if reply.lease is not None and reply.lease.owner:
                found[seat] = reply.lease.left / 1e6
    return found


def bury(entries: Sequence[str]) -> Flow[None]:
    """Removes entries of dead seats. A seat is never taken again, so nothing new can stand there."""
    for start in range(0, len(entries), BATCH):
        yield [Delete(entry, op=new_op_id()) for entry in entries[start : start + BATCH]]


def sweep() -> Flow[None]:
    """Removes what dead processes left in any room."""
    entries: list[str] = []
    after = ""
    while True:
        reply: Reply = yield Scan(GROUP + GROUP_SEPARATOR, after, PAGE)
        entries += [row.name for row in reply.page if isinstance(row, Row)]
        if not (after := reply.cursor):
            break
    living = yield from alive(sorted({seat_of(entry) for entry in entries}))
    yield from bury([entry for entry in entries if seat_of(entry) not in living])


_mutex = threading.Lock()
_attendances: dict[tuple[Backend, float], Attendance] = {}


def attendance_of(backend: Backend, ttl: float) -> Attendance:
    with _mutex:
        attendance = _attendances.get((backend, ttl))
        if attendance is None:
            attendance = _attendances[backend, ttl] = Attendance(backend, ttl)
            # Registered only now, later than whatever the back end does at exit, so it runs before that.
            atexit.register(attendance.farewell)
        return attendance


def _discard(backend: Backend) -> None:
    with _mutex:
        for key in [key for key in _attendances if key[0] is backend]:
            atexit.unregister(_attendances.pop(key).farewell)


def _after_fork() -> None:
    """In the child nobody is present: whoever joined did it in the parent."""
    global _mutex, _attendances
    _mutex = threading.Lock()
    _attendances = {}


backends.on_discard(_discard)
os.register_at_fork(after_in_child=_after_fork)
