"""What is said to Redis, as generators that yield requests and are sent the answers. No I/O here.

The back end holds these conversations in two ways, blocking and on an event loop. A conversation returns its result,
or raises `NotSent`, `ReplyLost`, or what no retry can mend.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from dref_django.backends.delivery import NotSent
from dref_django.exceptions import DRefError, OutcomeUnknown
from dref_django.protocol import (
    LEASE_COMMANDS,
    MUTATIONS,
    Command,
    Inspect,
    LeaseInfo,
    Reply,
    Row,
    Scan,
    ScanLeases,
    Status,
)

from . import outcome
from .cluster import Topology
from .connections import Address
from .keys import Keys
from .options import Options
from .scripts import ENTRIES, LEASES, Call, Encodable, RowRead, decode_entries, decode_leases, encode, pack
from .short_cuts import ShortCuts

LAYOUT = 1
"""The version of what the scripts store (docs/format.md). A newer one that is found is left alone."""
REDIRECTS = 5
"""How often a call follows a cluster that moves the slot, or sends its script along, before it starts over."""
SCAN_STEP = 5000
"""Keys that a cluster's node looks at in one step of a scan."""
WAIT_SHARE = 0.8
"""Of the time limit, what replicas get to confirm a write."""
ASKING = pack(b"ASKING")
UNCHANGING = frozenset(Status) - {Status.APPLIED}
"""What a batch that changed nothing is answered with."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send these packed commands to that node; the answer is the list of its `replies`, errors among them."""

    address: Address
    payload: bytes
    replies: int


@dataclass(frozen=True, slots=True)
class Locate:
    """Make sure that the slots of the cluster are known; the answer means nothing."""


T = TypeVar("T")
Request: TypeAlias = Exchange | Locate
Conversation: TypeAlias = Generator[Request, Any, T]


class Conversations:
    """The conversations of one back end; `topology` only for a cluster."""

    def __init__(self, keys: Keys, options: Options, topology: Topology | None) -> None:
        self.keys = keys
        self._where = options.server.where
        self._topology = topology
        self._replicas = options.wait_replicas
        self._short_cuts = ShortCuts(keys)

    # --- batches ------------------------------------------------------------------------------------------------

    def call(self, commands: Sequence[Encodable], now: int | None) -> Call:
        """All commands in one call of a script."""
        keys = self.keys
        if isinstance(commands[0], LEASE_COMMANDS):
            script, key_of, index, channels, decode = LEASES, keys.lease, keys.leases, keys.wakes, decode_leases
        else:
            script, key_of, index, channels, decode = ENTRIES, keys.entry, keys.names, keys.channels, decode_entries
        names = [key_of(command.name) for command in commands if not isinstance(command, (Scan, ScanLeases))]
        count = b"%d" % len(names)
        first = names[0]
        if self._topology is None:
            names.append(index)
        moment = b"" if now is None else b"%d" % now
        arguments = [b"%d" % len(names), *names, moment, channels.encode(), keys.opening.encode(), count]
        encode(commands, arguments)
        return Call(script, first, arguments, decode)

    def batch(self, commands: Sequence[Command], now: int | None, timeout: float) -> Conversation[list[Reply]]:
        if not commands:
            return []
        first = commands[0]
        if isinstance(first, Scan):
            return (yield from self._scan(first, now))
        if isinstance(first, ScanLeases):
            return (yield from self._scan_leases(first, now))
        if self._replicas and any(isinstance(command, (*MUTATIONS, *LEASE_COMMANDS)) for command in commands):
            return (yield from self._confirmed(self.call(commands, now), timeout))
        short = self.short_cut(commands, now)
        if short is not None:
            replies = yield from self._one(short)
            if replies is not None:
                return replies
        return (yield from self.whole_way(commands, now))

    def short_cut(self, commands: Sequence[Command], now: int | None) -> Call | None:
        """A call of a smaller script, for one command alone or for Reads. Its decoded answer is None when it does not
        lead there."""
        if len(commands) == 1:
            return self._short_cuts.find(commands[0], now)
        if self._topology is not None:  # the names may lie in different slots
            return None
        return self._short_cuts.find_reads(commands, now)

    def whole_way(self, commands: Sequence[Encodable], now: int | None) -> Conversation[list[Reply]]:
        if self._topology is not None:
            return (yield from self._by_slot(commands, now))
        return (yield from self._one(self.call(commands, now))) or []

    def _one(self, call: Call) -> Conversation[list[Reply] | None]:
        address = yield from self._node_of(call.key)
        (answer,) = yield Exchange(address, call.script.call(call.arguments), 1)
        return (yield from self.settle(call, answer, address))

    def settle(self, call: Call, answer: Any, address: Address) -> Conversation[list[Reply] | None]:
        """Goes on from the first answer to `call`: none of the errors handled here comes with a change."""
        whole, asking = False, b""
        for _ in range(REDIRECTS):
            if isinstance(answer, NoScriptError):
                whole = True
            elif isinstance(answer, AskError):  # MOVED, too; the map is asked for again at the next call
                host = answer.host or (address[0] if address else "")  # a node may leave out that it is the same host
                address = (host, answer.port)
                asking = b"" if isinstance(answer, MovedError) else ASKING
                self._mark_stale()
            else:
                return call.decode(self._good(answer))
            answers = yield Exchange(address, asking + call.script.call(call.arguments, whole=whole), 1 + bool(asking))
            answer = answers[-1]
        raise NotSent(f"{self._where}: {answer}") from answer

    def _confirmed(self, call: Call, timeout: float) -> Conversation[list[Reply]]:
        """One call, and on the same connection a WAIT for replicas to have it (WAIT_REPLICAS)."""
        patience = max(1, int(timeout * WAIT_SHARE * 1000))  # 0 would be for ever
        wait = pack(b"WAIT", b"%d" % self._replicas, b"%d" % patience)
        # The script travels along: one that the server does not know would be waited for in vain.
        answer, confirmed = yield Exchange(None, call.script.call(call.arguments, whole=True) + wait, 2)
        replies = call.decode(self._good(answer)) or []
        if self._good(confirmed) >= self._replicas:
            return replies
        if all(reply.status in UNCHANGING for reply in replies):
            return replies
        raise OutcomeUnknown(
            f"It is done on the primary, but only {confirmed} of {self._replicas} replicas confirmed it within "
            f"{patience} ms (WAIT_REPLICAS): a fail-over may lose it."
        )

    def _mark_stale(self) -> None:
        if self._topology is not None:
            self._topology.mark_stale()

    # --- a cluster ----------------------------------------------------------------------------------------------

    def _node_of(self, key: bytes) -> Conversation[Address]:
        if self._topology is None:
            return None
        if not self._topology.ready:
            yield Locate()
        return self._topology.node_of(key)

    def _by_slot(self, commands: Sequence[Encodable], now: int | None) -> Conversation[list[Reply]]:
        """Reads and lease commands go to every node in one pipeline; a change has one slot."""
        places: dict[str, list[int]] = {}
        for place, command in enumerate(commands):
            places.setdefault(self.keys.tag(command.name), []).append(place)  # type: ignore[union-attr]
        changes = [command for command in commands if isinstance(command, MUTATIONS)]
        if changes and len(places) > 1:
            raise DRefError(
                f"One atomic step on a Redis Cluster stays within one slot, and {', '.join(sorted(places))} are in "
                "different ones. Give the refs of the step the same group=, which puts them into one slot."
            )
        groups = [(group, self.call([commands[place] for place in group], now)) for group in places.values()]
        by_node: dict[Address, list[tuple[list[int], Call]]] = {}
        for group, call in groups:
            address = yield from self._node_of(call.key)
            by_node.setdefault(address, []).append((group, call))
        replies: list[Reply] = [Reply(Status.ABORTED)] * len(commands)
        for address, calls in by_node.items():
            payload = b"".join([call.script.call(call.arguments) for _, call in calls])
            answers = yield Exchange(address, payload, len(calls))
            for (group, call), answer in zip(calls, answers, strict=True):
                settled = (yield from self.settle(call, answer, address)) or ()
                for place, reply in zip(group, settled, strict=True):
                    replies[place] = reply
        return replies

    def _primaries(self) -> Conversation[list[Address]]:
        if self._topology is None:
            return [None]
        if not self._topology.ready:
            yield Locate()
        return list(self._topology.primaries())

    # --- scans --------------------------------------------------------------------------------------------------

    def _rows(self, commands: Sequence[Encodable], now: int | None) -> Conversation[list[Reply]]:
        if not commands:
            return []
        return (yield from self.whole_way(commands, now))

    def _scan(self, command: Scan, now: int | None) -> Conversation[list[Reply]]:
        names, cursor = yield from self._page(command, self.keys.names, "")
        replies = yield from self._rows([RowRead(name, command.values) for name in names], now)
        rows = []
        for name, reply in zip(names, replies, strict=True):
            if reply.existed:
                data = reply.data
                size = reply.token or (8 if isinstance(data, int) else len(data or b""))
                rows.append(Row(name, reply.version, size, reply.left, data if command.values else None))
        return [Reply(Status.APPLIED, page=tuple(rows), cursor=cursor)]

    def _scan_leases(self, command: ScanLeases, now: int | None) -> Conversation[list[Reply]]:
        names, cursor = yield from self._page(command, self.keys.leases, "!")
        replies = yield from self._rows([Inspect(name) for name in names], now)
        page: tuple[LeaseInfo, ...] = tuple(reply.lease for reply in replies if reply.lease is not None)
        return [Reply(Status.APPLIED, page=page, cursor=cursor)]

    def _page(self, command: Scan | ScanLeases, index: bytes, mark: str) -> Conversation[tuple[list[str], str]]:
        """The next names, and the cursor after them."""
        prefix, after, limit = command.prefix, command.after, command.limit
        if self._topology is None:
            # The order of UTF-8's bytes is the order of code points, and no byte of it is 0xff.
            start = b"(" + after.encode() if after >= prefix and after else b"[" + prefix.encode() if prefix else b"-"
            end = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
            ask = pack(b"ZRANGE", index, start, end, b"BYLEX", b"LIMIT", b"0", b"%d" % limit)
            (answer,) = yield Exchange(None, ask, 1)
            names = [name.decode() for name in self._good(answer)]
        else:
            found = yield from self._all_names(prefix, mark)
            smallest = heapq.nsmallest(limit, (name for name in found if name > after.encode()))
            names = [name.decode() for name in smallest]
        return names, names[-1] if len(names) == limit else ""

    def _all_names(self, prefix: str, mark: str) -> Conversation[set[bytes]]:
        """Every name with that prefix on a cluster, where no index can be kept in the same atomic step."""
        names: set[bytes] = set()
        pattern = self.keys.scan_pattern(prefix)
        for address in (yield from self._primaries()):
            cursor = b"0"
            while True:
                ask = pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % SCAN_STEP)
                (answer,) = yield Exchange(address, ask, 1)
                cursor, keys = self._good(answer)
                names.update(self._names(keys, prefix.encode(), mark.encode()))
                if cursor == b"0":
                    break
        return names

    def _names(self, keys: Iterable[bytes], prefix: bytes, mark: bytes) -> Iterable[bytes]:
        for key in keys:
            name = self.keys.name(key, mark)
            if name is not None and name.startswith(prefix):
                yield name

    def _good(self, answer: Any) -> Any:
        if isinstance(answer, RedisError):
            self._mark_stale()
            raise outcome.refused(answer, self._where) from answer
        return answer

    # --- about the server ---------------------------------------------------------------------------------------

    def layout(self) -> Conversation[None]:
        """Marks the layout of what is stored, or refuses a newer one."""
        key = self.keys.layout
        address = yield from self._node_of(key)
        mark = pack(b"SET", key, b"%d" % LAYOUT, b"NX") + pack(b"GET", key)
        answers = yield Exchange(address, mark, 2)
        for answer in answers:
            if isinstance(answer, AskError):
                self._mark_stale()
                raise NotSent(str(answer)) from answer
        self._good(answers[0])
        found = self._good(answers[1])
        if found is not None and int(found) > LAYOUT:
            raise DRefError(
                f"{self._where} holds refs in layout {int(found)}, and this dref_django knows layouts up to {LAYOUT}. "
                "Upgrade dref_django in this process, or set another KEY_PREFIX."
            )

    def epoch(self) -> Conversation[str]:
        """Names the history that versions belong to: replication id and run id of every primary."""
        marks = []
        for address in (yield from self._primaries()):
            ask = pack(b"INFO", b"replication") + pack(b"INFO", b"server")
            answers = yield Exchange(address, ask, 2)
            info = parse_info(b"".join(self._good(answer) for answer in answers))
            marks.append(f"{info.get('master_replid', '')}:{info.get('run_id', '')}")
        if len(marks) == 1:
            return marks[0]
        return hashlib.sha256(" ".join(sorted(marks)).encode()).hexdigest()[:32]

    def any_primary(self) -> Conversation[Address]:
        return random.choice((yield from self._primaries()))  # noqa: S311

    def publish(self, channel: str, payload: bytes) -> Conversation[None]:
        primaries = yield from self._primaries()
        (answer,) = yield Exchange(primaries[0], pack(b"PUBLISH", channel.encode(), payload), 1)
        self._good(answer)

    def information(self, *asks: tuple[bytes, ...]) -> Conversation[list[Any]]:
        """What the first primary answers to each of these commands, errors among it."""
        primaries = yield from self._primaries()
        answers: list[Any] = yield Exchange(primaries[0], b"".join(pack(*ask) for ask in asks), len(asks))
        return answers


def parse_info(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, separator, value in pairs if separator}
