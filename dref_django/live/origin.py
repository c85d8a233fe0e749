"""Which pages may connect: those that could also POST a form here, after Django's own rules.

A websocket is not bound by the same-origin policy, but carries the cookies: without this check any page on the web
could watch with its visitor's permissions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain


def is_allowed(scope: Mapping[str, Any], origins: Iterable[str]) -> bool:
    """Whether the handshake in this ASGI scope comes from an allowed page.

    Allowed are the site's own origin (under a host of ALLOWED_HOSTS), CSRF_TRUSTED_ORIGINS and `origins`. Browsers
    always send an Origin; a client without one is refused too.
    """
    headers = dict(scope.get("headers", ()))
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    host = _host(headers)
    domain = split_domain_port(host)[0]
    if not domain or not validate_host(domain, _allowed_hosts()):
        return False
    scheme, netloc = urlsplit(origin)[:2]
    if scheme not in ("http", "https") or not netloc:
        return False
    if netloc == host and (scheme == "https" or not _is_secure(scope, headers)):
        return True
    return any(_matches(scheme, netloc, trusted) for trusted in (*settings.CSRF_TRUSTED_ORIGINS, *origins))


def _host(headers: Mapping[bytes, bytes]) -> str:
    forwarded = headers.get(b"x-forwarded-host") if settings.USE_X_FORWARDED_HOST else None
    return (forwarded or headers.get(b"host", b"")).decode("latin-1").lower()


def _allowed_hosts() -> list[str]:
    if settings.DEBUG and not settings.ALLOWED_HOSTS:
        return [".localhost", "127.0.0.1", "[::1]"]
    return list(settings.ALLOWED_HOSTS)


def _is_secure(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> bool:
    if scope.get("scheme") in ("wss", "https"):
        return True
    if settings.SECURE_PROXY_SSL_HEADER is None:
        return False
    name, value = settings.SECURE_PROXY_SSL_HEADER
    header = name.removeprefix("HTTP_").replace("_", "-").lower().encode("latin-1")
    return headers.get(header, b"").decode("latin-1").split(",", 1)[0].strip() == value


def _matches(scheme: str, netloc: str, trusted: str) -> bool:
    trusted_scheme, trusted_netloc = urlsplit(trusted)[:2]
    return scheme == trusted_scheme and is_same_domain(netloc, trusted_netloc.lstrip("*"))
