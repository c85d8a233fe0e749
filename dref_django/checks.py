"""System checks: what is wrong with the settings, and what to do about it.

Configuration is checked by `manage.py check`; checks that ask the server run with `--deploy` or `--database`.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from . import backends, conf
from .codecs import InvalidCodec, get_codec


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """dref.E001: the settings name no usable back end. dref.W001: `memory` by default in production."""
    try:
        aliases = conf.aliases()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="dref.E001")]
    messages: list[checks.CheckMessage] = []
    if not conf.is_configured() and not settings.DEBUG:
        messages.append(
            checks.Warning(
                "DREF_BACKEND is not set, so each process keeps its own refs and locks in memory.",
                hint='Set DREF_BACKEND to "redis" or "postgres"; or to "memory" if one process is all there is.',
                id="dref.W001",
            )
        )
    for alias in aliases:
        try:
            backend = backends.get_backend(alias)
            get_codec(backend.params.codec)
        except (ImproperlyConfigured, InvalidCodec) as error:
            messages.append(checks.Error(str(error), id="dref.E001"))
    return messages


def check_servers(**_: Any) -> list[checks.CheckMessage]:
    """What each back end says about its server; see the back ends' documentation for the ids."""
    messages: list[checks.CheckMessage] = []
    try:
        for alias in conf.aliases():
            messages.extend(backends.get_backend(alias).check())
    except ImproperlyConfigured:
        return []  # check_settings has said so
    return messages
