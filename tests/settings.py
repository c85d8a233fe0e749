"""Settings of the test suite.

Importing them starts nothing (mypy imports them too): where the servers are is read from the two environment variables
that also override them. The fixtures in ``conftest.py`` start a server on first use, point these settings at it and set
the variable, so that processes which a test starts find the same server.
"""

import os
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

# Nothing listens on port 1: a test without its server fixture is refused at once and finds no server of somebody else.
NOWHERE_REDIS = "redis://127.0.0.1:1/0"
NOWHERE_POSTGRES = "postgresql://postgres@127.0.0.1:1/dref"


def postgres_alias(url: str) -> dict[str, Any]:
    """The ``DATABASES`` entry for a ``postgresql://`` URL."""
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/") or "dref",
        "USER": unquote(parts.username or "postgres"),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "127.0.0.1",
        "PORT": str(parts.port or 5432),
    }


SECRET_KEY = "only-for-tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    *(["channels"] if find_spec("channels") else []),
    "dref_django",
    "tests.app",
    "tests.fields.shop",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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
            ],
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DREF_TEST_SQLITE", ":memory:"),
    },
    "pg": postgres_alias(os.environ.get("DREF_TEST_POSTGRES_URL", NOWHERE_POSTGRES)),
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ.get("DREF_TEST_REDIS_URL", NOWHERE_REDIS),
    },
}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

DREF_BACKEND = "memory"
