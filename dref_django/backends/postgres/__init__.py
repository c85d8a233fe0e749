"""The PostgreSQL back end: the truth lives in three tables of the project's own database.

Read in this order:

- `migrations/postgres_0001.sql`: the tables, and what the commands mean, in SQL.
- `statements.py`, `binary.py`: commands to statements, rows to replies.
- `session.py`: one connection; `address.py`: where the database is; `pools.py`: the connections of the process.
- `backend.py`: one batch, sync and async, and what each failure proves; `combining.py`: increments that meet.
- `channels.py`, `dispatcher.py`, `listener.py`: how a change gets to other processes.
- `locks.py`, `advisory.py`, `shared.py`: leases that a session backs, and the one connection that does it.
- `join.py`: operations that are part of the caller's transaction.
- `inspection.py`: what `manage.py check` says.

Its caveats: hints may be lost (listeners compare versions every heartbeat), a dump restored over the same database
looks like no new epoch, and a row that a joined transaction has written makes others wait until it ends.
"""

from django.core.exceptions import ImproperlyConfigured

try:
    import psycopg  # noqa: F401
except ImportError as error:
    raise ImproperlyConfigured(
        "The postgres back end needs psycopg 3: install dref-django[postgres] (and psycopg[binary] or libpq). "
        f"It could not be imported: {error}"
    ) from error

from .backend import PostgresBackend

__all__ = ["PostgresBackend"]
