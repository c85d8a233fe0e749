"""The replicated state machine: stores by key prefix, sessions, and the one clock that counts.

Every node applies the same entries in the same order and holds the same state after each. So nothing here looks at a
clock: the leader stamps each entry with its `now`, and the machine's time is the latest stamp it has seen. Kinds:

- BATCH: requests, each with commands of one client; a number that its session has seen before is answered from there.
  All that reaches the leader at once goes through log and disk as one entry.
- OPEN, CLOSE: a session begins (its id is the entry's index, so it never comes twice), and ends with its process: what
  that held is free, and what it still has under way changes nothing.
- LEAD: the first entry of a new leader, whose clock may be far ahead: every lease gets its whole time again, as nobody
  could renew meanwhile, and no session ends by it. The very first one names the cluster: `cluster_id` is the epoch of
  everything that watchers are told.
- RENAME: the cluster goes on under another id, since it was recovered without its majority and may lack writes.
- TIME: moves time on and collects garbage; the leader proposes it when something is due.

What only looks does not come through the log: `query`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

from dref_django.leases import LeaseImage, Waiter
from dref_django.protocol import Command, Reply, Scan, ScanLeases
from dref_django.store import READS, Entry, Event, Image, Mark, Store

from .sessions import Forgotten, SessionImage, Sessions
from .wire import WireError, decode_commands, encode_replies, short_space, whole_space

FORMAT: Final = 1
SWEEP: Final = 1000
"""Graves that one TIME entry looks at."""


class Kind(IntEnum):
    BATCH = 0
    OPEN = 1
    CLOSE = 2
    LEAD = 3
    TIME = 4
    RENAME = 5


class Verdict(IntEnum):
    APPLIED = 0
    """`result` holds the replies; of OPEN the session's id."""
    EXPIRED = 1
    """There is no such session (any more): this entry changed nothing, an earlier one of that number may have."""
    FORGOTTEN = 2
    """Done before, and the replies are no longer known."""
    REFUSED = 3
    """These bytes mean nothing here: nothing was changed."""


class Outcome(NamedTuple):
    verdict: Verdict
    result: bytes = b""
    events: Sequence[tuple[str, Sequence[Event]]] = ()
    """By space."""


class SnapshotError(Exception):
    """These bytes are no snapshot of this machine."""


class Request(NamedTuple):
    """A batch of commands as its client sends it, to be put into an entry by the leader."""

    session: int
    number: int
    floor: int
    """The client is done with all lower numbers."""
    space: str
    commands: bytes
    now: int | None = None
    """In place of the leader's clock; in tests only."""

    def short(self) -> tuple[Any, ...]:
        """As it travels and is kept: a floor is near its number, and `now` seldom there."""
        session, number, floor, space, commands, now = self
        short = (session, number, number - floor, short_space(space), commands)
        return short if now is None else (*short, now)

    @classmethod
    def of(cls, short: Sequence[Any]) -> Request:
        """Raises TypeError, ValueError."""
        session, number, behind, space, *rest = short
        return cls(session, number, number - behind, whole_space(space), *rest)


def batch_entry(now: int, requests: Iterable[Request]) -> bytes:
    packed: bytes = msgpack.packb((Kind.BATCH, now, *(request.short() for request in requests)))
    return packed


def plain_entry(kind: Kind, now: int, argument: int | str = 0) -> bytes:
    """An entry of any other kind. `argument`: of CLOSE the session, of LEAD a cluster id if there is none yet, of
    RENAME the new one."""
    packed: bytes = msgpack.packb((kind, now, argument))
    return packed


def only_looks(commands: Sequence[Command]) -> bool:
    return all(isinstance(command, READS) for command in commands)


class Capture:
    """The state at one entry, ready to be written while the machine goes on."""

    def __init__(self, head: tuple[int, str], sessions: list[SessionImage], spaces: dict[str, Image]) -> None:
        self._head = head
        self._sessions = sessions
        self._spaces = spaces

    def encode(self) -> bytes:
        """Takes its time for a large state, in steps, so that other threads run meanwhile."""
        packer = msgpack.Packer()
        return b"".join(packer.pack(part) for part in self._parts())

    def _parts(self) -> Iterator[object]:
        yield (FORMAT, *self._head, len(self._sessions), len(self._spaces))
        yield from self._sessions
        for space, image in self._spaces.items():
            yield (space, len(image.entries), len(image.leases), len(image.graves))
            for name, entry in image.entries.items():
                yield (name, *entry)
            yield from image.leases
            yield from image.graves


class Machine:
    def __init__(self) -> None:
        self.now = 0
        """Microseconds: the latest stamp of an entry."""
        self.cluster_id = ""
        self._spaces: dict[str, Store] = {}
        self._sessions = Sessions()

    def apply(self, index: int, data: bytes) -> list[Outcome]:
        """One outcome; of BATCH one for each request."""
        try:
            kind, stamp, *rest = msgpack.unpackb(data, use_list=False)
            before, self.now = self.now, max(self.now, stamp)
            match kind:
                case Kind.BATCH:
                    return [self._request(short) for short in rest]
                case Kind.OPEN:
                    self._sessions.open(index, self.now)
                    return [Outcome(Verdict.APPLIED, msgpack.packb(index))]
                case Kind.CLOSE:
                    return [Outcome(Verdict.APPLIED, events=self._close(rest[0]))]
                case Kind.LEAD:
                    self.cluster_id = self.cluster_id or str(rest[0])
                    for store in self._spaces.values():
                        store.extend_leases(before, self.now)
                    self._sessions.extend(before, self.now)
                    self._collect()
                case Kind.RENAME:
                    self.cluster_id = str(rest[0])
                case Kind.TIME:
                    self._collect()
                case _:
                    return [Outcome(Verdict.REFUSED)]
        except (ValueError, TypeError, IndexError, msgpack.UnpackException):
            return [Outcome(Verdict.REFUSED)]
        return [Outcome(Verdict.APPLIED)]

    def _request(self, short: Sequence[Any]) -> Outcome:
        try:
            return self._carry_out(Request.of(short))
        except (WireError, ValueError, TypeError):
            return Outcome(Verdict.REFUSED)

    def _carry_out(self, request: Request) -> Outcome:
        session = self._sessions.use(request.session, self.now)
        if session is None:
            return Outcome(Verdict.EXPIRED)
        session.done_below(request.floor)
        try:
            if (known := session.result(request.number)) is not None:
                return Outcome(Verdict.APPLIED, known)
        except Forgotten:
            return Outcome(Verdict.FORGOTTEN)
        commands = decode_commands(request.commands)
        store = self._spaces.get(request.space) or Store()
        replies, events = store.apply(commands, self.now if request.now is None else request.now)
        self._spaces.setdefault(request.space, store)
        result = encode_replies(replies)
        session.record(request.number, result)
        session.note_holders(request.space, commands)
        return Outcome(Verdict.APPLIED, result, ((request.space, events),) if events else ())

    def _close(self, session_id: int) -> list[tuple[str, Sequence[Event]]]:
        session = self._sessions.close(session_id)
        told: list[tuple[str, Sequence[Event]]] = []
        for space, owners in [] if session is None else sorted(session.holders):
            if (store := self._spaces.get(space)) is not None:
                told.append((space, store.free(owners, self.now)))
        return told

    def _collect(self) -> None:
        self._sessions.expire(self.now)
        for space, store in list(self._spaces.items()):
            store.sweep(self.now, SWEEP)
            if store.is_empty():
                del self._spaces[space]

    # --- what the leader asks -----------------------------------------------------------------------------------

    def query(self, space: str, commands: Sequence[Command], now: int) -> list[Reply]:
        """Replies to commands that only look, at a time not before the machine's."""
        return (self._spaces.get(space) or Store()).query(commands, now)

    def turns(self, space: str, commands: Sequence[Command], now: int) -> bool:
        """Whether something that these commands look at runs out between the machine's time and `now`.

        Then a TIME entry has to come first: what was once seen to have run out has done so for the next leader, too,
        whose clock may be behind.
        """
        store = self._spaces.get(space)
        names = (command.name for command in commands if not isinstance(command, (Scan, ScanLeases)))
        return store is not None and store.turns(names, self.now, now)

    def is_due(self, now: int) -> bool:
        """Whether a TIME entry would collect something."""
        ends = [self._sessions.next_end(), *(store.next_grave() for store in self._spaces.values())]
        return any(end is not None and end <= now for end in ends)

    # --- snapshots ----------------------------------------------------------------------------------------------

    def capture(self) -> Capture:
        spaces = {space: store.dump() for space, store in self._spaces.items()}
        return Capture((self.now, self.cluster_id), list(self._sessions.dump()), spaces)

    @classmethod
    def restore(cls, data: bytes) -> Machine:
        """Raises `SnapshotError`."""
        unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False, max_buffer_size=0)
        unpacker.feed(data)
        machine = cls()
        try:
            version, *head = unpacker.unpack()
            if version != FORMAT:
                raise SnapshotError(f"a snapshot of format {version}; this version reads format {FORMAT}")
            machine.now, machine.cluster_id, sessions, spaces = head
            for _ in range(sessions):
                machine._sessions.load(SessionImage(*unpacker.unpack()))
            for _ in range(spaces):
                space, *counts = unpacker.unpack()
                machine._spaces[space] = Store.load(_image(unpacker, *counts))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise SnapshotError(f"damaged: {error}") from error
        return machine


def _image(unpacker: Any, entries: int, leases: int, graves: int) -> Image:
    loaded = {}
    for _ in range(entries):
        name, data, version, deadline, ring = unpacker.unpack()
        loaded[name] = Entry(data, version, deadline, tuple(Mark(*mark) for mark in ring))
    images = []
    for _ in range(leases):
        image = LeaseImage(*unpacker.unpack())
        images.append(image._replace(queue=tuple(Waiter(*waiter) for waiter in image.queue)))
    return Image(loaded, images, [tuple(unpacker.unpack()) for _ in range(graves)])
