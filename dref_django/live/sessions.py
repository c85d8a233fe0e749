"""Clients by the session of their users: logging out ends their rights at once in the process that served it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import aget_user
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_out
from django.db import close_old_connections
from django.http import HttpRequest

from .connection import Connection


class Login:
    """One client of a session, from now until `end`."""

    def __init__(self, key: str, connection: Connection) -> None:
        self._key, self._connection = key, connection
        self._loop = asyncio.get_running_loop()
        if key:
            _by_session.setdefault(key, set()).add(self)

    def end(self) -> None:
        logins = _by_session.get(self._key, set())
        logins.discard(self)
        if not logins:
            _by_session.pop(self._key, None)

    def log_out(self) -> None:
        """The session has ended; from any thread. What only its user may see is not sent any more."""
        # In a context of its own: the view that logs out may occupy the one thread in which the policy has to be asked,
        # and asgiref takes what inherits its context for a deadlock.
        context = contextvars.Context()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the client with it
            self._loop.call_soon_threadsafe(self._forget_user, context=context)

    def _forget_user(self) -> None:
        self._connection.spawn(self._connection.change_user(AnonymousUser()))


_by_session: dict[str, set[Login]] = {}


def session_key(session: Any) -> str:
    return getattr(session, "session_key", None) or ""


async def user_of(key: str, user: Any) -> Any:
    """The user as the session, or without one the database, has it now, not as it was when the client came."""
    if not key:
        return await sync_to_async(_read_again)(user)
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    await sync_to_async(close_old_connections)()
    return await aget_user(request)


def _read_again(user: Any) -> Any:
    """A user that some other middleware than Django's sessions has brought."""
    if user is None or user.pk is None:
        return AnonymousUser() if user is None else user
    close_old_connections()
    try:
        return user._meta.default_manager.filter(pk=user.pk).first() or AnonymousUser()
    finally:
        close_old_connections()


def _logged_out(*, request: Any, **_: object) -> None:
    key = session_key(getattr(request, "session", None))
    for login in list(_by_session.get(key, ())):
        login.log_out()


user_logged_out.connect(_logged_out, dispatch_uid="dref_django.live")
