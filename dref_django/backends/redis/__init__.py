"""The back end for Redis and Valkey: one server, Sentinel, or Redis Cluster.

To read it in order: backend.py, conversation.py, scripts.py with its .lua files, connections.py, wire.py, resp.py,
listener.py.
"""

from django.core.exceptions import ImproperlyConfigured

try:
    import redis as _client  # noqa: F401
except ModuleNotFoundError as error:
    raise ImproperlyConfigured(
        "The redis back end needs the packages redis and django-redis: pip install 'dref-django[redis]'."
    ) from error

from .backend import RedisBackend

__all__ = ["RedisBackend"]
