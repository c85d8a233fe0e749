"""What one client may cost. Each bound can be changed in the setting `DREF_LIVE`, a dict with the names below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

URL: Final = "/dref/ws/"
"""Path of the websocket, as `{% dref_script %}` tells it to the page."""
ORIGINS: Final[tuple[str, ...]] = ()
"""Origins besides the site's own and CSRF_TRUSTED_ORIGINS whose pages may connect: "https://shop.example"."""
MAX_MESSAGE_SIZE: Final = 64 * 1024
"""Characters of one message from a client."""
MAX_SUBSCRIPTIONS: Final = 1_000
"""Names and prefixes that one client watches at a time."""
MAX_NAMES: Final = 10_000
"""Names that one client is told about, those under its prefixes included."""
RATE: Final = 20.0
"""Messages a second that a client may send for long."""
BURST: Final = 100
"""Messages that it may send at once."""
HEARTBEAT: Final = 20.0
"""Seconds between two pings; a client that leaves two of them unanswered is dropped."""
RECHECK: Final = 60.0
"""Seconds after which the policy is asked again about everything that a client watches."""
WINDOW: Final = 256 * 1024
"""Characters on the way to a client that it has not yet acknowledged; beyond that its changes conflate."""

PRESENCE_LEASE: Final = 10.0
"""Seconds for which those who were connected to a process that died are still shown in their rooms."""


class Limits(NamedTuple):
    url: str = URL
    origins: tuple[str, ...] = ORIGINS
    max_message_size: int = MAX_MESSAGE_SIZE
    max_subscriptions: int = MAX_SUBSCRIPTIONS
    max_names: int = MAX_NAMES
    rate: float = RATE
    burst: int = BURST
    heartbeat: float = HEARTBEAT
    recheck: float = RECHECK
    window: int = WINDOW
    presence_lease: float = PRESENCE_LEASE


_LEAST: Final[dict[str, float]] = {
    "MAX_MESSAGE_SIZE": 256,
    "MAX_SUBSCRIPTIONS": 1,
    "MAX_NAMES": 1,
    "RATE": 0.1,
    "BURST": 1,
    "HEARTBEAT": 0.05,
    "RECHECK": 0.05,
    "WINDOW": 1024,
    "PRESENCE_LEASE": 1,
}
_FRACTIONS: Final = {"RATE", "HEARTBEAT", "RECHECK", "PRESENCE_LEASE"}


def configured() -> Limits:
    """The limits with what `DREF_LIVE` says. Raises ImproperlyConfigured with a sentence that says what to change."""
    given = getattr(settings, "DREF_LIVE", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"DREF_LIVE must be a dict, it is {given!r}.")
    known = {name.upper() for name in Limits._fields}
    if unknown := sorted(map(str, set(given) - known)):
        raise ImproperlyConfigured(
            f"DREF_LIVE has unknown keys {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}."
        )
    return Limits(**{key.lower(): _checked(key, value) for key, value in given.items()})


def _checked(key: str, value: Any) -> Any:
    if key == "URL":
        if not isinstance(value, str) or not value.startswith("/"):
            raise ImproperlyConfigured(f"DREF_LIVE['URL'] must be a path that starts with a slash, it is {value!r}.")
        return value
    if key == "ORIGINS":
        if isinstance(value, str) or not all(isinstance(each, str) and "://" in each for each in value):
            raise ImproperlyConfigured(
                f"DREF_LIVE['ORIGINS'] must be a list of origins such as 'https://shop.example', it is {value!r}."
            )
        return tuple(value)
    kinds = (int, float) if key in _FRACTIONS else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < _LEAST[key]:
        what = "number" if key in _FRACTIONS else "whole number"
        raise ImproperlyConfigured(f"DREF_LIVE[{key!r}] must be a {what}, {_LEAST[key]:g} or more; it is {value!r}.")
    return value
