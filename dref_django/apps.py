"""The Django app. Nothing connects, starts or is loaded here that a process may never need."""

from __future__ import annotations

import sys
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.signals import request_started


class DrefDjangoConfig(AppConfig):
    name = "dref_django"
    label = "dref_django"
    verbose_name = "Distributed refs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        request_started.connect(_start_registered, dispatch_uid="dref_django.start_registered")
        checks.register(_check_settings, "dref")
        checks.register(_check_servers, "dref", deploy=True)


def _start_registered(**_: Any) -> None:
    """Starts listening with the first request; without a ref or a callback there is nothing to start."""
    streams = sys.modules.get("dref_django.streams")
    if streams is not None:
        streams.start_registered()


def _check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    from .checks import check_settings
    from .live.checks import check_live_settings

    return [*check_settings(**kwargs), *check_live_settings(**kwargs)]


def _check_servers(**kwargs: Any) -> list[checks.CheckMessage]:
    from .checks import check_servers

    return check_servers(**kwargs)
