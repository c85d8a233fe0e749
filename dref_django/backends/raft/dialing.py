"""The end of a connection that connects."""

from __future__ import annotations

import asyncio
import logging
import secrets as random_bytes
import ssl
from pathlib import Path
from typing import Final

from .channel import Channel
from .frames import TransportError
from .handshake import NONCE_SIZE, HandshakeError, Hello, Reason, Secrets, dialer
from .resolving import resolve, split_address

logger = logging.getLogger("dref_django")

DIAL_TIMEOUT: Final = 3.0
"""Seconds for all of it: looking the name up, connecting, the handshake."""
CONNECT_TIMEOUT: Final = 1.0
"""Seconds for one of several addresses of a name."""


async def dial(
    address: Path | str,
    secrets: Secrets,
    hello: Hello,
    *,
    tls: ssl.SSLContext | None = None,
    timeout: float = DIAL_TIMEOUT,
) -> Channel:
    """Connects to a Unix socket (a Path) or to "host:port", and proves and is proven to belong to the cluster.

    The name is looked up now; its addresses are tried one after the other. `timeout` is in seconds. Raises OSError
    when nobody is there (also `TimeoutError`), `TransportError` when somebody is, and is not one of us.
    """
    try:
        async with asyncio.timeout(timeout):
            channel = await _connect(address, secrets, hello, tls)
            try:
                await channel.opened
            except BaseException:
                channel.abort()
                raise
    except HandshakeError as error:
        if error.reason is Reason.CLOSED:
            raise ConnectionResetError(f"{address} closed the connection in the middle of the handshake") from error
        raise
    except TimeoutError:
        raise TimeoutError(f"{address} did not answer within {timeout:g} seconds") from None
    return channel


async def _connect(address: Path | str, secrets: Secrets, hello: Hello, tls: ssl.SSLContext | None) -> Channel:
    loop = asyncio.get_running_loop()

    def complain(error: TransportError) -> None:
        logger.warning("dref: the connection to %s was ended: %s", address, error)

    def make() -> Channel:
        return Channel(dialer(secrets, hello, random_bytes.token_bytes(NONCE_SIZE)), complain)

    if isinstance(address, Path):
        _, channel = await loop.create_unix_connection(make, str(address))
        return channel
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise OSError(f"{address!r}: {error}") from None
    found = await resolve(host)
    name = None if tls is None else host
    for number, ip in enumerate(found, 1):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT if number < len(found) else None):
                _, channel = await loop.create_connection(make, ip, port, ssl=tls, server_hostname=name)
                return channel
        except OSError:
            if number == len(found):
                raise
    raise OSError(f"{address} has no address")
