"""The settings of Django that concern us, read, checked, and turned into `Params`.

DREF_BACKEND = "redis"                                        # a short name or a dotted path
DREF_BACKEND = {"BACKEND": "redis", "KEY_PREFIX": "shop", "OPTIONS": {...}}
DREF_BACKENDS = {"default": "postgres", "fast": {...}}        # several, chosen by using="fast"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .backends import base
from .backends.base import Params

DEFAULT_ALIAS = base.DEFAULT_ALIAS

SHORT_NAMES = {
    "memory": "dref_django.backends.memory.MemoryBackend",
    "redis": "dref_django.backends.redis.RedisBackend",
    "postgres": "dref_django.backends.postgres.PostgresBackend",
    "raft": "dref_django.backends.raft.backend.RaftBackend",
}

SETTINGS = ("DREF_BACKEND", "DREF_BACKENDS")
"""Settings whose change discards the back ends in use."""

_NUMBERS = {
    "TIMEOUT": (0.001, "seconds"),
    "HEARTBEAT": (0.05, "seconds"),
    "LOCK_TIMEOUT": (0.0, "seconds"),
    "MAX_VALUE_SIZE": (1, "bytes"),
}
_KEYS = {"BACKEND", "KEY_PREFIX", "CODEC", "OPTIONS", *_NUMBERS}


class Configuration(NamedTuple):
    path: str
    """Dotted path of the back end's class."""
    params: Params


def is_configured() -> bool:
    return any(getattr(settings, name, None) is not None for name in SETTINGS)


def aliases() -> list[str]:
    return list(_configured())


def configuration(alias: str) -> Configuration:
    """What the settings say about one alias. Raises ImproperlyConfigured with a sentence that says what to do."""
    configured = _configured()
    if alias not in configured:
        raise ImproperlyConfigured(
            f"using={alias!r}: DREF_BACKENDS has no such alias; it has {', '.join(sorted(configured))}."
        )
    return parse(alias, configured[alias])


def _configured() -> dict[str, Any]:
    several = getattr(settings, "DREF_BACKENDS", None)
    single = getattr(settings, "DREF_BACKEND", None)
    if several is None:
        return {DEFAULT_ALIAS: "memory" if single is None else single}
    if not isinstance(several, Mapping):
        raise ImproperlyConfigured("DREF_BACKENDS must be a dict of alias to back end.")
    if single is not None:
        if DEFAULT_ALIAS in several:
            raise ImproperlyConfigured("DREF_BACKEND and DREF_BACKENDS['default'] are both set; remove one of them.")
        return {DEFAULT_ALIAS: single, **several}
    if DEFAULT_ALIAS not in several:
        raise ImproperlyConfigured("DREF_BACKENDS needs an alias 'default' (or set DREF_BACKEND).")
    return dict(several)


def parse(alias: str, value: object) -> Configuration:
    """What one value of DREF_BACKEND or DREF_BACKENDS means. Raises ImproperlyConfigured."""
    where = f"DREF_BACKENDS[{alias!r}]" if hasattr(settings, "DREF_BACKENDS") else "DREF_BACKEND"
    entry: Any = {"BACKEND": value} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or not isinstance(entry.get("BACKEND"), str):
        raise ImproperlyConfigured(
            f"{where} must be one of {', '.join(SHORT_NAMES)}, a dotted path, or a dict with the key 'BACKEND'; "
            f"it is {value!r}."
        )
    if unknown := sorted(set(entry) - _KEYS):
        raise ImproperlyConfigured(
            f"{where} has unknown keys {', '.join(map(repr, unknown))}; known are {', '.join(sorted(_KEYS))}. "
            "Settings of one kind of back end go into 'OPTIONS'."
        )
    name: str = entry["BACKEND"]
    if "." not in name and name not in SHORT_NAMES:
        raise ImproperlyConfigured(f"{where}: there is no back end {name!r}; there are {', '.join(SHORT_NAMES)}.")
    numbers = {key.lower(): _number(where, entry, key) for key in _NUMBERS if key in entry}
    for key, kind in (("KEY_PREFIX", str), ("CODEC", str), ("OPTIONS", Mapping)):
        if key in entry and not isinstance(entry[key], kind):
            raise ImproperlyConfigured(f"{where}[{key!r}] must be a {kind.__name__}, it is {entry[key]!r}.")
    texts = {key.lower(): entry[key] for key in ("KEY_PREFIX", "CODEC") if key in entry}
    given: dict[str, Any] = {**numbers, **texts}
    params = Params(alias=alias, options=dict(entry.get("OPTIONS", {})), **given)
    return Configuration(SHORT_NAMES.get(name, name), params)


def _number(where: str, entry: Mapping[str, Any], key: str) -> float:
    least, unit = _NUMBERS[key]
    number = entry[key]
    kinds = int if unit == "bytes" else int | float
    if isinstance(number, bool) or not isinstance(number, kinds) or not least <= number < math.inf:
        raise ImproperlyConfigured(f"{where}[{key!r}] must be a number of {unit}, {least} or more; it is {number!r}.")
    checked: float = number
    return checked
