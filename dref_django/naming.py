"""How names come about: of class attributes, of groups, of a ref's own lock."""

from __future__ import annotations

from typing import Any, Final

from .exceptions import InvalidName
from .protocol import check_name

GROUP_SEPARATOR: Final = "\x1f"
"""Between group and name inside a back end. Users' names hold no control characters, so it is never ambiguous."""


def grouped(name: str, group: str | None) -> str:
    return name if group is None else check_name(group) + GROUP_SEPARATOR + name


def ref_lease(name: str) -> str:
    """The lease behind a ref's own lock (`edit`, queued updates): another namespace than `lock(name)`."""
    return "ref:" + name


def parsed_pattern(pattern: str) -> tuple[str | None, str]:
    """(name, "") or (None, prefix)."""
    if pattern.endswith("*"):
        prefix = pattern[:-1]
        if prefix:
            check_name(prefix)
        return None, prefix
    return check_name(pattern), ""


def from_attribute(ref: object, attribute: tuple[type[Any], str] | None) -> str:
    """`shop.site.visitors` for `class Site: visitors = Counter()` in the app `shop` (else the top-level module)."""
    from django.apps import apps

    if attribute is None:
        raise InvalidName(f"{type(ref).__name__} has no name: give it one, or make it a class attribute.")
    owner, field = attribute
    label = owner.__module__.partition(".")[0]
    if apps.apps_ready and (config := apps.get_containing_app_config(owner.__module__)) is not None:
        label = config.label
    return check_name(f"{label}.{owner.__name__.lower()}.{field}")
