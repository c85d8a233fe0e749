"""A whole cluster in one thread: nodes, network, clients and faults on one clock, everything drawn from one seed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from random import Random

from dref_django.backends.raft.core import Entry, EntryKind, Members, Message, Ready, SnapshotChunk, bootstrap

from .checkers import Checkers, Violation
from .clients import Client
from .disk import Disk, Write
from .faults import Nemesis, Scenario
from .host import Host
from .questions import Frame

FAULTY_EVENTS = 2000
"""Events of the part of a run in which faults happen."""
CALM_TIME = 4000.0
"""Simulated time in which a cluster without faults has to come to rest; an election takes some 100."""
MEAN_STRAGGLER_DELAY = 150.0
ECHOED = 300
"""Messages that the network remembers."""

Tracer = Callable[[str], None]


class World:
    def __init__(self, seed: int, scenario: Scenario | None = None, tracer: Tracer | None = None) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.seen: Counter[str] = Counter()
        """What happened in this run."""
        self.last_written = 0
        self.blocked: set[tuple[str, str]] = set()
        """Links from one node to another that carry nothing."""
        self.jammed: set[tuple[str, str]] = set()
        """Links that carry no messages of the core."""
        self.echoes: deque[Message] = deque(maxlen=ECHOED)
        self.scenario = scenario or Scenario.draw(self.random)
        self.hosts: dict[str, Host] = {}
        self._tracer = tracer
        self._number = 0
        self._events: list[tuple[float, int, Host | None, int, Callable[[], object]]] = []
        names = [f"n{number}" for number in range(1, self.scenario.nodes + 1)]
        hard_state, entries = bootstrap(Members(frozenset(names)))
        self.checkers = Checkers(entries)
        for name in names:
            self.add_host(name, Disk(Write(hard_state, entries=entries)))
        self.clients = [Client(self, f"c{number}") for number in range(self.scenario.clients)]
        self.nemesis = Nemesis(self)

    # Time

    def count(self) -> int:
        """The next number: of an event, a value, a moment in a history."""
        self._number += 1
        return self._number

    def after(self, delay: float, host: Host | None, action: Callable[[], object]) -> None:
        """What a host wanted to do does not happen once it has crashed, and waits while it is paused."""
        heappush(self._events, (self.now + delay, self.count(), host, host.life if host else 0, action))

    def step(self) -> None:
        time, _, host, life, action = heappop(self._events)
        self.now = time
        if host is None:
            action()
        elif host.life == life and host.is_running:
            if host.paused_until > time:
                self.after(host.paused_until - time, host, action)
            else:
                action()

    # The network

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.checkers.sent(message)
            self._send(message)

    def send_frame(self, frame: Frame) -> None:
        self._send(frame)

    def _send(self, message: Message | Frame) -> None:
        random, scenario = self.random, self.scenario
        if isinstance(message, SnapshotChunk):
            self.seen["chunks"] += 1
        to, link = self.hosts.get(message.to), (message.sender, message.to)
        if to is None or link in self.blocked or (link in self.jammed and not isinstance(message, Frame)):
            return
        delay = 1 + random.random() * scenario.jitter
        if self.nemesis.is_stopped:
            self.deliver_later(to, message, delay)
            return
        if scenario.loss and random.random() < scenario.loss:
            return
        if scenario.duplication and random.random() < scenario.duplication:
            self.deliver_later(to, message, delay + random.random() * scenario.jitter)
        if scenario.stragglers and random.random() < scenario.stragglers:
            delay += random.expovariate(1 / MEAN_STRAGGLER_DELAY)
        self.deliver_later(to, message, delay)
        if scenario.echoes and not isinstance(message, Frame):
            self.echoes.append(message)

    def deliver_later(self, to: Host, message: Message | Frame, delay: float) -> None:
        """Also when the receiver is restarted meanwhile."""
        self.after(delay, None, lambda: self._deliver(to, message))

    def _deliver(self, to: Host, message: Message | Frame) -> None:
        if to.paused_until > self.now:
            self.after(to.paused_until - self.now, None, lambda: self._deliver(to, message))
        else:
            to.receive(message)

    def sync_delay(self, host: Host) -> float:
        """Zero: at once."""
        if self.random.random() < self.scenario.fast_syncs:
            return 0.0
        return self.random.random() * 8 * host.disk_slowness

    # Checks that need the whole cluster

    def check_durability(self, host: Host, entry: Entry) -> None:
        if host.raft is None or entry != self.checkers.committed[-1].entry:
            return
        status = host.raft.status()
        if not status.pending_change:
            self.checkers.durable(
                host.name, entry, {name: self.hosts[name].disk for name in sorted(status.members.voters)}
            )

    def trace(self, host: Host, ready: Ready) -> None:
        if ready.truncate_from is not None and ready.snapshot is None:
            self.seen["truncations"] += 1
        if ready.snapshot is not None:
            self.seen["snapshots installed"] += 1
        for entry in ready.committed:
            if entry.kind is EntryKind.MEMBERS and entry.index > 1:
                self.seen["membership changes"] += 1
        if self._tracer:
            self._tracer(f"{self.now:8.1f} {host.name} {ready}")

    def note(self, text: str) -> None:
        if self._tracer:
            self._tracer(f"{self.now:8.1f} -- {text}")

    # A run

    def add_host(self, name: str, disk: Disk) -> Host:
        host = self.hosts[name] = Host(self, name, disk)
        host.start()
        return host

    def run(self) -> Counter[str]:
        """Raises Violation. Returns what happened."""
        for client in self.clients:
            client.start()
        self.nemesis.start()
        for _ in range(FAULTY_EVENTS):
            self.step()
        self._calm_down()
        self.seen["leader changes"] = max(0, len(self.checkers.leaders) - 1)
        return self.seen

    def _calm_down(self) -> None:
        """Faults stop: a leader is found, calls succeed, everyone catches up, and what was acknowledged is there."""
        self.nemesis.stop()
        until = self.now + CALM_TIME
        done = {client.name: len(client.acknowledged) for client in self.clients}
        for client in self.clients:
            client.is_stopped = False
        while not all(len(client.acknowledged) > done[client.name] for client in self.clients):
            self._step_until(until, "no write succeeds")
        for client in self.clients:
            client.is_stopped = True
        while any(client.is_busy for client in self.clients) or not self._is_settled():
            self._step_until(until, "the nodes do not come to rest")
        self._check_end()

    def _step_until(self, until: float, complaint: str) -> None:
        if self.now > until:
            status = [host.raft.status() for host in self.hosts.values() if host.raft]
            raise Violation(f"progress: {complaint}: {status}")
        self.step()

    def _members(self) -> list[Host]:
        leaders = [host.raft.status() for host in self.hosts.values() if host.raft and host.leads]
        if not leaders:
            return []
        status = max(leaders, key=lambda status: status.term)
        return [self.hosts[name] for name in sorted(status.members.voters | status.members.learners)]

    def _is_settled(self) -> bool:
        members = self._members()
        ends = {(host.applied, host.raft.status().last_index) for host in members if host.raft}
        return len(ends) == 1 and all(first == second for first, second in ends)

    def _check_end(self) -> None:
        members = self._members()
        self.checkers.same_end({host.name: host.machine.snapshot() for host in members})
        self.checkers.histories([operation for client in self.clients for operation in client.history])
        applied = {entry.data for entry, _ in self.checkers.committed if entry.kind is EntryKind.COMMAND}
        for client in self.clients:
            for command in client.acknowledged:
                if command.encode() not in applied:
                    raise Violation(f"acknowledged writes: {command} is lost")
