"""Drives the core: what it decides is put on disk, sent, applied and answered, in that order.

One turn: ask the core for its work; send what need not wait and save the rest on the disk's thread, if anything is to
be saved; then apply, answer, and send. While the disk writes, this loop goes on: what is proposed meanwhile goes to the
followers at once and to the disk with the next turn, which is how commits group by themselves. A turn that needs no
disk ends in the step of the loop that began it, and answers before it tells the followers what is committed: the
caller is who waits.

A leader serves reads without the log: the core confirms that it still leads (ReadIndex), and the state machine is asked
at the leader's time. Leader's time is the wall clock of its election, at least the machine's time, and from there a
clock that nobody sets.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple, NoReturn, TypeAlias

from dref_django.protocol import Command

from .calls import Answer, Answered
from .core import Change, Entry, EntryKind, HardState, Message, NotLeader, Raft, RaftError, Ready, Role, Snapshot
from .disk import Disk
from .feeds import Fanout
from .machine import Kind, Machine, Outcome, Request, Verdict, plain_entry
from .proposals import Proposal, entry_of, grouped
from .storage import Storage
from .wire import WireError, decode_commands, encode_replies

logger = logging.getLogger("dref_django")

MAX_QUEUED: Final = 10_000
"""Proposals and reads that wait for the core; more are told to come later."""
MAX_QUEUED_BYTES: Final = 64 << 20
SNAPSHOT_REQUESTS: Final = 20_000
"""Requests applied since the last snapshot that make another one worth its while."""
KEPT_REQUESTS: Final = 5_000
"""About so many before a snapshot stay in the log: a follower that was away for a moment needs no snapshot."""
ANSWERS: Final = {
    Verdict.APPLIED: Answer.DONE,
    Verdict.EXPIRED: Answer.EXPIRED,
    Verdict.FORGOTTEN: Answer.FORGOTTEN,
}


Witness: TypeAlias = tuple[str, int]
"""A node that asked for a read, and the term in which it was then."""


class Query(NamedTuple):
    space: str
    now: int | None
    commands: list[Command]
    answered: Answered
    witness: Witness


def ignore(answer: Answer, body: bytes) -> None:
    """For entries that nobody waits for."""


class LeaderClock:
    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now(self) -> int:
        return self._offset + time.monotonic_ns() // 1000

    def not_before(self, now: int) -> None:
        self._offset += max(0, now - self.now())


class Driver:
    """All of it on one loop."""

    def __init__(
        self,
        raft: Raft,
        storage: Storage,
        disk: Disk,
        machine: Machine,
    ) -> None:
        """`machine` is as of the storage's snapshot."""
        self.raft = raft
        self.fanout = Fanout()
        self.machine = machine
        self.applied = self._snapshot_index = raft.status().snapshot_index
        self._since_snapshot = 0  # requests; entries of other kinds count as one
        self.role, self.term, self.leader = Role.FOLLOWER, 0, ""
        self.on_change: Callable[[], None] = lambda: None
        """Called when role, term or leader changed, or the cluster has its name."""
        self._storage = storage
        self.send: Callable[[Iterable[Message]], None] = lambda messages: None
        """Hands messages to the transport; does not block."""
        self._disk = disk
        self._packing = Disk("dref-raft-snapshot")
        self._snapshotting: asyncio.Task[None] | None = None
        self._unsaved: HardState | None = None  # a commit index that can wait
        self._clock = LeaderClock()
        self._leads = False  # and its LEAD entry is applied
        self._loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[NoReturn] = self._loop.create_future()
        self._is_poked = False
        self._is_saving = False
        self._proposals: list[Proposal] = []
        self._proposed_bytes = 0
        self._queued = 0  # proposals, and who waits for an entry
        self._queries: list[Query] = []
        self._waiting: dict[int, tuple[int, list[Answered]]] = {}  # by index: the term of the entry, who waits for it
        self._unconfirmed: dict[bytes, list[Query]] = {}
        self._later: list[tuple[int, Callable[[], None]]] = []  # by the index that has to be applied first
        self._contexts = 0

    # --- what the node asks -------------------------------------------------------------------------------------

    def batch(self, request: Request, answered: Answered) -> None:
        self._propose(Proposal(answered, request))

    def plain(self, kind: Kind, answered: Answered, session: int = 0) -> None:
        self._propose(Proposal(answered, entry=plain_entry(kind, self._clock.now(), session)))

    def _propose(self, proposal: Proposal) -> None:
        if self._queued >= MAX_QUEUED or self._proposed_bytes > MAX_QUEUED_BYTES:
            proposal.answered(Answer.LATER, b"")
            return
        self._proposals.append(proposal)
        self._queued += 1
        self._proposed_bytes += proposal.size
        self._poke()

    def query(
        self, space: str, now: int | None, commands: bytes, answered: Answered, witness: Witness = ("", 0)
    ) -> None:
        try:
            decoded = decode_commands(commands)
        except WireError as error:
            answered(Answer.REFUSED, str(error).encode())
            return
        if len(self._queries) >= MAX_QUEUED:
            answered(Answer.LATER, b"")
            return
        self._queries.append(Query(space, now, decoded, answered, witness))
        self._poke()

    def after(self, index: int, callback: Callable[[], None]) -> None:
        """Calls back once this node has applied so much, which may be never."""
        self._later.append((index, callback))
        self._serve()

    def now(self) -> int:
        """The time that counts while this node leads."""
        return self._clock.now()

    def change(self, change: Change, answered: Answered) -> None:
        """A change of members; answered when it is committed."""
        try:
            term, index = self.raft.propose_members(change)
        except NotLeader:
            answered(Answer.LATER, b"")
        except RaftError as error:
            answered(Answer.REFUSED, str(error).encode())
        else:
            self._waiting[index] = term, [answered]
            self._queued += 1
            self._poke()

    def transfer(self, to: str | None) -> None:
        """Hands leadership over. Raises `RaftError`."""
        self.raft.transfer(to)
        self._poke()

    def step(self, message: Message) -> None:
        self.raft.step(message)
        self._poke()

    def tick(self) -> None:
        self.raft.tick()
        self._poke()

    def collect(self) -> None:
        """Proposes a TIME entry when something has run out long enough ago."""
        if self._leads and self.machine.is_due(self._clock.now()):
            self.plain(Kind.TIME, ignore)

    # --- turns --------------------------------------------------------------------------------------------------

    def _poke(self) -> None:
        if not self._is_poked:
            self._is_poked = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_poked = False
        if self._failure.done():
            return
        try:
            self._submit()
            if not self._is_saving:
                self._take_turns()
            self.send(self.raft.early_messages())
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def _submit(self) -> None:
        if self._proposals and self._is_up_to_date():
            proposals, self._proposals, self._proposed_bytes = self._proposals, [], 0
            groups, now = list(grouped(proposals)), self._clock.now()
            try:
                term, index = self.raft.propose_many([entry_of(group, now) for group in groups])
            except NotLeader:
                self._queued -= len(proposals)
                for proposal in proposals:
                    proposal.answered(Answer.LATER, b"")
            else:
                for place, group in enumerate(groups):
                    self._waiting[index + place] = term, [proposal.answered for proposal in group]
        if self._queries and self._leads:
            queries, self._queries = self._queries, []
            by_witness: dict[Witness, list[Query]] = {}
            for query in queries:
                by_witness.setdefault(query.witness, []).append(query)
            for witness, asked in by_witness.items():
                self._contexts += 1
                context = self._contexts.to_bytes(8, "big")
                self._unconfirmed[context] = asked
                self.raft.read(context, witness)

    def _is_up_to_date(self) -> bool:
        """Not while the core has just won an election of which the next turn tells: first comes its LEAD entry."""
        status = self.raft.status()
        return status.role is not Role.LEADER or (self.role is Role.LEADER and status.term == self.term)

    async def run(self) -> NoReturn:
        """Raises what the disk raises, after which this node must not go on."""
        self._poke()
        await self._failure

    def _take_turns(self) -> None:
        """As many as there are until the disk has to be waited for."""
        while self.raft.has_ready():
            ready = self.raft.ready()
            self._note_role(ready)
            hard_state = ready.hard_state or self._unsaved
            if ready.must_sync:
                self.send(ready.early_messages)
                self._unsaved, self._is_saving = None, True
                save = partial(self._storage.save, hard_state, ready.truncate_from, ready.entries, ready.snapshot)
                self._disk.call(save, partial(self._saved, ready))
                return
            self._unsaved = hard_state
            self._finish(ready)
            self.send(ready.messages + ready.early_messages)

    def _saved(self, ready: Ready, _: None, error: BaseException | None) -> None:
        self._is_saving = False
        if error is not None:
            self._fail(error)
        if self._failure.done():
            return
        try:
            self.send(ready.messages)  # another node waits for them
            self._finish(ready)
        except BaseException as failure:
            self._fail(failure)
        self._pump()

    def _finish(self, ready: Ready) -> None:
        """Everything but messages, once what had to be saved is."""
        if ready.snapshot is not None:
            self._install(ready.snapshot)
        for entry in ready.committed:
            self._apply(entry)
        for read in ready.reads:
            self._later.append((read.index, partial(self._answer_all, self._unconfirmed.pop(read.context, []))))
        for context in ready.failed_reads:
            for query in self._unconfirmed.pop(context, []):
                query.answered(Answer.LATER, b"")
        self.raft.advance(ready)
        self._serve()
        if self._since_snapshot >= SNAPSHOT_REQUESTS and self._snapshotting is None:
            self._snapshotting = self._loop.create_task(self._compact())
            self._snapshotting.add_done_callback(self._compacted)

    def _note_role(self, ready: Ready) -> None:
        now = (ready.role, ready.term, ready.leader or "")
        if now == (self.role, self.term, self.leader):
            return
        led, term = self.role is Role.LEADER, self.term
        self.role, self.term, self.leader = now
        if led and (self.role is not Role.LEADER or self.term != term):
            self._stop_leading()
        if self.role is Role.LEADER and (not led or self.term != term):
            self._clock = LeaderClock()
            self._clock.not_before(self.machine.now)
            lead = plain_entry(Kind.LEAD, self._clock.now(), secrets.token_hex(8))
            self._proposals.insert(0, Proposal(self._led, entry=lead))
            self._queued += 1
            self._poke()
        self.on_change()

    def _led(self, answer: Answer, body: bytes) -> None:
        if answer is Answer.DONE and self.role is Role.LEADER:
            self._leads = True
            self._clock.not_before(self.machine.now)
            self._poke()

    def _stop_leading(self) -> None:
        self._leads = False
        waiting, self._waiting = self._waiting, {}
        for _, answereds in waiting.values():
            self._queued -= len(answereds)
            for answered in answereds:
                answered(Answer.LOST, b"")
        queries, self._queries = self._queries, []
        for query in queries:
            query.answered(Answer.LATER, b"")

    def _apply(self, entry: Entry) -> None:
        outcomes = [Outcome(Verdict.APPLIED)]
        if entry.kind is EntryKind.COMMAND:
            named = self.machine.cluster_id
            outcomes = self.machine.apply(entry.index, entry.data)
            for outcome in outcomes:
                for space, events in outcome.events:
                    self.fanout.publish(space, events)
            if named != self.machine.cluster_id:
                self.on_change()
        self.applied = entry.index
        self._since_snapshot += len(outcomes)
        term, waiting = self._waiting.pop(entry.index, (0, []))
        self._queued -= len(waiting)
        if term == entry.term:
            for answered, outcome in zip(waiting, outcomes, strict=True):
                answer = ANSWERS.get(outcome.verdict, Answer.REFUSED)
                answered(answer, b"this node cannot read that" if answer is Answer.REFUSED else outcome.result)
        else:
            for answered in waiting:
                answered(Answer.LATER, b"")  # another entry took its place: it never will be applied

    def _install(self, snapshot: Snapshot) -> None:
        self.machine = Machine.restore(snapshot.data)
        self.applied = self._snapshot_index = snapshot.index
        self._since_snapshot = 0
        self._stop_leading()
        self.fanout.up(self.machine.cluster_id)

    # --- reads --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        if not self._later:
            return
        ready = [callback for index, callback in self._later if index <= self.applied]
        self._later = [(index, callback) for index, callback in self._later if index > self.applied]
        for callback in ready:
            callback()

    def _answer_all(self, queries: list[Query]) -> None:
        for query in queries:
            self._answer(query)

    def _answer(self, query: Query) -> None:
        now = query.now
        if now is None:
            if not self._leads:
                query.answered(Answer.LATER, b"")
                return
            now = self._clock.now()
            if self.machine.turns(query.space, query.commands, now):
                self.plain(Kind.TIME, lambda answer, body: self._turned(query, answer))
                return
        try:
            result = encode_replies(self.machine.query(query.space, query.commands, now))
        except ValueError as error:
            query.answered(Answer.REFUSED, str(error).encode())
        else:
            query.answered(Answer.DONE, result)

    def _turned(self, query: Query, answer: Answer) -> None:
        if answer is Answer.DONE:
            self._answer(query)
        else:
            query.answered(Answer.LATER, b"")

    # --- snapshots and the end ----------------------------------------------------------------------------------

    async def _compact(self) -> None:
        index, requests, capture = self.applied, self._since_snapshot, self.machine.capture()
        kept = KEPT_REQUESTS * (index - self._snapshot_index) // requests
        data = await self._packing.run(capture.encode)
        snapshot = self.raft.compact(index, data, kept)
        if snapshot is not None:
            self._snapshot_index = index
            self._since_snapshot -= requests
            await self._disk.run(self._storage.compact, snapshot, kept)

    def _compacted(self, task: asyncio.Task[None]) -> None:
        self._snapshotting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def close(self) -> None:
        """After `run` was cancelled: waits for the disk, and closes the database."""
        self._stop_leading()
        if self._snapshotting is not None:
            self._snapshotting.cancel()
        unsaved, self._unsaved = self._unsaved, None
        try:
            if unsaved is not None:
                await self._disk.run(self._storage.save, unsaved, None, (), None)
        finally:
            await self._disk.run(self._storage.close)
            self._disk.close()
            self._packing.close()
