"""Connections kept to the other nodes: dialled again when they end, each time by name, with growing pauses."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from .channel import Channel
from .dialing import dial
from .frames import TransportError, sealed_size
from .handshake import Hello, Secrets

logger = logging.getLogger("dref_django")

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts; in between they double, and each is drawn between a half and the whole of it."""
GIVE_UP: Final = 600.0
"""Seconds without a connection after which a node is forgotten: containers come and go, each with an address of its
own. A node that is back after that is found again, as it dials the others."""
LASTING: Final = 5.0
"""Seconds a connection must have lasted for the pauses to begin anew."""


Back: TypeAlias = Callable[[bytes], bool]
"""Sends a frame over the connection by which another one came."""


class Links:
    """One outgoing connection a node, and those that nodes opened to this one. All on one loop.

    Frames go over the outgoing connection and, while there is none, over an accepted one, so two nodes can talk when
    only one of them can reach the other.
    """

    def __init__(
        self,
        secrets: Secrets,
        hello: Callable[[], Hello],
        on_frame: Callable[[str, bytes, Back], None],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._secrets = secrets
        self._hello = hello
        self._on_frame = on_frame
        self._tls = tls
        self.sent_bytes = 0
        """Of all frames, with their heads."""
        self._links: dict[str, _Link] = {}
        self._adopted: dict[str, list[Channel]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def point(self, node: str, address: str) -> None:
        """Keeps a connection to `node`, at `address` ("host:port") from the next dial on.

        A connection that works is left alone: one place may have several names.
        """
        link = self._links.get(node)
        if link is not None and (link.channel is not None or link.address == address):
            link.next_address = address
            return
        if link is not None:
            self._stop(link)
        self._links[node] = _Link(self, node, address)

    def forget(self, node: str) -> None:
        """Ends the connection to `node`, if there is one; those that it opened itself stay until it closes them."""
        if (link := self._links.pop(node, None)) is not None:
            self._stop(link)

    def _stop(self, link: _Link) -> None:
        link.task.cancel()
        self._ending.add(link.task)
        link.task.add_done_callback(self._ending.discard)

    async def adopt(self, channel: Channel) -> None:
        """Serves a connection that a node opened to this one, until it ends. Cancel to end it."""
        node = str(channel.peer.get("node", ""))
        if not node:
            return
        channels = self._adopted.setdefault(node, [])
        channels.append(channel)
        try:
            self.listen(node, channel)
            await channel.closed()
        finally:
            channels.remove(channel)
            if not channels and self._adopted.get(node) is channels:
                del self._adopted[node]
            channel.close()

    def send(self, node: str, frame: bytes) -> bool:
        """False: there is no connection at the moment, or it cannot take more; the frame was not sent."""
        link = self._links.get(node)
        if link is not None and link.channel is not None and self._send_over(link.channel, frame):
            return True
        return any(self._send_over(channel, frame) for channel in reversed(self._adopted.get(node, ())))

    def _send_over(self, channel: Channel, frame: bytes) -> bool:
        sent = channel.send(frame)
        if sent:
            self.sent_bytes += sealed_size(frame)
        return sent

    def is_up(self, node: str) -> bool:
        link = self._links.get(node)
        return (link is not None and link.channel is not None) or node in self._adopted

    def hello(self, node: str) -> Hello:
        """What a node said of itself; nothing while there is no connection."""
        link = self._links.get(node)
        if link is not None and link.channel is not None:
            return link.channel.peer
        return next((channel.peer for channel in self._adopted.get(node, ())), {})

    def is_gone(self, node: str) -> bool:
        """Whether nobody listens at the node's address: it certainly does not run there at the moment."""
        link = self._links.get(node)
        return link is not None and link.is_refused and not self.is_up(node)

    def addresses(self) -> dict[str, str]:
        """Where each node was last dialled."""
        return {node: link.address for node, link in self._links.items()}

    async def close(self) -> None:
        for node in list(self._links):
            self.forget(node)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def dial(self, node: str, address: str) -> Channel:
        """Raises OSError, `TransportError`, also when somebody else is at that address."""
        channel = await dial(address, self._secrets, self._hello(), tls=self._tls)
        if channel.peer.get("node") != node:
            channel.close()
            raise TransportError(f"{address} is another node now, {channel.peer.get('node')}")
        return channel

    def listen(self, node: str, channel: Channel) -> None:
        back = partial(self._send_over, channel)
        channel.deliver_to(lambda frame: self._on_frame(node, frame, back))


class _Link:
    def __init__(self, links: Links, node: str, address: str) -> None:
        self.address = self.next_address = address
        self.channel: Channel | None = None
        self.is_refused = False
        self._links = links
        self._node = node
        self._trouble = ""
        self._last_up = 0.0
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        self._last_up = loop.time()
        while loop.time() - self._last_up < GIVE_UP:
            began = loop.time()
            try:
                await self._keep_one()
            except (OSError, TransportError) as error:
                self.is_refused = isinstance(error, ConnectionRefusedError)
                self._complain(str(error))
            if loop.time() - began >= LASTING:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads attempts, keeps no secret
            pause = min(2 * pause, LONGEST_PAUSE)
        self._links.forget(self._node)

    async def _keep_one(self) -> None:
        self.address = self.next_address
        channel = await self._links.dial(self._node, self.address)
        self.channel, self.is_refused = channel, False
        if self._trouble:
            self._trouble = ""
            logger.info("dref: connected to the node %s at %s", self._node, self.address)
        try:
            self._links.listen(self._node, channel)
            await channel.closed()
        finally:
            self.channel = None
            self._last_up = asyncio.get_running_loop().time()
            channel.close()

    def _complain(self, trouble: str) -> None:
        """Once for each kind of trouble, not for each attempt."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning("dref: no connection to the node %s at %s: %s", self._node, self.address, trouble)
