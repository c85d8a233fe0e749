"""Who may do what on the admin's pages."""

from __future__ import annotations

from typing import Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

VIEW: Final = "dref_django.view_ref"
CHANGE: Final = "dref_django.change_ref"
BREAK: Final = "dref_django.break_lock"


def may(request: HttpRequest, *permissions: str) -> bool:
    """Whether the user has one of these permissions."""
    user = request.user
    return user.is_active and any(user.has_perm(permission) for permission in permissions)


def may_see_refs(request: HttpRequest) -> bool:
    """Who may change a value sees it, as everywhere in Django's admin."""
    return may(request, VIEW, CHANGE)


def may_see_locks(request: HttpRequest) -> bool:
    return may(request, VIEW, CHANGE, BREAK)


def demand(allowed: bool) -> None:
    if not allowed:
        raise PermissionDenied
