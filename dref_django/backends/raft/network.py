"""A node's place among the others: it listens, finds the other nodes at the addresses of the settings, and founds.

Addresses say where nodes may live; who lives there is learned by asking. A node tells whom it dials where it can be
dialled itself, so one that joins is soon known to all. Names are looked up again and again: nodes move.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgpack

from .core import Members
from .discovery import find_places, own_address
from .disk import Disk
from .founding import NOBODY, News, Step, decide, first_members
from .options import Options
from .storage import Storage
from .transport import Acceptor, Back, Channel, Hello, Links, TransportError, dial

logger = logging.getLogger("dref_django")

NODE, CLIENT, PROBE = "node", "client", "probe"
"""What an end of a connection is, in its hello."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between two rounds of asking who lives where."""
ROUND: Final = 0.1
"""Seconds between two rounds of news while the cluster is founded."""
GRACE: Final = 2.0
"""Seconds for which whoever was found may be silent before a cluster is founded without a word of it."""
FOUNDERS: Final = "founders"
NEWS: Final = 3
"""The first byte of a frame with news; see `node.py` for the others."""


class Network:
    """All on one loop. `hear` is where frames of other nodes go."""

    def __init__(self, options: Options, node_id: str, serve: Callable[[Channel], Awaitable[None]]) -> None:
        self.node_id = node_id
        self.hear: Callable[[str, bytes, Back], None] = self._hear_news
        self._options = options
        self._serve = serve
        self._here = ""  # where this node can be dialled
        self._secrets = options.secrets
        self._tls = options.dial_tls
        self._links = Links(self._secrets, self._hello, self._take, tls=self._tls)
        self._acceptor = Acceptor(self._secrets, self._hello, self._welcome, tls=options.listen_tls)
        self._own: set[str] = set()
        self._found_at: dict[str, str] = {}  # a place may have several names: not only the one that a link dials
        self._news: dict[str, News] = {}
        self._came = asyncio.Event()
        self._told, self._told_at = News(True), 0.0  # the last news of this node, and when
        self._looked = asyncio.Event()  # at every place, once
        self._finding: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listens, and begins to look for the others. Raises `TransportError`."""
        port = await self._acceptor.listen(self._options.bind, self._options.port)
        self._here = own_address(self._options, port, await places_of(self._options))
        self._finding = asyncio.ensure_future(self._find())

    async def close(self) -> None:
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.gather(self._finding, return_exceptions=True)
        await self._links.close()
        await self._acceptor.close()

    def _take(self, node: str, frame: bytes, back: Back) -> None:
        self.hear(node, frame, back)

    # --- frames -------------------------------------------------------------------------------------------------

    def send(self, node: str, frame: bytes) -> bool:
        return self._links.send(node, frame)

    def is_gone(self, node: str) -> bool:
        return self._links.is_gone(node)

    def reachable(self) -> set[str]:
        return {node for node in self._links.addresses() if self._links.is_up(node)}

    def insisting(self) -> set[str]:
        """The nodes with a connection whose ROLE is "voter"."""
        return {node for node in self.reachable() if self._links.hello(node).get("insists") is True}

    def addresses(self) -> dict[str, str]:
        return {**self._links.addresses(), self.node_id: self._here}

    def sent_bytes(self) -> int:
        """To the other nodes, since this one runs."""
        return self._links.sent_bytes

    def refusals(self) -> dict[str, int]:
        """Connections that were turned away, by reason; see `Acceptor.refusals`."""
        return dict(self._acceptor.refusals.counts)

    def forget_all_but(self, members: Collection[str]) -> None:
        """Dials no longer those that are gone and belong to the cluster no more."""
        for node in self._links.addresses():
            if node not in members and not self._links.is_up(node):
                self._links.forget(node)

    # --- who lives where ----------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        return {"node": self.node_id, "role": NODE, "address": self._here, "insists": self._options.insists}

    async def _welcome(self, channel: Channel) -> None:
        match channel.peer.get("role"):
            case "node":
                self._learn(channel)
                await self._links.adopt(channel)
            case "client":
                await self._serve(channel)
            case _:
                await channel.closed()  # it has what it wanted to know

    def _learn(self, channel: Channel) -> None:
        node, address = str(channel.peer.get("node", "")), str(channel.peer.get("address", ""))
        if node and address and node != self.node_id:
            self._links.point(node, address)

    async def _find(self) -> None:
        pause = FIRST_PAUSE
        while True:
            known = {place for place, node in self._found_at.items() if self._links.is_up(node)}
            places = await places_of(self._options)
            unknown = places - known - self._own
            await asyncio.gather(*(self._ask_who(address) for address in unknown))
            self._looked.set()
            pause = min(pause * 1.5, LONGEST_PAUSE) if unknown <= self._own else FIRST_PAUSE * 2
            await asyncio.sleep(pause)

    async def _ask_who(self, address: str) -> None:
        hello = {**self._hello(), "role": PROBE}
        try:
            channel = await dial(address, self._secrets, hello, tls=self._tls)
        except (OSError, TransportError) as error:
            logger.debug("dref: nobody at %s: %s", address, error)
            return
        node = str(channel.peer.get("node", ""))
        channel.close()
        if node == self.node_id:
            self._own.add(address)
        elif node:
            self._found_at[address] = node
            self._links.point(node, address)

    # --- founding -----------------------------------------------------------------------------------------------

    async def found(self, storage: Storage, disk: Disk, report: Callable[[str], None]) -> Members:
        """The founders, this node among them, when the cluster begins now; nobody, when there is one to join."""
        voters = self._options.voters
        noted = storage.noted(FOUNDERS)
        promised = frozenset(msgpack.unpackb(noted)) if noted else NOBODY
        await self._hear_everybody(promised)
        while True:
            others = {node: news for node, news in self._news.items() if self._links.is_up(node)}
            decision = decide(self.node_id, self._options.bootstrap_expect, voters, promised, others)
            match decision.step:
                case Step.JOIN:
                    return Members()
                case Step.PROMISE:
                    await disk.run(storage.note, FOUNDERS, msgpack.packb(sorted(decision.nodes)))
                    promised = decision.nodes
                    continue
                case Step.WAIT:
                    report(f"waiting {decision.why}")
            sees = frozenset((self.node_id, *others))
            self._tell_all(News(False, sees, promised, voters))
            if decision.step is Step.FOUND:
                return first_members(decision.nodes, voters)
            await self._next_news()

    async def _hear_everybody(self, promised: frozenset[str]) -> None:
        """A node that is to found a cluster with few others, or alone, would do so beside one that is there already."""
        await self._looked.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while not self._news.keys() >= set(self._found_at.values()):
                    self._tell_all(News(False, frozenset({self.node_id}), promised, self._options.voters))
                    await self._next_news()

    def _tell_all(self, news: News) -> None:
        """What was told a moment ago waits for the next round: each node tells when it hears something."""
        now = asyncio.get_running_loop().time()
        if news == self._told and now < self._told_at + ROUND:
            return
        self._told, self._told_at = news, now
        for node in self._links.addresses():
            self.send(node, bytes((NEWS,)) + news.encode())

    async def _next_news(self) -> None:
        """When it comes, or soon."""
        self._came.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND):
                await self._came.wait()

    def _hear_news(self, node: str, frame: bytes, back: Back) -> None:
        if frame[:1] != bytes((NEWS,)):
            self._news[node] = News(True)  # only a node with a state speaks of other things
        else:
            try:
                self._news[node] = News.decode(frame[1:])
            except ValueError as error:
                logger.warning("dref: node %s told news that are none: %s", node, error)
        self._came.set()


async def places_of(options: Options) -> frozenset[str]:
    """Where nodes may live, as far as the name server tells now."""
    try:
        return await find_places(options)
    except OSError as error:
        logger.debug("dref: no other nodes found: %s", error)
        return frozenset()
