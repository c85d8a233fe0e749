"""Refs whose row is gone: after raw SQL, TRUNCATE, or a crash between the commit and the deletion of the refs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.db import connections, models, router

from dref_django import backends
from dref_django.protocol import Delete, Row, Scan, Status

from .declared import DRefField, ref_fields

PAGE: Final = 500
"""Names that are looked for in the database at a time."""


class Orphan(NamedTuple):
    field: DRefField[Any]
    name: str
    pk: Any
    version: int

    def delete(self) -> bool:
        """Unless somebody has changed it meanwhile. Returns whether it did."""
        (reply,) = backends.get_backend(self.field.ref_using).execute([Delete(self.name, self.version)])
        return reply.status is Status.APPLIED


def fields_with_tables(labels: list[str] | None = None) -> list[DRefField[Any]]:
    """Every ref field that names refs; `labels` as `["shop", "blog.Article"]`. Raises LookupError for unknown ones."""
    chosen: list[type[models.Model]] = []
    for label in labels or []:
        chosen += [apps.get_model(label)] if "." in label else apps.get_app_config(label).get_models()
    return [
        field
        for model in (chosen or apps.get_models())
        for field in ref_fields(model)
        if field.owner is model and model._meta.managed
    ]


def databases_of(field: DRefField[Any], chosen: list[str] | None = None) -> list[list[str]]:
    """The databases that have the field's table; those whose rows share names (a namespace of tenants) as one list."""
    found: dict[str, list[str]] = {}
    for alias in chosen or connections:
        if router.allow_migrate_model(alias, field.owner):
            tables = connections[alias].introspection.table_names()
            if field.owner._meta.db_table in tables:
                found.setdefault(field.pattern.prefix(alias), []).append(alias)
    return list(found.values())


def orphans(field: DRefField[Any], databases: list[str], older_than: float) -> Iterator[Orphan]:
    """The refs of a field that have a row in none of these databases, which share their names; in order of name.

    Those that changed less than `older_than` seconds ago are left out: their row may be in a transaction that has not
    committed yet. (A version is the time of the change, by the back end's clock.)
    """
    backend = backends.get_backend(field.ref_using)
    newest = (backend.clock.now() or time.time_ns() // 1000) - older_than * 1e6
    after = ""
    while True:
        (reply,) = backend.execute([Scan(field.pattern.prefix(databases[0]), after, PAGE)])
        rows = [row for row in reply.page if isinstance(row, Row) and row.version <= newest]
        keys = {row: field.pattern.pk(row.name, databases[0]) for row in rows}
        sought = [pk for pk in keys.values() if pk is not None]
        existing = {pk for alias in databases for pk in _existing(field.owner, alias, sought)}
        for row, pk in keys.items():
            if pk is not None and pk not in existing:
                yield Orphan(field, row.name, pk, row.version)
        after = reply.cursor
        if not after:
            return


def _existing(model: type[models.Model], database: str, pks: list[Any]) -> list[Any]:
    return list(model._base_manager.using(database).filter(pk__in=pks).values_list("pk", flat=True)) if pks else []
