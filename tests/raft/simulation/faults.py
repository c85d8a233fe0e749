"""What goes wrong: drawn per run (how lossy, which kinds of faults) and per fault (whom it hits, for how long)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from dref_django.backends.raft.core import AddLearner, Change, Promote, Raft, RaftError, Remove

from .disk import Disk

if TYPE_CHECKING:
    from .host import Host
    from .world import World

MAX_HOSTS = 7
ECHOES = 20
"""Messages that a new leader gets once more, at most."""


def _some(random: Random, probability: float, most: float) -> float:
    """Nothing, mostly; else anything up to `most`: a fault that is absent gives the others room."""
    return random.random() * most if random.random() < probability else 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    nodes: int
    clients: int
    think: float
    """Mean time between two calls of a client."""
    loss: float
    duplication: float
    stragglers: float
    """Messages that take very long, so that later ones overtake them, and leaders come and go meanwhile."""
    echoes: bool
    """Old messages reach new leaders once more."""
    jitter: float
    fast_syncs: float
    drift: float
    """How much slower than others a node's clock may go."""
    fault_every: float
    faults: tuple[str, ...]
    max_batch_bytes: int
    max_inflight: int
    copies: float
    """The share of the reads that are asked as of a node, most of them of followers; the others ask the core."""
    units_per_second: float
    """How long a second of the copies' patience is; an election time-out takes 40 units and more."""

    @classmethod
    def draw(cls, random: Random) -> Scenario:
        kinds = [kind for kind in KINDS if random.random() < 0.6]
        return cls(
            nodes=random.choice((1, 2, 3, 3, 3, 3, 4, 5, 5)),
            clients=random.choice((2, 3)),
            think=random.choice((5.0, 15.0)),
            loss=_some(random, 0.3, 0.2),
            duplication=_some(random, 0.3, 0.2),
            stragglers=_some(random, 0.3, 0.2),
            echoes=random.random() < 0.3,
            jitter=random.choice((1.0, 4.0, 12.0)),
            fast_syncs=random.choice((0.1, 0.5, 0.8)),
            drift=random.choice((1.2, 1.2, 3.0)),
            fault_every=random.choice((10.0, 20.0, 40.0)),
            faults=tuple(kinds or ["crash"]),
            max_batch_bytes=random.choice((1, 160)),
            max_inflight=random.choice((1, 4)),
            copies=random.choice((0.3, 0.7, 0.9)),
            units_per_second=random.choice((100.0, 1000.0, 5000.0)),
        )


class Nemesis:
    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self.is_stopped = False
        self._is_lying_in_wait = False
        self._is_waylaying = False

    def start(self) -> None:
        if not self.is_stopped:
            self._world.after(self._random.expovariate(1 / self._world.scenario.fault_every), None, self._act)

    def _act(self) -> None:
        if not self.is_stopped:
            kind = self._random.choice(self._world.scenario.faults)
            KINDS[kind](self)
            self.start()

    def stop(self) -> None:
        """Everything works again."""
        self.is_stopped = True
        self._is_lying_in_wait = self._is_waylaying = False
        self._world.note("faults stop")
        self._world.blocked.clear()
        self._world.jammed.clear()
        for host in self._world.hosts.values():
            host.paused_until, host.disk_slowness = 0.0, 1.0
            host.restart()

    # Choosing

    def _running(self) -> list[Host]:
        return [host for host in self._world.hosts.values() if host.is_running]

    def _leader(self) -> Host | None:
        return next((host for host in self._running() if host.leads), None)

    def _victim(self) -> Host | None:
        """The leader, half of the time."""
        leader = self._leader()
        if leader is not None and self._random.random() < 0.5:
            return leader
        running = self._running()
        return self._random.choice(running) if running else None

    # Network

    def _partition(self) -> None:
        names = list(self._world.hosts)
        leader = self._leader()
        cut = {leader.name} if leader and self._random.random() < 0.5 else set()
        while not cut or self._random.random() < 0.4:
            cut.add(self._random.choice(names))
        self._block({(a, b) for a in names for b in names if (a in cut) != (b in cut)})

    def _one_way(self) -> None:
        victim = self._victim()
        if victim is None:
            return
        name, others = victim.name, [other for other in self._world.hosts if other != victim.name]
        deaf = self._random.random() < 0.5
        self._block({(other, name) if deaf else (name, other) for other in others})

    def _bridge(self) -> None:
        """Two nodes cannot talk to each other, everyone else can talk to both."""
        first, second = (self._random.choice(list(self._world.hosts)) for _ in range(2))
        self._block({(first, second), (second, first)})

    def _block(self, links: set[tuple[str, str]]) -> None:
        world = self._world
        world.note(f"blocked: {sorted(links)}")
        world.seen["partitions"] += 1
        world.blocked |= links
        world.after(self._random.uniform(20, 250), None, lambda: world.blocked.difference_update(links))

    # Nodes

    def _crash(self) -> None:
        running = self._running()
        writing = [host for host in running if host.is_writing]
        victim = self._random.choice(writing) if writing and self._random.random() < 0.6 else self._victim()
        if victim is not None:
            self._crash_one(victim)

    def _crash_all(self) -> None:
        for host in self._running():
            self._crash_one(host)

    def _crash_one(self, host: Host) -> None:
        world = self._world
        torn = host.crash()
        world.note(f"{host.name} crashes, torn write: {torn}")
        world.seen["crashes"] += 1
        world.seen["torn writes"] += torn
        world.after(self._random.uniform(5, 150), None, host.restart)

    def _lie_in_wait(self) -> None:
        """The next leader will not lead for long."""
        self._is_lying_in_wait = True

    def elected(self, host: Host) -> None:
        """A node is about to tell others that it leads."""
        self._echo(host)
        if not self._is_lying_in_wait:
            return
        self._is_lying_in_wait = False
        if self._random.random() < 0.5:
            self._block({(host.name, other) for other in self._world.hosts})
        life = host.life
        self._world.after(self._random.uniform(1, 40), None, lambda: self._crash_in(host, life))

    def _crash_in(self, host: Host, life: int) -> None:
        if host.is_running and host.life == life and not self.is_stopped:
            self._crash_one(host)

    def _waylay(self) -> None:
        """The next follower that asks how far to wait will wait for long, or its leader and it are alone."""
        self._is_waylaying = True

    def asked(self, follower: str, leader: Host) -> None:
        """A follower asks for a mark. The answer comes back over this connection, the log over another one."""
        if not self._is_waylaying:
            return
        self._is_waylaying = False
        world, random = self._world, self._random
        if random.random() < 0.3:
            pair = {leader.name, follower}
            self._block({(a, b) for a in world.hosts for b in world.hosts if (a in pair) != (b in pair)})
            until = world.now + random.choice((0.0, 100.0, 200.0))
            for name in pair:
                world.hosts[name].paused_until = until
            return
        world.note(f"{leader.name} cannot send its log to {follower}")
        world.jammed.add((leader.name, follower))
        world.after(random.uniform(30, 90), None, partial(world.jammed.discard, (leader.name, follower)))
        if random.random() < 0.6:
            for other in self._running():
                if other.name != follower:
                    world.after(random.uniform(20, 60), other, partial(other.compact, keep=0))
        if random.random() < 0.6:
            world.after(random.uniform(10, 60), None, partial(self._crash_in, leader, leader.life))

    def _echo(self, host: Host) -> None:
        """The network still has copies of what was sent to this node earlier, in other terms maybe."""
        kept = [message for message in self._world.echoes if message.to == host.name]
        for message in self._random.sample(kept, min(len(kept), ECHOES)):
            self._world.deliver_later(host, message, self._random.uniform(0, 60))

    def _pause(self) -> None:
        victim = self._victim()
        if victim is not None:
            victim.paused_until = self._world.now + self._random.uniform(20, 200)
            self._world.note(f"{victim.name} stands still until {victim.paused_until}")

    def _clock_jump(self) -> None:
        victim = self._victim()
        if victim is not None:
            self._world.note(f"the clock of {victim.name} jumps")
            victim.jump(1 + self._random.randrange(15))

    def _slow_disk(self) -> None:
        victim = self._victim()
        if victim is not None:
            victim.disk_slowness = self._random.choice((1.0, 10.0))

    # Whoever runs the cluster

    def _compact(self) -> None:
        victim = self._victim()
        if victim is not None and victim.compact(keep=self._random.choice((0, 0, 1, 4))):
            self._world.note(f"{victim.name} makes a snapshot")
            self._world.seen["snapshots amid writes"] += any(client.is_busy for client in self._world.clients)

    def _transfer(self) -> None:
        leader = self._leader()
        if leader is not None:
            to = self._random.choice([None, *self._world.hosts])
            self._world.note(f"{leader.name} hands over to {to}")
            self._ask(leader, lambda raft: raft.transfer(to))

    def _change_members(self) -> None:
        leader = self._leader()
        if leader is None or leader.raft is None:
            return
        members = leader.raft.status().members
        change = self._random.choice(self._changes(sorted(members.voters), sorted(members.learners)))
        self._world.note(f"{leader.name} is asked for {change}")
        self._ask(leader, lambda raft: raft.propose_members(change))

    def _changes(self, voters: list[str], learners: list[str]) -> list[Change]:
        world, random = self._world, self._random
        outside = [name for name in world.hosts if name not in voters and name not in learners]
        if not outside and len(world.hosts) < MAX_HOSTS:
            outside = [world.add_host(f"n{len(world.hosts) + 1}", Disk()).name]
        changes: list[Change] = [Promote(name) for name in learners for _ in range(4)]
        if outside:
            changes.append(AddLearner(random.choice(outside)))
        if len(voters) > 1:
            changes.append(Remove(random.choice(voters)))
        return changes or [Remove(random.choice(voters))]

    def _ask(self, host: Host, request: Callable[[Raft], object]) -> None:
        try:
            host.ask(request)
        except RaftError as error:
            self._world.note(f"refused: {error}")


KINDS: dict[str, Callable[[Nemesis], None]] = {
    "partition": Nemesis._partition,
    "one way": Nemesis._one_way,
    "bridge": Nemesis._bridge,
    "crash": Nemesis._crash,
    "crash all": Nemesis._crash_all,
    "lie in wait": Nemesis._lie_in_wait,
    "waylay": Nemesis._waylay,
    "pause": Nemesis._pause,
    "clock jump": Nemesis._clock_jump,
    "slow disk": Nemesis._slow_disk,
    "compact": Nemesis._compact,
    "transfer": Nemesis._transfer,
    "change members": Nemesis._change_members,
}
