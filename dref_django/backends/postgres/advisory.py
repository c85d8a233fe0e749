"""The process's connection for locks: which advisory locks it has taken, and what it says.

Session locks are counted: each grant takes its key once, even one whose key this session has already for a lease that
ran out, and `holdings` knows what is to be given back, once each. Everything here but the watching thread's part runs
under the connection's mutex, in the order in which the server runs it.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from psycopg.pq.abc import PGconn, PGresult

from dref_django.clock import Clock
from dref_django.protocol import Acquire, Command, Release, Renew, Reply, Status, Wake

from .binary import (
    BOOL,
    INT8,
    INT8S,
    TEXT,
    TEXTS,
    Line,
    boolean,
    int8,
    int8s,
    maybe_int8,
    texts,
)
from .channels import Channels
from .session import Refused
from .shared import Call, SharedSession
from .statements import LEASES, Statement, lease_params, read_leases, statement

if TYPE_CHECKING:
    from .locks import Locks

IN_A_ROW: Final = 8
"""Times that a lease is handed over within a process before another process that waits has its turn."""
IDLE_SLACK: Final = 20_000
"""Milliseconds beyond the longest lease after which the server ends a session from which nothing comes."""
TICK: Final = 10.0
"""Seconds between two looks at what was left over. Less than IDLE_SLACK."""
SLACK: Final = 1.0
"""Seconds after the end of a lease before its advisory lock counts as left over."""

NO_KEY: Final = "DREF2"

_BACKED: Final = 10
"""The column of dref_leases() that says whether this session backs the lease now."""

TAKE: Final = statement("take", TEXT, INT8, INT8, TEXT, TEXT, INT8, TEXT, INT8)
GIVE: Final = statement("give", TEXT, INT8, TEXT, TEXT, INT8, INT8, TEXT, BOOL, INT8, BOOL, TEXT)
RENEW: Final = statement("renew", TEXT, INT8, TEXTS, TEXTS, INT8S, INT8S)
IDLE: Final = Statement(b"dref_idle", b"SELECT set_config('idle_session_timeout', $1, false)", (TEXT,))
UNLOCK: Final = Statement(b"dref_unlock", b"SELECT pg_advisory_unlock(dref_key($1, $2))", (TEXT, TEXT))
UNLOCK_ALL: Final = Statement(b"dref_unlock_all", b"SELECT pg_advisory_unlock_all()", ())


class Holding(NamedTuple):
    """A lease for which this session has taken the advisory lock once."""

    token: int
    ttl: int
    ends: float
    """By the back end's monotonic clock, a moment after its deadline."""


Popped: TypeAlias = tuple[Release, Holding]


@functools.lru_cache(4096)
def key(space: bytes, name: str) -> bytes:
    """The key of the advisory lock behind a lease, as dref_key() says, in binary."""
    return hashlib.sha256(b"dref_lock\n%b\n%b" % (space, name.encode())).digest()[:8]


class LockSession(SharedSession):
    """`number` is what the rows call this session."""

    def __init__(
        self, pgconn: PGconn, key: object, space: str, node: str, timeout: float, clock: Clock, owner: Locks
    ) -> None:
        super().__init__(pgconn)
        self.key = key
        self.number = secrets.randbelow(2**62) + 1
        self._number = int8(self.number)
        self.holdings: dict[tuple[str, str], Holding] = {}
        self._space_name, self._space = space, space.encode()
        self._nodes = Channels(space).nodes.encode()
        self._node, self._own = f"{node}/", f"{node}/".encode()
        self._timeout = timeout
        self._clock = clock
        self._owner = owner
        self._idle = 0
        self._leaky = False  # a statement failed: what it may have locked is to be unlocked
        self._streaks: dict[str, int] = {}
        self.start()

    # --- commands to statements ---------------------------------------------------------------------------------

    def call(self, commands: Sequence[Command], now: int | None, *, exact: bool = False) -> Call:
        """The statement that runs this batch. Its value: the replies, or None when only an `exact` one can tell."""
        if len(commands) == 1 and not exact:
            match commands[0]:
                case Acquire() as acquire if not acquire.wait or self._owner.lookout.expects(acquire):
                    return self._take(acquire, now)  # not of who queues up: it was refused a moment ago
                case Release() as release:
                    return self._give(release, now)
        self._stay_awake(max((each.ttl for each in commands if isinstance(each, (Acquire, Renew))), default=0))
        if not exact and all(isinstance(each, Renew) and (each.name, each.owner) in self.holdings for each in commands):
            renewals = [each for each in commands if isinstance(each, Renew)]
            if len({each.name for each in renewals}) == len(renewals):
                return self._renew(renewals, now)
        popped: list[Popped] = []
        releases = [self._let_go(each, popped) for each in commands]
        params = lease_params(self._space_name, commands, now, self.number, self._node, releases)
        return Call(LEASES, params, self._settle(commands), self._refused(popped))

    def _let_go(self, command: Command, popped: list[Popped]) -> tuple[bool, bool]:
        """Of dref_leases(): whether the advisory lock is given back, and whether a waiter of this process is next."""
        if not isinstance(command, Release):
            return False, False
        holding = self._pop(command)
        if holding is not None:
            popped.append((command, holding))
        return holding is not None, self._is_near(command.name)

    def _take(self, command: Acquire, now: int | None) -> Call:
        name, ttl = command.name, command.ttl
        self._stay_awake(ttl)
        params = (
            self._space, maybe_int8(now), self._number, name.encode(), command.owner.encode(), int8(ttl),
            command.meta.encode(), key(self._space, name),
        )  # fmt: skip

        def settle(call: Call, result: PGresult) -> Sequence[Wake]:
            if result.ntuples:
                reply = Reply(Status.APPLIED, left=ttl, token=Line(result).integer(0))
                self._note(command, reply, backed=True)
                call.value = [reply]
            return ()

        return Call(TAKE, params, settle, self._no_key)

    def _no_key(self, refused: Refused) -> bool:
        if refused.sqlstate == NO_KEY:
            return True
        self._leaked()
        return False

    def _leaked(self) -> None:
        """A statement failed, and what it locked stays locked. Nobody can say which; so all is unlocked in time."""
        self._leaky = True
        if not self.holdings and not self._calls:
            self._clean_up()

    def _give(self, command: Release, now: int | None) -> Call:
        name = command.name
        holding = self._pop(command)
        params = (
            self._space, maybe_int8(now), name.encode(), command.owner.encode(), int8(command.token),
            int8(command.keep), self._own, boolean(self._is_near(name)), key(self._space, name),
            boolean(holding is not None), self._nodes,
        )  # fmt: skip

        def settle(call: Call, result: PGresult) -> Sequence[Wake]:
            if not result.ntuples:
                if holding is not None:
                    self.holdings[name, command.owner] = holding
                return ()
            line = Line(result)
            call.value = [Reply(Status.APPLIED, existed=True, token=line.integer(0))]
            woken = line.text(1)
            wakes = (Wake(name, woken),) if woken.startswith(self._node) else ()
            self._count(command, wakes)
            return wakes

        return Call(GIVE, params, settle, self._refused([] if holding is None else [(command, holding)]))

    def _renew(self, commands: Sequence[Renew], now: int | None) -> Call:
        params = (
            self._space, maybe_int8(now), texts([each.name for each in commands]),
            texts([each.owner for each in commands]), int8s([each.token for each in commands]),
            int8s([each.ttl for each in commands]),
        )  # fmt: skip

        def settle(call: Call, result: PGresult) -> Sequence[Wake]:
            lines = (Line(result, row) for row in range(len(commands)))
            replies = [_renewed(each, line) for each, line in zip(commands, lines, strict=True)]
            for command, reply in zip(commands, replies, strict=True):
                self._note(command, reply, backed=True)
            call.value = replies
            return ()

        return Call(RENEW, params, settle)

    def _pop(self, command: Release) -> Holding | None:
        """The advisory lock that this release gives back, if there is one: each is given back once."""
        place = command.name, command.owner
        self._owner.lookout.forget(*place)
        holding = self.holdings.get(place)
        if holding is None or command.token not in (0, holding.token):
            return None
        return self.holdings.pop(place)

    def _refused(self, popped: list[Popped]) -> Callable[[Refused], bool]:
        def refused(_: Refused) -> bool:
            for command, holding in popped:
                self.holdings[command.name, command.owner] = holding
            self._leaked()
            return False

        return refused

    def _is_near(self, name: str) -> bool:
        return self._streaks.get(name, 0) < IN_A_ROW

    def _stay_awake(self, ttl: int) -> None:
        """idle_session_timeout is to be longer than this lease."""
        if ttl // 1000 + IDLE_SLACK > self._idle:
            self._idle = ttl // 1000 + IDLE_SLACK
            self.say(Call(IDLE, (str(self._idle).encode(),)))

    # --- what came back -----------------------------------------------------------------------------------------

    def _settle(self, commands: Sequence[Command]) -> Callable[[Call, PGresult], Sequence[Wake]]:
        def settle(call: Call, result: PGresult) -> Sequence[Wake]:
            answer = read_leases(result, commands)
            call.value = answer.replies
            for line in (Line(result, row) for row in range(result.ntuples)):
                place = line.integer(0) - 1
                self._note(commands[place], answer.replies[place], backed=line.truth(_BACKED))
            wakes = [event for event in answer.events if isinstance(event, Wake)]
            for command in commands:
                if isinstance(command, Release):
                    self._count(command, wakes)
            return wakes

        return settle

    def _note(self, command: Command, reply: Reply, *, backed: bool) -> None:
        """Keeps the list of advisory locks true, and gives back one whose lease this session has lost."""
        if not isinstance(command, (Acquire, Renew)):
            return
        place = command.name, command.owner
        before = self.holdings.get(place)
        held = reply.status is Status.APPLIED
        if held:
            self._owner.lookout.forget(*place)
        elif isinstance(command, Acquire) and command.wait > 0:
            self._owner.lookout.expect(command)
        if before is not None and not (held and reply.token == before.token):
            if isinstance(command, Renew) and command.token != before.token:
                return
            del self.holdings[place]
            self.say(Call(UNLOCK, (self._space, command.name.encode())))
        if held and backed:
            ends = self._clock.monotonic() + command.ttl / 1e6 + SLACK
            self.holdings[place] = Holding(reply.token, command.ttl, ends)

    def _count(self, command: Release, wakes: Sequence[Wake]) -> None:
        if any(wake.name == command.name and wake.owner.startswith(self._node) for wake in wakes):
            self._streaks[command.name] = self._streaks.get(command.name, 0) % IN_A_ROW + 1
        elif self._streaks:
            self._streaks.pop(command.name, None)

    # --- the watching thread ------------------------------------------------------------------------------------

    def deliver(self, wakes: Sequence[Wake]) -> None:
        self._owner.deliver(wakes, self._node)

    def ended(self) -> None:
        with self.mutex:
            lost = list(self.holdings)
            self.holdings.clear()
        try:
            self._owner.lost(self, lost)
        except ReferenceError:  # nobody is left who could hold anything
            return

    def tick(self) -> float:
        """Looks for what was left over."""
        self.take_in()
        longest = max((holding.ttl for holding in list(self.holdings.values())), default=0) / 1e6
        if self.waiting_for() > max(longest, self._timeout):
            self.end("no reply for longer than any lease")
            return TICK
        now = self._clock.monotonic()
        with self.mutex:
            if self.reason is not None:
                return TICK
            for (name, owner), holding in list(self.holdings.items()):
                if holding.ends < now:  # its holder hangs
                    self.say(self._give(Release(name, owner, holding.token), self._clock.now()))
            if not self.holdings and not self.waiting_for():
                self._clean_up()
        return TICK

    def _clean_up(self) -> None:
        if self._leaky:
            self._leaky = False
            self.say(Call(UNLOCK_ALL, ()))
        if self._idle:
            self._idle = 0
            self.say(Call(IDLE, (b"0",)))


def _renewed(command: Renew, line: Line) -> Reply:
    if line.truth(0):
        return Reply(Status.APPLIED, left=command.ttl, token=command.token)
    return Reply(Status.LOST, token=line.integer(1))
