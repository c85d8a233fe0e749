"""HTTP and websockets of the demo in one application; `uvicorn example_project.asgi:application`."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
django_application = get_asgi_application()

# Only now: these need the apps to be loaded.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.urls import path  # noqa: E402

from dref_django.fields import start_mirrors  # noqa: E402
from dref_django.live import limits  # noqa: E402

from .rooms import DashboardConsumer  # noqa: E402
from .settings import NAME  # noqa: E402
from .work import Worker  # noqa: E402

start_mirrors()  # of the articles' scores

# A server process, and no other command, takes part in the work.
Worker(NAME).start()

application = ProtocolTypeRouter(
    {
        # A web server would serve the static files; the demo has none.
        "http": ASGIStaticFilesHandler(django_application),
        "websocket": AuthMiddlewareStack(URLRouter([path(limits.configured().url[1:], DashboardConsumer.as_asgi())])),
    }
)
