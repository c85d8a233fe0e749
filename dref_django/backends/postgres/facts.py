"""What operators want to know of the PostgreSQL server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured

from .pools import greet
from .session import Broken, Limit, Refused, Session, connect

if TYPE_CHECKING:
    from .backend import PostgresBackend

NAMES: Final = (
    "version",
    "notify queue in use",
    "connections to this database",
    "of these, of dref_django",
    "connections allowed",
    "entries",
    "leases",
    "size of the tables",
)
_FACTS: Final = """
SELECT current_setting('server_version'), (round((pg_notification_queue_usage() * 100)::numeric, 1))::text || ' %',
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dref%'),
    current_setting('max_connections'),
    (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'dref_entry'::regclass),
    (SELECT count(*) FROM dref_lease),
    pg_size_pretty(pg_total_relation_size('dref_entry') + pg_total_relation_size('dref_lease'))
"""


def facts(backend: PostgresBackend) -> dict[str, Any]:
    """Connects once. The number of entries is the planner's estimate, of all key prefixes."""
    try:
        values, _ = row_of(backend, _FACTS)
    except (Broken, Refused, ImproperlyConfigured) as error:
        raise backend.unreachable("PostgreSQL", error) from error
    return dict(zip(NAMES, values, strict=True)) | {"pool of this process": f"{backend.pool.size} connections at most"}


def row_of(backend: PostgresBackend, script: str) -> tuple[list[str], bool]:
    """The one row of a query on a connection of its own, and whether the server's session was ours alone."""
    limit = Limit.of(backend.params.timeout)
    session: Session | None = None
    try:
        session = Session(connect(backend.address.params(backend.params.timeout), limit.end), prepares=False)
        is_own = session.wait(greet(session, backend.address), limit)
        result = session.wait(session.script(script), limit)
        row = [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]
        return row, is_own
    finally:
        if session is not None:
            session.close()
