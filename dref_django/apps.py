"""The Django app. Nothing connects, starts or is loaded here that a process may never need."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started

_OBSERVERS: Final = {"DREF_METRICS": "metrics", "DREF_TRACING": "tracing"}
"""Settings that turn on what is off, and not even imported, without them."""


class DrefDjangoConfig(AppConfig):
    name = "dref_django"
    label = "dref_django"
    verbose_name = "Distributed refs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        request_started.connect(_start_registered, dispatch_uid="dref_django.start_registered")
        checks.register(_check_settings, "dref")
        checks.register(_check_servers, "dref", deploy=True)
        for setting, module in _OBSERVERS.items():
            if getattr(settings, setting, False):
                _enable(setting, module)


def _enable(setting: str, module: str) -> None:
    try:
        import_module(f"dref_django.{module}").enable()
    except ImportError as error:
        extra = {"metrics": "metrics", "tracing": "otel"}[module]
        raise ImproperlyConfigured(f'{setting} needs pip install "dref-django[{extra}]": {error}') from error


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
