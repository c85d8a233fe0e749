"""System checks of the settings that live pages read."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from . import limits, policy


def check_live_settings(**_: Any) -> list[checks.CheckMessage]:
    """dref.E040: DREF_LIVE is wrong. dref.E041: DREF_POLICY names no policy."""
    messages: list[checks.CheckMessage] = []
    for configured, check in ((limits.configured, "dref.E040"), (policy.configured, "dref.E041")):
        try:
            configured()
        except ImproperlyConfigured as error:
            messages.append(checks.Error(str(error), id=check))
    return messages
