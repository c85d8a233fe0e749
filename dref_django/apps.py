"""The Django app. Nothing connects or starts here; checks and one receiver are registered."""

from __future__ import annotations

from django.apps import AppConfig


class DrefDjangoConfig(AppConfig):
    name = "dref_django"
    label = "dref_django"
    verbose_name = "Distributed refs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.core.signals import request_started

        from . import checks  # noqa: F401
        from .live import checks as live_checks  # noqa: F401
        from .streams import start_registered

        request_started.connect(start_registered, dispatch_uid="dref_django.start_registered")
