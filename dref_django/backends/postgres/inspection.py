"""What `manage.py check --database` and `dref doctor` say about this back end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's own name)
from django.core.exceptions import ImproperlyConfigured

from dref_django.exceptions import DRefError

from .facts import row_of
from .pools import Unusable
from .session import Broken, Refused

if TYPE_CHECKING:
    from .backend import PostgresBackend

ROOM: Final = 10
"""Connections that should be free on the server for each process of ours: it warns when fewer are allowed at all."""

_FACTS: Final = """
SELECT current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
    current_setting('server_encoding'), pg_is_in_recovery(),
    (SELECT count(*) FROM unnest(ARRAY['dref_entry', 'dref_lease']) AS t
     CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p WHERE NOT has_table_privilege(t, p))
"""


def inspect(backend: PostgresBackend) -> list[CheckMessage]:
    """Connects once. E030: wrong alias; E031: tables; E032: unreachable; E033: rights; E034: standby; W030: a pooler
    without LISTEN_DSN; W031: fsync off; W032: too few connections; W033: encoding; W035: locks behind a pooler."""
    where = f"DREF_BACKENDS[{backend.params.alias!r}]"
    try:
        backend.address.check_vendor()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="dref.E030")]
    try:
        return _judge(backend, *row_of(backend, _FACTS))
    except Unusable as error:
        return [Error(str(error), id="dref.E031")]
    except (Broken, Refused, DRefError) as error:
        hint = "Check that the server runs and that DATABASES points at it."
        return [Error(f"{where}: PostgreSQL cannot be reached: {error}", hint=hint, id="dref.E032")]


def _judge(backend: PostgresBackend, row: list[str], is_own: bool) -> list[CheckMessage]:
    fsync, full_pages, room, encoding, standby, forbidden = row
    alias = backend.address.alias
    where = f"DREF_BACKENDS[{backend.params.alias!r}], DATABASES[{alias!r}]"
    found: list[CheckMessage] = []
    if forbidden != "0":
        hint = "GRANT SELECT, INSERT, UPDATE, DELETE ON dref_entry, dref_lease and SELECT ON dref_meta to it."
        found.append(Error(f"{where}: this user may not change dref_django's tables.", hint=hint, id="dref.E033"))
    if standby == "t":
        hint = "Point the alias at the primary; LISTEN and every change need it."
        found.append(Error(f"{where}: the server is a standby.", hint=hint, id="dref.E034"))
    if not is_own and not backend.address.pooled:
        hint = "Set OPTIONS['LISTEN_DSN'] to a connection string that goes past it: LISTEN needs a session."
        found.append(Warning(f"{where}: a pooler stands between.", hint=hint, id="dref.W030"))
        if backend.locks is not None:
            hint = "Set OPTIONS['LISTEN_DSN'] all the same, or say so with OPTIONS['LOCKS'] = 'lease'."
            message = f"{where}: behind the pooler a lock whose holder dies is free after its lease, not at once."
            found.append(Warning(message, hint=hint, id="dref.W035"))
    if "off" in (fsync, full_pages):
        hint = "Turn fsync and full_page_writes on; else acknowledged values are lost, or damaged, in a crash."
        found.append(Warning(f"{where}: the server does not flush to the disk.", hint=hint, id="dref.W031"))
    needed = backend.pool.size + (2 if backend.locks is None else 3)
    if int(room) < needed + ROOM:
        hint = "Raise max_connections or lower OPTIONS['POOL_SIZE']."
        message = f"{where}: the server allows {room} connections; one process of dref_django may open {needed}."
        found.append(Warning(message, hint=hint, id="dref.W032"))
    if encoding != "UTF8":
        hint = "Use a database with UTF8, or names of ASCII only."
        found.append(Warning(f"{where}: the database's encoding is {encoding}.", hint=hint, id="dref.W033"))
    return found
