"""The columns of a mirrored field: `score_mirror`, indexed, and `score_version`, which only the flusher writes.

    Article.objects.filter(score__gt=100).order_by("-score")         # by score_mirror

The UPDATE names many rows and writes each only where its version is older, so flushers may overlap, or be late, and
never set an older value over a newer one. It joins the rows with a list of values on PostgreSQL, and is a CASE, which
every database of Django's understands, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models

from dref_django.protocol import Data

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .declared import DRefField

    _BigInteger = models.BigIntegerField[int, int]
    _Boolean = models.BooleanField[bool, bool]
else:
    _BigInteger = models.BigIntegerField
    _Boolean = models.BooleanField

ROWS: Final = 1000
"""Rows of one UPDATE on PostgreSQL."""
CASES: Final = 200
"""Rows of one UPDATE elsewhere, which takes up to four parameters a row; SQLite may know 999."""
PAGE: Final = 1000
"""Rows that are compared at a time."""


class _Kept:
    """`save()` leaves the column as it is, whatever the instance says."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        field: Any = self
        return field.get_default() if add else models.F(field.attname)


class MirroredInteger(_Kept, _BigInteger):
    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.BigIntegerField", args, kwargs


class MirroredBoolean(_Kept, _Boolean):
    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.BooleanField", args, kwargs


class Target(NamedTuple):
    """What the columns of one row are to show."""

    pk: Any
    data: Data | None
    """None: the default."""
    version: int


class Columns:
    """The two columns of one field."""

    def __init__(
        self, field: DRefField[Any], model: type[models.Model], name: str, value: models.Field[Any, Any]
    ) -> None:
        self.field = field
        self.model = model
        self.value = value
        self.version = MirroredInteger(default=0, editable=False, serialize=False)
        model.add_to_class(f"{name}_mirror", self.value)
        model.add_to_class(f"{name}_version", self.version)

    @property
    def names(self) -> tuple[str, str]:
        return self.value.attname, self.version.attname

    def keep(self, row: models.Model, using: str) -> None:
        """For `loaddata`, which writes what stands on the instance: that is what stands in the row."""
        rows = self.model._base_manager.using(using).filter(pk=row.pk).values_list(*self.names)
        for values in rows:
            vars(row).update(zip(self.names, values, strict=True))

    def pages(self, using: str) -> Iterator[list[tuple[Any, Any, int]]]:
        """All rows as (pk, value, version), in order of the key."""
        after: Any = None
        while True:
            rows = self.model._base_manager.using(using).order_by("pk")
            if after is not None:
                rows = rows.filter(pk__gt=after)
            page = list(rows.values_list("pk", *self.names)[:PAGE])
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def update(self, using: str, targets: Sequence[Target]) -> None:
        """Writes those whose version is newer than the row's. Rows that are not there are passed over."""
        connection = connections[using]
        rows = ROWS if connection.vendor == "postgresql" else CASES
        for start in range(0, len(targets), rows):
            sql, parameters = self.statement(connection, targets[start : start + rows])
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)  # without any, drivers need not read it

    def set_back(self, using: str, targets: Sequence[tuple[Target, int]]) -> None:
        """Writes those whose row still has the version that was seen, though it is no older one than the ref's: the ref
        was set back by a fail-over, or has been absent for so long that its last version is forgotten."""
        value, number = self.names
        for target, version in targets:
            rows = self.model._base_manager.using(using).filter(pk=target.pk, **{number: version})
            rows.update(**{value: self.field.decode(target.data), number: target.version})

    def statement(self, connection: BaseDatabaseWrapper, targets: Sequence[Target]) -> tuple[str, list[Any]]:
        """The UPDATE and its parameters."""
        quote = connection.ops.quote_name
        key: Any = self.model._meta.pk
        if key.column is None:
            raise ImproperlyConfigured(f"{self.model._meta.label}: a row with a composite key cannot be mirrored")
        names = _Names(
            *map(quote, (self.model._meta.db_table, key.column, self.value.column, str(self.version.column)))
        )
        rows = [
            _Row(
                key.get_db_prep_value(target.pk, connection),
                self.value.get_db_prep_save(self.field.decode(target.data), connection),
                target.version,
            )
            for target in targets
        ]
        if connection.vendor == "postgresql":
            return _join(names, rows, key.rel_db_type(connection))
        return _cases(names, rows)


class _Names(NamedTuple):
    """Quoted."""

    table: str
    pk: str
    value: str
    version: str


class _Row(NamedTuple):
    pk: Any
    value: Any
    version: int


def _join(names: _Names, rows: Sequence[_Row], key_type: str) -> tuple[str, list[Any]]:
    """For PostgreSQL, which would look at every WHEN of a CASE for every row."""
    parameters: list[Any] = []
    listed = ", ".join(
        f"({_literal(pk, parameters, key_type)}, {_literal(value, parameters)}, {version})"
        for pk, value, version in rows
    )
    table, pk, value, version = names
    sql = (
        f"UPDATE {table} SET {value} = u.value, {version} = u.version "  # noqa: S608
        f"FROM (VALUES {listed}) AS u (pk, value, version) WHERE {table}.{pk} = u.pk AND {table}.{version} < u.version"
    )
    return sql, parameters


def _cases(names: _Names, rows: Sequence[_Row]) -> tuple[str, list[Any]]:
    """For every database."""
    table, pk, value, version = names
    parameters: list[Any] = []

    def case(column: int, otherwise: str) -> str:
        whens = (f"WHEN {_literal(row.pk, parameters)} THEN {_literal(row[column], parameters)}" for row in rows)
        return f"CASE {pk} {' '.join(whens)} ELSE {otherwise} END"

    by_value, by_version = case(1, value), case(2, version)
    listed = ", ".join(_literal(row.pk, parameters) for row in rows)
    sql = (
        f"UPDATE {table} SET {value} = {by_value}, {version} = {by_version} "  # noqa: S608
        f"WHERE {pk} IN ({listed}) AND {version} < {case(2, version)}"
    )
    return sql, parameters


def _literal(value: Any, parameters: list[Any], cast: str = "") -> str:
    """Integers, nearly all there is, as they are: drivers take as long for a thousand parameters as for the rest."""
    if type(value) is int:
        return str(value)
    if type(value) is bool:
        return str(value).upper()
    parameters.append(value)
    return f"CAST(%s AS {cast})" if cast else "%s"
