"""One member of the cluster: the driver, its way to the other nodes, and who answers what.

A node that leads answers by itself; any other relays to the leader, once: a question that was relayed to a node that
does not lead is answered with LATER, never sent on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

import msgpack

from .calls import Answer, Answered, Ask, Question
from .core import AddLearner, Change, Message, Promote, RaftError, Remove, Role
from .driver import Driver
from .machine import Kind, Request
from .relay import Relay, hear_question
from .wire import decode_message, encode_message

logger = logging.getLogger("dref_django")

TICK: Final = 0.1
"""Seconds between two ticks of the core."""
ELECTION_TICKS: Final = 10
"""A follower that hears nothing for this many ticks, up to twice as many, asks for votes."""
HURRY: Final = 10
"""How much faster ticks come while the leader is known to be gone: nobody listens at its address any more."""
DOWN_AFTER: Final = 3.0
"""Seconds without a leader after which listeners hear that they may be missing something."""
COLLECT: Final = 1.0
"""Seconds between two looks for what has run out."""
TRANSFER_TIMEOUT: Final = 1.0
"""Seconds that a graceful stop waits for another leader."""
RAFT, QUESTION, ANSWER = 0, 1, 2
"""The first byte of a frame between two nodes."""
CHANGES: Final[dict[str, type[Change]]] = {"add": AddLearner, "promote": Promote, "remove": Remove}


class Node:
    """As a `calls.Gate`, for the processes of this machine. `send` hands a frame to a node, or says that it cannot."""

    def __init__(self, driver: Driver, send: Callable[[str, bytes], bool]) -> None:
        self.driver = driver
        self.node_id = driver.raft.status().node_id
        self.leader_is_gone: Callable[[str], bool] = lambda leader: False
        """Whether that node certainly does not run at the moment."""
        self._send = send
        self._relay = Relay(send)
        self._leading = _Leading(self)
        self._followed = ("", 0)
        self._down: asyncio.TimerHandle | None = None
        driver.on_change = self._changed
        driver.send = self._send_messages

    # --- questions ----------------------------------------------------------------------------------------------

    def ask(self, question: Question, answered: Answered) -> None:
        if question.ask is Ask.STATUS:
            answered(Answer.DONE, msgpack.packb(self.status()))
        elif self.driver.role is Role.LEADER:
            self._leading.ask(question, answered)
        elif self.driver.leader:
            self._relay.ask(self.driver.leader, question, answered)
        else:
            answered(Answer.LATER, b"")

    def status(self) -> dict[str, Any]:
        """What `manage.py dref cluster` shows; plain values."""
        status = self.driver.raft.status()
        peers = {
            peer: {"state": seen.state, "match": seen.match, "silent": seen.silent_ticks * TICK, "ready": seen.caught_up}
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
        }

    # --- frames between nodes -----------------------------------------------------------------------------------

    def hear(self, sender: str, frame: bytes) -> None:
        """A frame of an authenticated node. Raises ValueError when it is nonsense."""
        kind, body = frame[0] if frame else -1, frame[1:]
        if kind == RAFT:
            message = decode_message(body)
            if message.sender != sender:
                raise ValueError("a message in another node's name")
            self.driver.step(message)
        elif kind == QUESTION:
            hear_question(body, self._leading, lambda answer: self._send(sender, bytes((ANSWER,)) + answer))
        elif kind == ANSWER:
            self._relay.hear_answer(body)
        else:
            raise ValueError(f"no frame of kind {kind}")

    def _send_messages(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if not self._send(message.to, bytes((RAFT,)) + encode_message(message)):
                self.driver.raft.report_unreachable(message.to)

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Raises what the disk raises; the node must not go on then."""
        if self.driver.raft.status().members.voters == {self.node_id}:
            for _ in range(2 * ELECTION_TICKS):  # nobody else could lead
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
            leader = self.driver.leader
            hurry = leader not in ("", self.node_id) and self.leader_is_gone(leader)
            await asyncio.sleep(TICK / HURRY if hurry else TICK)
            self.driver.tick()
            self._relay.tick()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(COLLECT)
            self.driver.collect()

    def _changed(self) -> None:
        """Another role, term or leader."""
        driver, fanout = self.driver, self.driver.fanout
        if (followed := (driver.leader, driver.term)) != self._followed:
            self._followed = followed
            self._relay.lose()
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
        deadline = asyncio.get_running_loop().time() + TRANSFER_TIMEOUT
        while self.driver.leader in ("", self.node_id) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)


class _Leading:
    """Questions that only a leader answers, its own clients' and those relayed to it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def ask(self, question: Question, answered: Answered) -> None:
        driver = self._node.driver
        if driver.role is not Role.LEADER:
            answered(Answer.LATER, b"")
            return
        match question.ask:
            case Ask.BATCH:
                driver.batch(Request(*question.body), answered)
            case Ask.QUERY:
                driver.query(*question.body, answered)
            case Ask.OPEN:
                driver.plain(Kind.OPEN, answered)
            case Ask.CLOSE:
                driver.plain(Kind.CLOSE, answered, *question.body)
            case Ask.CHANGE:
                self._change(*question.body, answered)
            case Ask.STATUS:
                self._node.ask(question, answered)
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
