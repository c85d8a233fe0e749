"""Where the database is: the parameters of Django's alias, followed while tests rename it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from django.utils.connection import ConnectionDoesNotExist
from psycopg.conninfo import conninfo_to_dict

ENGINE_VENDOR: Final = "postgresql"
NOT_LIBPQ: Final = ("context", "cursor_factory", "prepare_threshold", "autocommit", "row_factory")
"""Parameters that Django means for psycopg's connection, not for libpq."""


class Address:
    """The database of one alias of DATABASES. Raises ImproperlyConfigured when there is none that fits."""

    def __init__(self, alias: str, listen_dsn: str, where: str) -> None:
        self.alias = alias
        self.pooled = bool(listen_dsn)
        """Whether a pooler stands between: then a session's state is not ours to keep."""
        self._listen_dsn = listen_dsn
        self._where = where
        self._settings: Mapping[str, Any] | None = None

    def settings(self) -> Mapping[str, Any]:
        try:
            settings: Mapping[str, Any] = connections.settings[self.alias]
        except (KeyError, ConnectionDoesNotExist):
            raise ImproperlyConfigured(
                f"{self._where}: DATABASES has no alias {self.alias!r}. Set OPTIONS['DATABASE_ALIAS'] to the alias of "
                "your PostgreSQL database."
            ) from None
        self._settings = settings  # Django changes it in place
        return settings

    def key(self) -> tuple[object, ...]:
        """Changes when the alias points elsewhere: connections made for another key are of no use."""
        settings = self._settings or self.settings()
        return settings["NAME"], settings["HOST"], settings["PORT"], settings["USER"]

    def check_vendor(self) -> None:
        self.settings()
        vendor = connections[self.alias].vendor
        if vendor != ENGINE_VENDOR:
            raise ImproperlyConfigured(
                f"{self._where}: DATABASES[{self.alias!r}] is {vendor}, not PostgreSQL. Set OPTIONS['DATABASE_ALIAS'] "
                "to the alias of a PostgreSQL database, or choose another back end."
            )

    def params(self, timeout: float) -> dict[str, Any]:
        """libpq's parameters as Django would use them."""
        self.check_vendor()
        params = {
            key: value for key, value in connections[self.alias].get_connection_params().items()
            if key not in NOT_LIBPQ and value is not None
        }  # fmt: skip
        return {**_timeouts(timeout), **params}

    def direct_params(self, timeout: float) -> dict[str, Any]:
        """The same past a pooler: LISTEN_DSN when it is set, in the database that the alias has now."""
        if not self._listen_dsn:
            return self.params(timeout)
        params: dict[str, Any] = {**_timeouts(timeout), **conninfo_to_dict(self._listen_dsn), "client_encoding": "UTF8"}
        name = self.settings()["NAME"]
        if self._is_test_name(name):
            params["dbname"] = name
        return params

    def role(self) -> str | None:
        """Django's `assume_role`."""
        role: str | None = self.settings().get("OPTIONS", {}).get("assume_role")
        return role

    def _is_test_name(self, name: str) -> bool:
        given = self.settings().get("TEST", {}).get("NAME")
        return name.startswith(TEST_DATABASE_PREFIX) or (bool(given) and name.startswith(given))


def _timeouts(timeout: float) -> dict[str, Any]:
    return {
        "application_name": "dref_django",
        "keepalives": 1,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": math.ceil(timeout * 2000),
    }
