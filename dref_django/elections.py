"""Elections: one leader in the whole cluster, and everybody can know who it is.

    election = Election("scheduler")
    with election.lead(timeout=None) as term:      # async with as well
        while True:
            term.check()                           # LockLost once leading cannot be proven any more
            ...

    election.leader()                              # Leader(identity, metadata, token ...) or None
    for leader in election.observe(): ...          # now, and each change

The lease "election:<name>" is the truth; who holds it leads. Beside it an entry keeps who was elected last. It only
speaks of the truth: it tells observers when to look again, and the winner whom it took over from.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from . import backends, conf, naming
from .codecs import get_codec
from .exceptions import DRefError, LockLost
from .flows import Flow, adrive, drive
from .held import Held
from .keeper import SOONEST
from .leasing import RECHECK
from .locks import DEFAULT_TTL, SETTING, Lock, Timeout, who_am_i
from .observations import Look, Observation
from .protocol import ABSENT, OP_ID_SIZE, Data, Inspect, LeaseInfo, Read, Reply, Status, Write, check_name
from .streams import call_back

logger = logging.getLogger("dref_django")

KIND: Final = "election"
GROUP: Final = "dref.election"
"""The reserved group of the entries that say who was elected last."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as its lease says. `since` is the election by the server's clock; `token` rises with each of them."""

    identity: str
    metadata: dict[str, Any]
    token: int
    since: datetime
    host: str
    pid: int | None
    left: float = field(compare=False)
    """Seconds until the lease runs out unless it is renewed."""


class Election:
    """Candidates for one name; at most one leads at a time.

    - `ttl`: the lease in seconds, 1 or more: so long others wait at the most when the leader dies or freezes.
    - `identity`: what others see of this candidate; default host:pid:random. `metadata`: a dict that JSON can hold.
    - `on_elected(term)`, `on_lost()`: called on the process's callback thread.
    - `using`: the back end.

    One object may be used by many threads and tasks; within one process, too, only one of them leads.
    """

    def __init__(
        self,
        name: str,
        *,
        ttl: float = DEFAULT_TTL,
        identity: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_elected: Callable[[Held], Any] | None = None,
        on_lost: Callable[[], Any] | None = None,
        using: str = conf.DEFAULT_ALIAS,
    ) -> None:
        self.name = check_name(name)
        self.metadata: dict[str, Any] = json.loads(json.dumps(dict(metadata or {})))
        self.ttl = ttl
        self.on_elected = on_elected
        self.on_lost = on_lost
        self.using = using
        self._given_identity = identity
        self._own_identity = (0, "")
        self._terms: list[Held] = []
        self._mutex = threading.Lock()
        self._campaign = Candidacy(self)

    def __repr__(self) -> str:
        return f"Election({self.name!r}, identity={self.identity!r})"

    @property
    def identity(self) -> str:
        if self._given_identity is not None:
            return self._given_identity
        pid = os.getpid()
        if self._own_identity[0] != pid:
            self._own_identity = (pid, f"{who_am_i()['host']}:{pid}:{secrets.token_hex(4)}")
        return self._own_identity[1]

    # --- being the leader ---------------------------------------------------------------------------------------

    def lead(self, timeout: Timeout = SETTING) -> Candidacy:
        """A context manager: waits to be elected, leads for the length of the block, then resigns.

        `timeout`: seconds to wait, then `LockTimeout`; default the setting LOCK_TIMEOUT; None waits for ever. The block
        is given the term, a `Held`: `term.token`, `term.check()`, `term.lost`, `term.remaining()`. When the term is
        lost, an `async with` body is cancelled, and leaving the block raises `LockLost`.
        """
        return Candidacy(self, timeout)

    def campaign(self, timeout: Timeout = SETTING) -> Held:
        """Waits to be elected as `lead` does, and leads until `resign()`. Leading already, it returns that term."""
        return self._leading() or self._campaign.acquire(timeout)

    async def acampaign(self, timeout: Timeout = SETTING) -> Held:
        return self._leading() or await self._campaign.aacquire(timeout)

    def resign(self) -> bool:
        """Ends the term of this object, if any, so that another is elected at once. Returns whether it led."""
        return drive(self._backend(), self._resign())

    async def aresign(self) -> bool:
        return await adrive(self._backend(), self._resign())

    @property
    def is_leader(self) -> bool:
        """Whether it is proven that this object leads now. No I/O: false from the local deadline on, come what may."""
        return self._leading() is not None

    # --- seeing the leader --------------------------------------------------------------------------------------

    def leader(self) -> Leader | None:
        """Who leads now, asked of the back end; None when nobody does."""
        return drive(self._backend(), self._look())

    async def aleader(self) -> Leader | None:
        return await adrive(self._backend(), self._look())

    def observe(self, timeout: float | None = None) -> LeaderObservation:
        """The leader now (or None), then each change: `for`, `async for`, also as a context manager.

        A resignation and an election show at once, the end of a leader that died when its lease has run out. Who
        follows quickly may hide who was before. Iteration ends after `timeout` seconds without a change (None: never).
        """
        return LeaderObservation(self, timeout)

    # --- flows --------------------------------------------------------------------------------------------------

    def _backend(self) -> backends.Backend:
        return backends.get_backend(self.using)

    @property
    def _record(self) -> str:
        return naming.grouped(self.name, GROUP)

    def _leading(self) -> Held | None:
        for term in tuple(self._terms):
            if term.remaining() > 0:
                return term
        return None

    def _look(self) -> Flow[Leader | None]:
        reply: Reply = yield Inspect(f"{KIND}:{self.name}")
        row = reply.lease
        return None if reply.status is not Status.APPLIED or row is None or not row.owner else _leader(row)

    def _resign(self) -> Flow[bool]:
        led = False
        for term in tuple(self._terms):
            if term.remaining() > 0:
                try:
                    yield from self._campaign.give(term)
                    led = True
                except LockLost:
                    continue
        return led

    def _elected(self, term: Held) -> Flow[None]:
        with self._mutex:
            self._terms = [other for other in self._terms if other.remaining() > 0]
            self._terms.append(term)
        try:
            reply: Reply = yield Read(self._record)
            before = self._decode(reply.data)
            if before.get("token", 0) < term.token:
                yield from self._write(reply.version if reply.data is not None else ABSENT, term, resigned=False)
        except DRefError as error:
            before = {}
            logger.warning("dref: election %r: observers are not told at once: %s", self.name, error)
        extra = {"dref_event": "elected", "dref_name": self.name, "dref_token": term.token}
        logger.info(
            "dref: election %r: %s %s (token %d)", self.name, self.identity, _how(before), term.token, extra=extra
        )
        if self.on_elected is not None:
            on_elected = self.on_elected
            call_back(lambda: on_elected(term))

    def _resigned(self, term: Held) -> Flow[None]:
        extra = {"dref_event": "resigned", "dref_name": self.name, "dref_token": term.token}
        logger.info("dref: election %r: %s resigned (token %d)", self.name, self.identity, term.token, extra=extra)
        try:
            reply: Reply = yield Read(self._record)
            if self._decode(reply.data).get("token") == term.token:
                yield from self._write(reply.version, term, resigned=True)
        except DRefError as error:
            logger.warning("dref: election %r: observers are not told at once: %s", self.name, error)

    def _write(self, expect: int, term: Held, *, resigned: bool) -> Flow[Reply]:
        """Refused, and rightly, when a later leader was quicker."""
        record = {"identity": self.identity, "metadata": self.metadata, "token": term.token, "resigned": resigned}
        data = get_codec(term.backend.params.codec).encode(record)
        reply: Reply = yield Write(self._record, data, expect, op=os.urandom(OP_ID_SIZE))
        return reply

    def _decode(self, data: Data | None) -> dict[str, Any]:
        if not isinstance(data, bytes):
            return {}
        record = get_codec(self._backend().params.codec).decode(data)
        return record if isinstance(record, dict) else {}


class Candidacy(Lock):
    """What `Election.lead()` returns: the lock whose holder leads."""

    kind = KIND

    def __init__(self, election: Election, timeout: Timeout = SETTING) -> None:
        super().__init__(
            election.name, ttl=election.ttl, timeout=timeout, on_lost=election.on_lost, using=election.using
        )
        self._election = election

    def _meta(self) -> str:
        election = self._election
        return json.dumps({**who_am_i(), "identity": election.identity, "metadata": election.metadata})

    def _take(self, timeout: float | None, names: Sequence[str] = ()) -> Flow[tuple[Held, ...]]:
        helds = yield from super()._take(timeout, names)
        try:
            yield from self._election._elected(helds[0])
        except BaseException:
            helds[0].hand_back()
            raise
        return helds

    def _give(self, helds: Sequence[Held], *, strict: bool) -> Flow[None]:
        terms = [term for term in helds if not term.released]
        yield from super()._give(helds, strict=strict)
        for term in terms:
            yield from self._election._resigned(term)

    def give(self, term: Held) -> Flow[None]:
        return self._give((term,), strict=True)


class LeaderObservation(Observation["Leader | None"]):
    """The leader now and each change to come, see `Election.observe`."""

    retry = RECHECK

    def __init__(self, election: Election, timeout: float | None) -> None:
        super().__init__(election._backend(), election, timeout, name=election._record)
        self._election = election
        self._token: int | None = None  # of the leader that was told last; 0 for nobody

    def _look(self) -> Flow[Look[Leader | None]]:
        self._buffer.pop()
        leader = yield from self._election._look()
        token = 0 if leader is None else leader.token
        if token != self._token:
            self._token = token
            return Look((leader,))
        return Look(None, RECHECK if leader is None else max(leader.left, SOONEST))


def _leader(row: LeaseInfo) -> Leader:
    try:
        meta = json.loads(row.meta)
    except ValueError:
        meta = {}
    return Leader(
        identity=str(meta.get("identity", "")),
        metadata=dict(meta.get("metadata", {})),
        token=row.token,
        since=datetime.fromtimestamp(row.since / 1e6, UTC),
        host=str(meta.get("host", "")),
        pid=meta.get("pid"),
        left=row.left / 1e6,
    )


def _how(before: dict[str, Any]) -> str:
    if not before:
        return "was elected; nobody is known to have led before"
    if before.get("resigned"):
        return f"was elected after {before.get('identity')} resigned"
    return f"took over from {before.get('identity')}, which did not resign"
