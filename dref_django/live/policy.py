"""Who may do what with which ref from a page. Default deny.

DREF_POLICY = "shop.live.ShopPolicy"

class ShopPolicy(Policy):
    def allows(self, user, ref_name, action):
        return action == "watch" and ref_name.startswith("shop.public.") or super().allows(user, ref_name, action)
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections
from django.utils.module_loading import import_string

logger = logging.getLogger("dref_django")

WATCH: Final = "watch"
INCREMENT: Final = "increment"
SET: Final = "set"
COMPARE_AND_SET: Final = "compare_and_set"
PRESENCE: Final = "presence"
"""To see who is in a room. This and the next are asked about the name of the room."""
JOIN: Final = "join"
PERMISSIONS: Final = {WATCH: "dref_django.view_ref", PRESENCE: "dref_django.view_ref"}
"""The permission that each action needs by default; others, changes among them, are denied."""


class Policy:
    """The default: active staff with the permission `dref_django.view_ref` may watch everything, nobody else anything.

    A subclass may answer otherwise. Both methods may be coroutine functions; plain ones run in a thread, so they may
    query the database. What raises is logged and counts as no. The answer holds for `DREF_LIVE["RECHECK"]` seconds
    (60), then it is asked for again with the user read anew.
    """

    def allows(self, user: Any, ref_name: str, action: str) -> bool | Awaitable[bool]:
        """Whether the user (perhaps anonymous) may do `action` with that ref.

        Actions: "watch", asked once and then every minute; "increment", "set", "compare_and_set", asked with every
        such message; "presence" and "join", where `ref_name` is that of a room whose members are seen or joined.
        """
        return self._has_permission(user, action)

    def allows_prefix(self, user: Any, prefix: str, action: str) -> bool | Awaitable[bool]:
        """Whether the user may do `action` with every ref, of now and later, whose name begins with `prefix`.

        Asked apart from `allows`, so that a policy that forbids single names does not give them away by prefix.
        """
        return self._has_permission(user, action)

    def rooms(self, user: Any) -> Iterable[str] | Awaitable[Iterable[str]]:
        """The rooms in which each page of the user is for as long as it is connected, where it may "join"."""
        return ()

    def member(self, user: Any, room_name: str) -> tuple[str, dict[str, Any]] | Awaitable[tuple[str, dict[str, Any]]]:
        """As whom the user is in a room, and what others see of it. An empty name: each page by itself."""
        if getattr(user, "is_authenticated", False):
            return str(user.pk), {"name": user.get_username()}
        return "", {}

    def _has_permission(self, user: Any, action: str) -> bool:
        permission = PERMISSIONS.get(action)
        return permission is not None and user.is_active and user.is_staff and user.has_perm(permission)


def configured() -> Policy:
    """The policy that `DREF_POLICY` names, else the default. Raises ImproperlyConfigured."""
    path = getattr(settings, "DREF_POLICY", None)
    if path is None:
        return Policy()
    try:
        policy = import_string(path) if isinstance(path, str) else path
        policy = policy() if isinstance(policy, type) else policy
    except Exception as error:
        raise ImproperlyConfigured(f"DREF_POLICY: {path!r} cannot be imported and made: {error}") from error
    if not isinstance(policy, Policy):
        raise ImproperlyConfigured(f"DREF_POLICY: {path!r} is no subclass of dref_django.live.policy.Policy.")
    return policy


async def allowed(policy: Policy, user: Any, names: Iterable[str], action: str) -> set[str]:
    """Those of the names with which the user may do `action`."""
    return await _allowed(policy.allows, user, list(names), action)


async def allowed_prefixes(policy: Policy, user: Any, prefixes: Iterable[str], action: str) -> set[str]:
    return await _allowed(policy.allows_prefix, user, list(prefixes), action)


async def rooms(policy: Policy, user: Any) -> list[str]:
    return list(await _asked(policy.rooms, user))


async def member(policy: Policy, user: Any, room: str) -> tuple[str, dict[str, Any]]:
    name, info = await _asked(policy.member, user, room)
    return name, info


async def _asked(ask: Callable[..., Any], *args: Any) -> Any:
    if inspect.iscoroutinefunction(ask):
        return await ask(*args)
    return await sync_to_async(_in_thread)(ask, *args)


def _in_thread(ask: Callable[..., Any], *args: Any) -> Any:
    close_old_connections()
    try:
        return ask(*args)
    finally:
        close_old_connections()


Ask = Callable[[Any, str, str], Any]
_RAISED: Final = "dref: the policy raised for %r; access is denied"


async def _allowed(ask: Ask, user: Any, names: list[str], action: str) -> set[str]:
    if not names:
        return set()
    if not inspect.iscoroutinefunction(ask):
        return await sync_to_async(_ask_all)(ask, user, names, action)
    answers = set()
    for name in names:
        try:
            if await ask(user, name, action) is True:
                answers.add(name)
        except Exception:
            logger.exception(_RAISED, name)
    return answers


def _ask_all(ask: Ask, user: Any, names: list[str], action: str) -> set[str]:
    answers = set()
    close_old_connections()
    try:
        for name in names:
            try:
                if ask(user, name, action) is True:
                    answers.add(name)
            except Exception:
                logger.exception(_RAISED, name)
    finally:
        close_old_connections()
    return answers
