"""Plays a script: real cores, messages that move only when told to, and a line for whatever a reader should see."""

from __future__ import annotations

from collections.abc import Callable

from dref_django.backends.raft.core import (
    AddLearner,
    Append,
    AppendReply,
    Change,
    Config,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    Members,
    Message,
    PreVote,
    PreVoteReply,
    Promote,
    Raft,
    RaftError,
    Ready,
    Remove,
    Role,
    SnapshotChunk,
    Vote,
    VoteReply,
    bootstrap,
)
from tests.raft.simulation.disk import Disk, Write

ELECTION_TICKS = 10


VOTING = (PreVote, PreVoteReply, Vote, VoteReply)


class Dice:
    """Time-outs in a fixed order: a story does not depend on luck."""

    def __init__(self, position: int) -> None:
        self._position = position
        self._number = 0

    def randrange(self, stop: int, /) -> int:
        return 2 + self._position

    def getrandbits(self, k: int, /) -> int:
        self._number += 1
        return self._number


class Actor:
    def __init__(self, name: str, position: int, disk: Disk) -> None:
        self.name = name
        self.position = position
        self.disk = disk
        self.raft: Raft | None = None
        self.values: list[str] = []
        self.is_stalled = False
        self.held: Ready | None = None
        self.shown = ""

    def start(self) -> None:
        contents = self.disk.durable
        self.values = contents.snapshot.data.decode().split() if contents.snapshot else []
        self.shown = ""
        self.raft = Raft(
            Config(self.name, election_ticks=ELECTION_TICKS, chunk_bytes=6, chunk_window=1, max_batch_bytes=1),
            hard_state=contents.hard_state,
            snapshot=contents.snapshot,
            entries=contents.entries,
            random=Dice(self.position),
        )


class Stage:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self._actors: dict[str, Actor] = {}
        self._pool: list[Message] = []
        self._copies: list[Message] = []
        self._cut: set[tuple[str, str]] = set()

    def play(self, line: str) -> None:
        name, *arguments = line.split()
        command: Callable[..., None] = getattr(self, f"on_{name}")
        command(*arguments)

    # The cluster

    def on_nodes(self, *names: str) -> None:
        hard_state, entries = bootstrap(Members(frozenset(names)))
        for name in names:
            self._add(name, Disk(Write(hard_state, entries=entries)))
        self.on_start()

    def _add(self, name: str, disk: Disk) -> Actor:
        actor = self._actors[name] = Actor(name, len(self._actors), disk)
        return actor

    def on_log(self, name: str, *terms: str) -> None:
        """The first entry is the founding one; who is a member is known when all logs are."""
        *terms_in_log, last = terms
        current = last.removeprefix("@")
        if last == current:
            terms_in_log.append(last)
        entries = [Entry(index, int(term), EntryKind.COMMAND, b"") for index, term in enumerate(terms_in_log, 1)]
        self._add(name, Disk(Write(HardState(int(current), "", 1), entries=tuple(entries))))

    def on_start(self) -> None:
        _, founding = bootstrap(Members(frozenset(self._actors)))
        for actor in self._actors.values():
            if actor.raft is None:
                contents = actor.disk.durable
                if contents.entries and contents.entries[0].kind is EntryKind.COMMAND:
                    contents.entries[0] = founding[0]
                    actor.disk.written = contents.copy()
                self._start(actor)

    def _start(self, actor: Actor) -> None:
        """What a node knows when it starts is not worth a line."""
        actor.start()
        said = len(self.lines)
        self._pump(actor)
        del self.lines[said:]

    def on_new(self, name: str) -> None:
        self._start(self._add(name, Disk()))

    def on_curtain(self) -> None:
        """The end; another story begins."""
        self.__init__()  # type: ignore[misc]

    def on_crash(self, name: str) -> None:
        actor = self._actors[name]
        actor.raft = actor.held = None
        actor.is_stalled = False
        if actor.disk.is_dirty:
            actor.disk = _restored(actor.disk)
            self._say(f"{name} loses what was not on its disk")

    def on_restart(self, name: str) -> None:
        self.on_crash(name)
        self._start(self._actors[name])

    def on_stall(self, name: str) -> None:
        self._actors[name].is_stalled = True

    def on_sync(self, name: str) -> None:
        actor = self._actors[name]
        actor.is_stalled = False
        ready, actor.held = actor.held, None
        if ready:
            self._finish(actor, ready)
        self._pump(actor)

    # Time and messages

    def on_elect(self, name: str) -> None:
        """Nobody has heard from a leader for long, this node is the first to act, and only votes travel."""
        for actor in self._actors.values():
            if actor.raft and actor.name != name:
                self.on_tick(actor.name, str(ELECTION_TICKS))
        self.on_tick(name, str(ELECTION_TICKS + 2 + self._actors[name].position))
        while votes := [message for message in self._pool if isinstance(message, VOTING)]:
            self._pool.remove(votes[0])
            self._deliver(votes[0])

    def on_tick(self, name: str, times: str = "1") -> None:
        for _ in range(int(times)):
            self._raft(name).tick()
            self._pump(self._actors[name])

    def on_run(self) -> None:
        while self._pool:
            self._deliver(self._pool.pop(0))

    def on_deliver(self, link: str, kind: str = "") -> None:
        for message in self._take(link, kind):
            self._say(_shown(message))
            self._deliver(message)

    def on_drop(self, link: str, kind: str = "") -> None:
        self._take(link, kind)

    def on_hold(self, link: str, kind: str = "") -> None:
        self._copies += self._take(link, kind)

    def on_copy(self, link: str, kind: str = "") -> None:
        copies = self._take(link, kind)
        self._copies += copies
        self._pool += copies

    def on_release(self) -> None:
        copies, self._copies = self._copies, []
        for message in copies:
            self._say(_shown(message))
            self._deliver(message)

    def on_cut(self, name: str, other: str = "") -> None:
        others = [other] if other else [each for each in self._actors if each != name]
        self._cut |= {link for each in others for link in ((name, each), (each, name))}

    def on_heal(self) -> None:
        self._cut.clear()

    def _take(self, link: str, kind: str) -> list[Message]:
        sender, to = link.split("->")
        taken = [
            message
            for message in self._pool
            if message.sender == sender and to in (message.to, "*") and kind in ("", type(message).__name__)
        ]
        self._pool = [message for message in self._pool if message not in taken]
        return taken

    def _deliver(self, message: Message) -> None:
        actor = self._actors[message.to]
        if actor.raft and (message.sender, message.to) not in self._cut:
            actor.raft.step(message)
            self._pump(actor)

    # Requests

    def on_propose(self, name: str, text: str) -> None:
        self._ask(name, lambda raft: raft.propose(text.encode()))

    def on_read(self, name: str, *contexts: str) -> None:
        def ask(raft: Raft) -> None:
            for context in contexts:
                raft.read(context.encode())

        self._ask(name, ask)

    def on_transfer(self, name: str, to: str) -> None:
        self._ask(name, lambda raft: raft.transfer(to))

    def on_compact(self, name: str, keep: str = "0") -> None:
        actor = self._actors[name]
        raft = self._raft(name)
        snapshot = raft.compact(raft.status().applied, " ".join(actor.values).encode(), int(keep))
        if snapshot:
            actor.disk.compact(snapshot, int(keep))
            actor.disk.sync()
            self._say(f"{name} has a snapshot at {snapshot.index}")

    def on_add(self, name: str, node: str) -> None:
        self._change(name, AddLearner(node))

    def on_promote(self, name: str, node: str) -> None:
        self._change(name, Promote(node))

    def on_remove(self, name: str, node: str) -> None:
        self._change(name, Remove(node))

    def _change(self, name: str, change: Change) -> None:
        self._ask(name, lambda raft: raft.propose_members(change))

    def _ask(self, name: str, request: Callable[[Raft], object]) -> None:
        try:
            request(self._raft(name))
        except RaftError as error:
            self._say(f"{name} refuses: {error}")
        self._pump(self._actors[name])

    def _raft(self, name: str) -> Raft:
        raft = self._actors[name].raft
        if raft is None:
            raise ValueError(f"{name} is down")
        return raft

    # The driver

    def _pump(self, actor: Actor) -> None:
        raft = actor.raft
        while raft and raft.has_ready():
            ready = raft.ready()
            self._show(actor, ready)
            self._pool += ready.early_messages
            actor.disk.save(ready)
            if ready.must_sync and actor.is_stalled:
                actor.held = ready
                return
            self._finish(actor, ready)
        if raft and actor.held:
            self._pool += raft.early_messages()

    def _finish(self, actor: Actor, ready: Ready) -> None:
        actor.disk.sync()
        self._pool += ready.messages
        if ready.snapshot:
            actor.values = ready.snapshot.data.decode().split()
        blank = [entry.index for entry in ready.committed if entry.kind == EntryKind.COMMAND and not entry.data]
        if blank:
            self._say(f"{actor.name} applies {blank[0]}" + (f" to {blank[-1]}" if len(blank) > 1 else ""))
        for entry in ready.committed:
            self._apply(actor, entry)
        for read in ready.reads:
            self._say(f"{actor.name} may serve read {read.context.decode()} at {read.index}")
        for context in ready.failed_reads:
            self._say(f"{actor.name} fails read {context.decode()}")
        if actor.raft:
            actor.raft.advance(ready)

    def _apply(self, actor: Actor, entry: Entry) -> None:
        if entry.kind == EntryKind.COMMAND and entry.data:
            actor.values.append(entry.data.decode())
            self._say(f"{actor.name} applies {entry.index}: {entry.data.decode()}")
        elif entry.kind == EntryKind.MEMBERS:
            self._say(f"{actor.name} applies {entry.index}: {_members(Members.decode(entry.data))}")

    def _show(self, actor: Actor, ready: Ready) -> None:
        if ready.role is Role.LEADER:
            shown = f"{actor.name} leads term {ready.term}"
        else:
            whom = f" of {ready.leader}" if ready.leader else ""
            shown = f"{actor.name} is {ready.role.value}{whom} in term {ready.term}"
        if shown != actor.shown:
            actor.shown = shown
            self._say(shown)
        if ready.snapshot:
            self._say(f"{actor.name} installs the snapshot at {ready.snapshot.index}")
        elif ready.truncate_from is not None:
            self._say(f"{actor.name} truncates from {ready.truncate_from}")

    # What can be seen

    def on_logs(self) -> None:
        for actor in self._actors.values():
            contents = actor.disk.durable
            terms = " ".join(str(entry.term) for entry in contents.entries)
            before = f"[{contents.snapshot.index}] " if contents.snapshot else ""
            commit = actor.raft.status().commit if actor.raft else "down"
            self._say(f"{actor.name}: {before}{terms} (commit: {commit})")

    def on_status(self) -> None:
        for actor in self._actors.values():
            if actor.raft:
                status = actor.raft.status()
                self._say(f"{actor.name}: {status.role.value} in term {status.term}, leader: {status.leader or '-'}")

    def on_values(self) -> None:
        for actor in self._actors.values():
            self._say(f"{actor.name}: {' '.join(actor.values)}")

    def _say(self, line: str) -> None:
        self.lines.append(line)


def _restored(disk: Disk) -> Disk:
    """The disk as a crash leaves it that loses everything not synced."""
    left = Disk()
    left.durable, left.written = disk.durable, disk.durable.copy()
    return left


def _members(members: Members) -> str:
    learners = f", learning: {' '.join(sorted(members.learners))}" if members.learners else ""
    return f"voters: {' '.join(sorted(members.voters))}{learners}"


def _shown(message: Message) -> str:
    kind = f"{message.sender}->{message.to} {type(message).__name__} of term {message.term}"
    match message:
        case Append(prev_index=index, prev_term=term, entries=entries, commit=commit):
            terms = " ".join(str(entry.term) for entry in entries)
            return f"{kind}: after {index}/{term} [{terms}], commit {commit}"
        case AppendReply(success=True, index=index):
            return f"{kind}: has {index}"
        case AppendReply(index=index, hint_index=hint, hint_term=term):
            return f"{kind}: refuses {index}, hint {hint}/{term}"
        case Heartbeat(round=number, commit=commit):
            return f"{kind}: round {number}, commit {commit}"
        case SnapshotChunk(index=index, offset=offset, data=data, total=total):
            return f"{kind}: {index}, bytes {offset} to {offset + len(data)} of {total}"
    return kind


def perform(script: str) -> str:
    """The script with what happens below each command."""
    stage, lines = Stage(), []
    for line in script.splitlines():
        if line.startswith("> "):
            lines.append(line)
            stage.lines.clear()
            stage.play(line[2:])
            lines += stage.lines
        elif line.startswith("#") or not line:
            lines.append(line)
    return "\n".join(lines) + "\n"
