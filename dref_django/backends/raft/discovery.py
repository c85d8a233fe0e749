"""Where the other nodes are, asked of the name server again and again, and where this one is."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from .options import Options
from .resolving import Address, resolve

logger = logging.getLogger("dref_django")

PERIOD: Final = 5.0
"""Seconds between two looks at the addresses of SERVICES."""
FIRST_PERIOD: Final = 0.5
"""The same until something was found."""
MAX_NODES: Final = 1000
"""Addresses of one service that are looked at."""


async def find(options: Options) -> frozenset[Address]:
    """NODES as they are written (a name is looked up at each dial), and all addresses of SERVICES.

    Raises OSError when there are services and none of them could be looked up.
    """
    found = set(options.nodes)
    trouble = None
    for host, port in options.services:
        try:
            found.update((address, port) for address in (await resolve(host))[:MAX_NODES])
        except OSError as error:
            trouble = OSError(f"the service {host!r} cannot be looked up: {error}")
    if trouble is not None and not found:
        raise trouble
    return frozenset(found)


async def watch(options: Options, found: Callable[[frozenset[Address]], None]) -> NoReturn:
    """Calls `found` with all addresses, this node's own possibly among them, each time they change."""
    last: frozenset[Address] | None = None
    trouble = ""
    while True:
        try:
            now = await find(options)
        except OSError as error:
            if str(error) != trouble:
                trouble = str(error)
                logger.warning("dref: no other nodes found: %s", trouble)
        else:
            trouble = ""
            if now != last:
                last = now
                found(now)
        await asyncio.sleep(PERIOD if last else FIRST_PERIOD)


def own_address(options: Options, port: int, others: Iterable[Address] = ()) -> Address:
    """Where others reach this node: ADVERTISE, or BIND, or the address from which it would speak to `others`.

    `port`: the one it listens on. Addresses of others are numbers, names are passed over.
    """
    if options.advertise is not None:
        return options.advertise
    if options.bind not in ("0.0.0.0", "::"):  # noqa: S104 -- asks whether it is
        return options.bind, port
    for host, other_port in others:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((host, other_port))  # sends nothing: asks the routing table
                return str(probe.getsockname()[0]), port
            except OSError:
                continue
    return socket.gethostname(), port
