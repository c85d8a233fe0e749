"""Names to addresses, at each use anew: in a container platform they move.

On a thread of its own and not asyncio's executor, whose threads a process waits for when it ends, however long the
name server takes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Final

from dref_django.threads import started

MAX_LOOKUPS: Final = 16
"""Lookups under way; more fail at once."""

_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)


def split_address(address: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of "host:port" or "[2001:db8::1]:port"; the port may be missing if there is a default. Raises
    ValueError."""
    bare, bracket, rest = address[1:].partition("]") if address.startswith("[") else (address, "", "")
    if bracket:
        host, colon, port = bare, rest[:1], rest[1:]
    elif bare.count(":") > 1:
        raise ValueError("write an IPv6 address in brackets, [::1]:8082")
    else:
        host, colon, port = bare.partition(":")
    if not colon and default_port is not None:
        port = str(default_port)
    if not host or any(character.isspace() for character in host) or colon not in ("", ":"):
        raise ValueError("it is no host:port")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("it has no port from 1 to 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(host: str) -> list[str]:
    """All addresses of a host, sorted, each once. Raises OSError."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return await _look_up(host)
    return [host]


async def _look_up(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str], error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(found)
        else:
            future.set_exception(error)

    def look_up() -> None:
        found: list[str] = []
        failure: Exception | None = None
        try:
            found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
        except (OSError, UnicodeError) as error:
            failure = error if isinstance(error, OSError) else OSError(f"{host!r} is no host name: {error}")
        finally:
            _lookups.release()
        try:
            loop.call_soon_threadsafe(settle, found, failure)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits
            return

    if not _lookups.acquire(blocking=False):
        raise OSError(f"{host!r} cannot be looked up: {MAX_LOOKUPS} lookups are under way, the name server is slow")
    if started(look_up, "dref-raft-dns") is None:
        _lookups.release()
        raise OSError(f"{host!r} cannot be looked up: the system gives no thread")
    return await future
