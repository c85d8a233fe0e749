"""One member of the cluster: the driver, its way to the other nodes, and who answers what.

A node that leads answers by itself; any other relays to the leader, once: a question that was relayed to a node that
does not lead is answered with LATER, never sent on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import msgpack

from .calls import Answer, Answered, Ask, Question
from .copies import Copies, mark
from .core import AddLearner, Change, Message, Promote, RaftError, Remove, Role
from .driver import Driver
from .founding import News
from .machine import Kind, Request
from .network import NEWS, Network
from .options import Options
from .relay import Relay, hear_question
from .transport import Back
from .upkeep import next_change
from .wire import decode_message, encode_message

logger = logging.getLogger("dref_django")

TICK: Final = 0.1
"""Seconds between two ticks of the core."""
ELECTION_TICKS: Final = 20
"""A follower that hears nothing for this many ticks, up to twice as many, asks for votes. Long enough for a leader
whose process is busy: eight threads that burn CPU cost it 0.4 s a round, and a call that holds the GIL comes on top."""
HURRY: Final = 10
"""How much faster ticks come while there certainly is no leader to be patient with: its process has ended, as nobody
listens at its address any more; or this node has just started. A wrong guess costs a pre-vote that is refused."""
START: Final = 10.0
"""Seconds for which a node that has just started is in a hurry."""
DOWN_AFTER: Final = 3.0
"""Seconds without a leader after which listeners hear that they may be missing something."""
COLLECT: Final = 1.0
"""Seconds between two looks for what has run out."""
REMOVE_AFTER: Final = 600.0
"""Seconds of silence after which a member counts as gone for good."""
TRANSFER_TIMEOUT: Final = 1.0
"""Seconds that a graceful stop waits for another leader."""
QUESTION, ANSWER = 1, 2
"""The first byte of a frame between two nodes. One that is a list of msgpack is a message of the core."""
LIST: Final = range(0x90, 0xA0)
CHANGES: Final[dict[str, type[Change]]] = {"add": AddLearner, "promote": Promote, "remove": Remove}


class Node:
    """As a `calls.Gate`, for the processes of this machine. Without a network it is the only member."""

    def __init__(self, driver: Driver, network: Network | None, options: Options, *, founded: bool) -> None:
        self.driver = driver
        self.node_id = driver.raft.status().node_id
        self._network = network
        self._options = options
        self._founded = founded
        self._relay = Relay(lambda leader, frame: self._send(leader, bytes((QUESTION,)) + frame))
        self._copies = Copies(driver, self._relay)
        self._leading = _Leading(self)
        self._followed = ("", 0)
        self._last_leader = ""
        self._began = asyncio.get_running_loop().time()
        self._handed_over = asyncio.Event()
        self._down: asyncio.TimerHandle | None = None
        driver.on_change = self._changed
        driver.send = self._send_messages
        if network is not None:
            network.hear = self.hear

    def _send(self, node: str, frame: bytes) -> bool:
        return self._network is not None and self._network.send(node, frame)

    # --- questions ----------------------------------------------------------------------------------------------

    def ask(self, question: Question, answered: Answered) -> None:
        if question.ask is Ask.STATUS and not question.body:
            answered(Answer.DONE, msgpack.packb(self.status()))
        elif self.driver.role is Role.LEADER:
            self._leading.ask(question, answered)
        elif self.driver.leader and question.ask is Ask.QUERY:
            self._copies.ask(question, answered)
        elif self.driver.leader:
            self._relay.ask(self.driver.leader, question, answered)
        else:
            answered(Answer.LATER, b"")

    def status(self) -> dict[str, Any]:
        """What `manage.py dref cluster` shows; plain values."""
        status = self.driver.raft.status()
        peers = {
            peer: {
                "state": seen.state,
                "match": seen.match,
                "silent": seen.silent_ticks * TICK,
                "ready": seen.caught_up,
            }
            for peer, seen in status.peers.items()
        }
        return {
            "node": self.node_id,
            "role": status.role.value,
            "term": status.term,
            "leader": status.leader or "",
            "commit": status.commit,
            "applied": status.applied,
            "last": status.last_index,
            "snapshot": status.snapshot_index,
            "voters": sorted(status.members.voters),
            "learners": sorted(status.members.learners),
            "peers": peers,
            "addresses": {} if self._network is None else self._network.addresses(),
            "refused": {} if self._network is None else self._network.refusals(),
            "sent_bytes": 0 if self._network is None else self._network.sent_bytes(),
        }

    # --- frames between nodes -----------------------------------------------------------------------------------

    def hear(self, sender: str, frame: bytes, back: Back) -> None:
        """A frame of an authenticated node."""
        try:
            self._take(sender, frame, back)
        except ValueError as error:
            logger.warning("dref: node %s said what is nothing: %s", sender, error)

    def _take(self, sender: str, frame: bytes, back: Back) -> None:
        kind = frame[0] if frame else -1
        if kind in LIST:
            self.driver.step(decode_message(frame, sender, self.node_id))
        elif kind == QUESTION:
            hear_question(frame[1:], _Leading(self, sender), lambda answer: back(bytes((ANSWER,)) + answer))
        elif kind == ANSWER:
            self._relay.hear_answer(frame[1:])
        elif kind == NEWS:
            self._send(sender, bytes((NEWS,)) + News(True).encode())
        else:
            raise ValueError(f"no frame of kind {kind}")

    def _send_messages(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if not self._send(message.to, encode_message(message)):
                self.driver.raft.report_unreachable(message.to)

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Raises what the disk raises; the node must not go on then."""
        members = self.driver.raft.status().members
        if members.voters == {self.node_id} or (self._founded and self.node_id == min(members.voters)):
            for _ in range(2 * ELECTION_TICKS):  # nobody else could lead, or nobody has to wait for who does
                self.driver.tick()
        tasks = [asyncio.ensure_future(part) for part in (self.driver.run(), self._tick(), self._keep_house())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise RuntimeError("a part of the node has ended")

    async def _tick(self) -> None:
        """However late this loop is woken, it counts one tick: that it was late says nothing about the others."""
        while True:
            await asyncio.sleep(TICK / HURRY if self._is_in_a_hurry() else TICK)
            self.driver.tick()
            self._relay.tick()

    def _is_in_a_hurry(self) -> bool:
        if self._network is None or self.driver.role is Role.LEADER:
            return False
        if self.driver.leader:
            self._last_leader = self.driver.leader
        if not self._last_leader:
            return asyncio.get_running_loop().time() - self._began < START
        return self._last_leader != self.node_id and self._network.is_gone(self._last_leader)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(COLLECT)
            self.driver.collect()
            if self._network is None:
                continue
            members = self.driver.raft.status().members
            if self.driver.leader:
                self._network.forget_all_but(members.voters | members.learners)
            if self.driver.role is Role.LEADER:
                self._keep_members(self._network.reachable())

    def _keep_members(self, reachable: set[str]) -> None:
        status = self.driver.raft.status()
        silent, voters = round(REMOVE_AFTER / TICK), self._options.voters
        change = next_change(status, reachable, voters=voters, silent_ticks=silent, insisting=self._insisting())
        if change is not None:
            what = type(change).__name__

            def answered(answer: Answer, body: bytes) -> None:
                level = logging.INFO if answer is Answer.DONE else logging.WARNING
                logger.log(level, "dref: %s of node %s: %s %s", what, change.node, answer.name, body.decode())

            self.driver.change(change, answered)

    def _insisting(self) -> set[str]:
        """The nodes whose settings say that they vote."""
        others = set() if self._network is None else self._network.insisting()
        return others | {self.node_id} if self._options.insists else others

    def _changed(self) -> None:
        """Another role, term or leader."""
        driver, fanout = self.driver, self.driver.fanout
        if (followed := (driver.leader, driver.term)) != self._followed:
            self._followed = followed
            self._relay.lose()
            if driver.leader not in ("", self.node_id):
                self._handed_over.set()
        if driver.leader and driver.machine.cluster_id:
            if self._down is not None:
                self._down.cancel()
                self._down = None
            if not fanout.is_up:
                fanout.up(driver.machine.cluster_id)
        elif self._down is None and fanout.is_up:
            self._down = asyncio.get_running_loop().call_later(DOWN_AFTER, fanout.down, "there is no leader")

    async def hand_over(self) -> None:
        """Hands leadership over, if this node has it and there is somebody to take it."""
        others = self.driver.raft.status().members.voters - {self.node_id}
        if self.driver.role is not Role.LEADER or not others:
            return
        try:
            self.driver.transfer(None)
        except RaftError:
            return
        self._handed_over.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRANSFER_TIMEOUT):
                await self._handed_over.wait()


class _Leading:
    """Questions that only a leader answers, its own clients' and those that the node `sender` relays to it."""

    def __init__(self, node: Node, sender: str = "") -> None:
        self._node = node
        self._sender = sender

    def ask(self, question: Question, answered: Answered) -> None:
        driver = self._node.driver
        if driver.role is not Role.LEADER:
            answered(Answer.LATER, b"")
            return
        match question.ask:
            case Ask.BATCH:
                driver.batch(Request(*question.body), answered)
            case Ask.QUERY:
                space, now, commands = question.body
                driver.query(space, now, commands, answered)
            case Ask.MARK:
                space, now, commands, term = question.body
                driver.query(space, now, commands, mark(driver, answered), (self._sender, term))
            case Ask.OPEN:
                driver.plain(Kind.OPEN, answered)
            case Ask.CLOSE:
                driver.plain(Kind.CLOSE, answered, question.body[0])
            case Ask.CHANGE:
                operation, node = question.body
                self._change(operation, node, answered)
            case Ask.STATUS:
                answered(Answer.DONE, msgpack.packb(self._node.status()))
            case _:
                answered(Answer.REFUSED, b"this is not asked of a leader")

    def _change(self, operation: str, node: str, answered: Answered) -> None:
        if operation == "transfer":
            try:
                self._node.driver.transfer(node or None)
            except RaftError as error:
                answered(Answer.REFUSED, str(error).encode())
            else:
                answered(Answer.DONE, b"")
        elif operation in CHANGES:
            self._node.driver.change(CHANGES[operation](node), answered)
        else:
            answered(Answer.REFUSED, b"an operation of another version")
