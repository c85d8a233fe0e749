"""Settings of the demo. `python -m example_project.demo` sets the variables; without them it is one process on memory.

- `DREF_DEMO_BACKEND`: memory, raft, redis or postgres (raft finds its nodes by variables of its own, `DREF_PORT` ...);
- `DREF_DEMO_URL`: where that server is;
- `DREF_DEMO_PORTS`: where the demo's processes listen, "8000,8001";
- `DREF_DEMO_PORT`: where this one does, its name on the pages; without it that is the host's (in a container its id);
- `DREF_DEMO_DIR`: the directory of the SQLite database (users and sessions, except on postgres).
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BACKEND = os.environ.get("DREF_DEMO_BACKEND", "memory")
URL = os.environ.get("DREF_DEMO_URL", "")
PORTS = [port for port in os.environ.get("DREF_DEMO_PORTS", "").split(",") if port]
NAME = os.environ.get("DREF_DEMO_PORT") or socket.gethostname()
DIRECTORY = Path(os.environ.get("DREF_DEMO_DIR", tempfile.gettempdir()))

# The processes of one demo share it; the next demo has another.
SECRET_KEY = os.environ.get("DREF_DEMO_SECRET") or secrets.token_urlsafe(32)
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
USE_TZ = True
ROOT_URLCONF = "example_project.urls"
STATIC_URL = "/static/"
ASGI_APPLICATION = "example_project.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "dref_django",
    "example_project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "example_project.views.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "dref_django.history.actor_middleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _database() -> dict[str, Any]:
    if BACKEND != "postgres":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": DIRECTORY / "demo.sqlite3"}
    server = urlsplit(URL)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": server.path.lstrip("/"),
        "USER": unquote(server.username or ""),
        "PASSWORD": unquote(server.password or ""),
        "HOST": server.hostname,
        "PORT": server.port,
    }


DATABASES = {"default": _database()}

DREF_BACKEND: Any = {"BACKEND": "redis", "OPTIONS": {"URL": URL}} if BACKEND == "redis" else BACKEND
DREF_METRICS = find_spec("prometheus_client") is not None
DREF_LIVE = {"PRESENCE_LEASE": 4}
DREF_POLICY = "example_project.policy.DemoPolicy"
