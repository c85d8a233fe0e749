"""Where the other nodes are, as far as settings and name server know, and where this one is."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from .options import Options
from .resolving import join_address, resolve, split_address

MAX_ADDRESSES: Final = 1000
"""Addresses of one service that are looked at."""


async def find_places(options: Options) -> frozenset[str]:
    """Where nodes may live, as "host:port": NODES as they are written (a name is looked up at each dial), and all
    addresses that SERVICES have now. This node's own may be among them.

    Raises OSError when there are services and nothing at all was found.
    """
    found = set(options.nodes)
    trouble = None
    for service in options.services:
        host, port = split_address(service)
        try:
            found.update(join_address(address, port) for address in (await resolve(host))[:MAX_ADDRESSES])
        except OSError as error:
            trouble = OSError(f"the service {host!r} cannot be looked up: {error}")
    if trouble is not None and not found:
        raise trouble
    return frozenset(found)


def own_address(options: Options, port: int, places: Iterable[str] = ()) -> str:
    """Where others reach this node, "host:port": ADVERTISE, or BIND, or the address that it has towards `places`.

    `port`: the one it listens on. Places are numbers; names among them are passed over.
    """
    if options.advertise:
        return options.advertise
    if options.bind not in ("0.0.0.0", "::"):  # noqa: S104 -- asks whether it is
        return join_address(options.bind, port)
    for place in sorted(places):
        host, other_port = split_address(place)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((socket.inet_pton(family, host) and host, other_port))  # asks the routing table only
                return join_address(str(probe.getsockname()[0]), port)
            except OSError:
                continue
    return join_address(socket.gethostname(), port)
