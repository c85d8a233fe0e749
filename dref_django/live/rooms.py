"""Presence on pages: the rooms that a client is in, and a room's members as a value that pages watch.

A client joins by message, or by itself in the rooms that the policy names, and leaves when it is gone, however it went.
Who is in a room is watched under the name "dref.presence:<room>", like a ref whose value is
`{"count": 2, "members": {"alice": {...}, "bob": {...}}}`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import secrets
import time
from collections.abc import Iterable
from typing import Any, Final, Protocol

from dref_django import background
from dref_django.backends.base import Backend
from dref_django.codecs import get_codec
from dref_django.exceptions import DRefError
from dref_django.hub import Raw
from dref_django.leasing import new_owner
from dref_django.presence import Presence, PresenceChange

from . import policy as policies
from .policy import JOIN, Policy

logger = logging.getLogger("dref_django")

PREFIX: Final = "dref.presence:"
RETRY: Final = 1.0


def room_of(name: str) -> str | None:
    """The room whose members that name stands for; None for the name of a ref."""
    return name[len(PREFIX) :] if name.startswith(PREFIX) and len(name) > len(PREFIX) else None


class Rooms:
    """The rooms that one client is in."""

    def __init__(self, alias: str, lease: float, policy: Policy) -> None:
        self._alias, self._lease, self._policy = alias, lease, policy
        self._members: dict[str, str] = {}
        """By room the member as which it has joined."""
        self._own = f"page-{secrets.token_hex(8)}"
        self._gone = False

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, room: str) -> bool:
        return room in self._members

    async def join(self, user: Any, rooms: Iterable[str]) -> list[str]:
        """Joins those that the policy allows; returns them. Raises `DRefError` when that cannot be written."""
        wanted = [room for room in rooms if room not in self._members]
        allowed = await policies.allowed(self._policy, user, wanted, JOIN)
        joined = [room for room in wanted if room in allowed]
        results = await asyncio.gather(*[self._join(user, room) for room in joined], return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                self.leave(joined)
                raise result
        return joined

    async def _join(self, user: Any, room: str) -> None:
        member, info = await policies.member(self._policy, user, room)
        if self._gone:
            return
        member = member or self._own
        await self._room(room).ajoin(member, info)
        self._members[room] = member
        self._leave_if_gone(room)

    def _leave_if_gone(self, room: str) -> None:
        """The client may have gone while it joined."""
        if self._gone:
            self.leave([room])

    def leave(self, rooms: Iterable[str]) -> list[str]:
        """Leaves those that it is in; returns them. Written in the background."""
        left = [room for room in rooms if room in self._members]
        for room in left:
            self._room(room).leave_soon(self._members.pop(room))
        return left

    def leave_all(self) -> None:
        """The client is gone."""
        self._gone = True
        self.leave(list(self._members))

    async def change_user(self, user: Any) -> list[str]:
        """Leaves what this user may not be in, and is in the others as who it is now; returns the lost ones."""
        rooms = list(self._members)
        allowed = await policies.allowed(self._policy, user, rooms, JOIN)
        lost = self.leave([room for room in rooms if room not in allowed])
        for room in rooms:
            member, _ = await policies.member(self._policy, user, room) if room in allowed else ("", {})
            if room in self._members and self._members[room] != (member or self._own):
                self.leave([room])
                await self._join(user, room)
        return lost

    def _room(self, room: str) -> Presence:
        return Presence(room, ttl=self._lease, using=self._alias)


class Receiver(Protocol):
    def push(self, raw: Raw) -> None: ...

    def end(self) -> None: ...


class Roster:
    """Watches the members of one room on the background loop, and hands them on as the versions of a value."""

    def __init__(self, name: str, backend: Backend) -> None:
        self._name = name
        self._stream = Presence(room_of(name) or "", using=backend.params.alias).changes()
        self._codec = get_codec(backend.params.codec)
        # Each process counts for itself, so what one has told is no base for what another tells.
        self._epoch = new_owner(backend)
        self._version = 0
        self._closed = False

    def open(self, tap: Receiver) -> None:
        self._future: concurrent.futures.Future[None] = background.submit(self._run(tap))

    def close(self) -> None:
        self._closed = True
        self._stream.close()
        self._future.cancel()

    async def _run(self, tap: Receiver) -> None:
        while True:
            try:
                async for change in self._stream:
                    tap.push(self._raw(change))
                if not self._closed:  # by the hub, then: its back end is out of use, for every page
                    tap.end()
                return
            except DRefError as error:
                logger.warning("dref: %r cannot be watched for pages now: %s", self._name, error)
                await asyncio.sleep(RETRY)

    def _raw(self, change: PresenceChange) -> Raw:
        base, self._version = self._version, max(self._version + 1, time.time_ns() // 1000)
        data = self._codec.encode({"count": len(change.members), "members": change.members})
        return Raw(self._name, self._version, base, data, False, base == 0, self._epoch)
