"""Tables and functions of the postgres back end. On other databases it runs and does nothing."""

from pathlib import Path
from typing import Any

from django.db import migrations


class RunPostgresSQL(migrations.RunSQL):
    """RunSQL on PostgreSQL, nothing elsewhere."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)


def script(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


class Migration(migrations.Migration):
    initial = True

    operations = [RunPostgresSQL(script("postgres_0001.sql"), script("postgres_0001_drop.sql"))]
