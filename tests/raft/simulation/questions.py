"""Reads as a node's clients ask for them: the leader looks, a follower asks it for a mark and looks at its own copy.

The relay and the copies are the real ones. Of the node and its driver the host does what they need: frames go through
the simulated network, and the leader answers once the core has confirmed the read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dref_django.backends.raft import copies
from dref_django.backends.raft.calls import Answer, Answered, Ask, Question
from dref_django.backends.raft.core import Raft
from dref_django.backends.raft.relay import Relay, hear_question
from dref_django.backends.raft.wire import decode_replies, encode_commands
from dref_django.protocol import Read

if TYPE_CHECKING:
    from .host import Host
    from .world import World

SPACE: Final = "space"
READ, WAITED = "copies read", "copies waited for"
LEADER_CHANGED, INSTALLED = "copies read across leader changes", "copies read across snapshots"


class Frame(NamedTuple):
    """What travels beside the messages of the core."""

    sender: str
    to: str
    life: int
    """Of the host that asked: the connection ends with it, and so does the way back of an answer."""
    is_question: bool
    body: bytes

    def answer(self, body: bytes) -> Frame:
        return Frame(self.to, self.sender, self.life, False, body)


class Timer:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Leading:
    """The leader's end of the questions of one node, or of this node's own clients."""

    def __init__(self, host: Host, driver: Any, sender: str = "") -> None:
        self._host = host
        self._driver = driver
        self._sender = sender

    def ask(self, question: Question, answered: Answered) -> None:
        if not self._host.leads:
            answered(Answer.LATER, b"")
        elif question.ask is Ask.MARK:
            _, _, commands, term = question.body
            self._host.query(commands, copies.mark(self._driver, answered), (self._sender, term))
        else:
            self._host.query(question.body[2], answered)


class Questions:
    """Those of one host in one of its lives."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host
        self._relay = Relay(self._send_question)
        self._copies = copies.Copies(self.driver, self._relay, self._later)
        self._life = host.life
        self._followed = ("", 0)
        self._looking: list[str] = []
        """What is to be counted of the look under way."""

    # As the node

    def read(self, key: str, answered: Callable[[int | None], None], failed: Callable[[], None]) -> None:
        question = Question(Ask.QUERY, (SPACE, None, encode_commands([Read(key)])))

        def hear(answer: Answer, body: bytes) -> None:
            if answer is not Answer.DONE:
                failed()
                return
            self._world.seen.update(self._looking)
            (reply,) = decode_replies(body)
            answered(None if reply.data is None else int(reply.data))

        if self._host.leads:
            Leading(self._host, self.driver).ask(question, hear)
        elif self._host.leader:
            self._copies.ask(question, hear)
        else:
            failed()

    def hear(self, frame: Frame) -> None:
        if frame.is_question:
            leading = Leading(self._host, self.driver, frame.sender)
            hear_question(frame.body, leading, lambda body: self._world.send_frame(frame.answer(body)))
        elif frame.life == self._life:
            self._relay.hear_answer(frame.body)

    def follow(self, leader: str, term: int) -> None:
        if (leader, term) != self._followed:
            self._followed = leader, term
            self._relay.lose()

    def _send_question(self, to: str, body: bytes) -> bool:
        if to not in self._world.hosts or to == self._host.name:
            return False
        self._world.nemesis.asked(self._host.name, self._world.hosts[to])
        self._world.send_frame(Frame(self._host.name, to, self._life, True, body))
        return True

    def _later(self, seconds: float, action: Callable[[], object]) -> Timer:
        timer = Timer()
        delay = seconds * self._host.units_per_second
        self._world.after(delay, self._host, lambda: None if timer.is_cancelled else action())
        return timer

    # As the driver that copies see

    @property
    def driver(self) -> Any:
        return self

    @property
    def raft(self) -> Raft | None:
        return self._host.raft

    @property
    def leader(self) -> str:
        return self._host.leader

    @property
    def machine(self) -> Any:
        return self._host.machine

    @property
    def applied(self) -> int:
        return self._host.applied

    def now(self) -> int:
        """Nothing runs out here, so that every time is as good."""
        return 0

    def after(self, index: int, callback: Callable[[], None]) -> None:
        host, followed, installs = self._host, self._followed, self._host.installs
        waits = index > host.applied

        def look() -> None:
            self._looking = [READ]
            if waits:
                self._looking.append(WAITED)
            if followed != self._followed:
                self._looking.append(LEADER_CHANGED)
            if installs != host.installs:
                self._looking.append(INSTALLED)
            callback()
            self._looking = []

        host.after(index, look)
