"""The fields as Django sees them: private, as a `GenericForeignKey` is, so that there is no column and no migration.

A private field is known to `_meta.get_field()`, to model forms and to the admin; constructors take its name; each
subclass of the model, proxies included, has a copy of its own. The copies of a table's subclasses belong to that table:
`owner` is the model whose rows the refs are named after.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from django.core import checks
from django.core.exceptions import FieldError, ValidationError
from django.db import models, router
from django.db.models.expressions import Col

from dref_django import backends, conf
from dref_django.binding import UNSET, Unset
from dref_django.codecs import Schema, get_codec, type_of_default
from dref_django.exceptions import DRefError, InvalidValue
from dref_django.protocol import INT_MAX, INT_MIN, Data

from . import formats, lifecycle, names
from .columns import Columns, MirroredBoolean, MirroredInteger
from .rows import Attribute, FieldRefs, RowCounter, RowFlag, RowRef

T = TypeVar("T")

if TYPE_CHECKING:
    from django import forms

    _Field = models.Field[Any, Any]
else:
    _Field = models.Field


class DRefField(_Field, Generic[T]):
    """A shared value of any type on every row; `article.reactions` is its ref.

    - `default`: what a row without a value shows (or a callable that makes it); it is not written. `type`, `using`
      (the alias in DREF_BACKENDS) and `codec` are those of `DRef`.
    - `name`: the pattern of the refs' names, with `{app}`, `{model}`, `{field}` and, required, `{pk}`.
    - `mirror` (counters and flags): two more columns, `score_mirror` and `score_version`, follow the value within a
      second, so that the database can filter and sort by it; see `flusher.py`.
    - `group`: the pattern of their group; `"{model}.{pk}"` puts all refs of a row into one slot of a Redis Cluster.

    Further options are Django's: `verbose_name`, `help_text`, `editable`, `blank`, `serialize`.
    """

    ref_class: type[RowRef[Any]] = RowRef
    empty_values = ()  # Django compares what it shows with them, and a ref is not to be compared
    owner: type[models.Model]
    pattern: names.Pattern
    mti_inherited: bool = False
    column_class: type[models.Field[Any, Any]] | None = None
    """Of the column that mirrors the value."""
    columns: Columns | None = None

    def __init__(
        self,
        verbose_name: str | None = None,
        *,
        default: T | Callable[[], T] | Unset = UNSET,
        type: Any = None,  # noqa: A002 -- as that of DRef
        name: str | None = None,
        group: str | None = None,
        using: str = conf.DEFAULT_ALIAS,
        codec: str | None = None,
        mirror: bool = False,
        **options: Any,
    ) -> None:
        if mirror and self.column_class is None:
            raise ValueError("a column can mirror counters and flags only")
        names.check_pattern(names.DEFAULT_PATTERN if name is None else name, group)
        if default is not UNSET:
            options["default"] = default
        super().__init__(verbose_name, **options)
        self.ref_default = default
        self.ref_type = type
        self.ref_using = using
        self.ref_codec = codec
        self._given = {
            key: value
            for key, value in {"type": type, "name": name, "group": group, "codec": codec, "mirror": mirror}.items()
            if value
        }
        if using != conf.DEFAULT_ALIAS:
            self._given["using"] = using
        self._schema: tuple[int, Schema] | None = None

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: Any) -> FieldRefs[RowRef[T]]: ...
        @overload
        def __get__(self, instance: models.Model, owner: Any) -> RowRef[T]: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
        def __set__(self, instance: models.Model, value: T) -> None: ...

    # --- as Django's fields ---------------------------------------------------------------------------------------

    def get_attname_column(self) -> Any:
        return self.get_attname(), None

    def db_type(self, connection: Any) -> None:
        return None

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = True) -> None:
        super().contribute_to_class(cls, name, private_only=True)
        setattr(cls, name, Attribute(self))
        if cls._meta.abstract:
            return
        if self.mti_inherited:
            self.model = self.owner
        else:
            self.owner = cls
            pattern, group = self._given.get("name"), self._given.get("group")
            self.pattern = names.Pattern(pattern or names.DEFAULT_PATTERN, group, cls, name)
            if "mirror" in self._given and self.column_class is not None:
                column = self.column_class(default=self.get_default(), db_index=True, editable=False, serialize=False)
                self.columns = Columns(self, cls, name, column)
        lifecycle.connect(cls)
        formats.register()
        checks.register(_check, "dref")

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, kwargs | self._given

    def clone(self) -> Any:
        _, _, args, kwargs = self.deconstruct()
        return type(self)(*args, **kwargs)

    def get_col(self, alias: str, output_field: Any = None) -> Col:
        """What a query means by the field's name: its mirrored column."""
        if self.columns is not None:
            return self.columns.value.get_col(alias)
        raise FieldError(
            f"{self.owner._meta.label}.{self.name} has no column: the database cannot filter, sort or select by it. "
            "Declare it with mirror=True, or use with_refs() to read it with the rows."
        )

    # --- values -----------------------------------------------------------------------------------------------------

    @property
    def value_type(self) -> object | None:
        if self.ref_type is not None or self.ref_default is UNSET:
            return cast("object | None", self.ref_type)
        return type_of_default(self.get_default())

    def schema(self, codec: str | None = None) -> Schema:
        """How values are encoded, by the ref's codec or another one; errors name the field."""
        backend = backends.get_backend(self.ref_using)
        label = f"{self.owner._meta.label}.{self.name}"
        found = get_codec(codec or self.ref_codec or backend.params.codec)
        return Schema(label, self.value_type, found, backend.params.max_value_size)

    def _stored(self) -> Schema:
        if self._schema is None or self._schema[0] != backends.generation:
            self._schema = backends.generation, self.schema()
        return self._schema[1]

    def decode(self, data: Data | None) -> T:
        """The value of stored data, newly made; without data the default, or None where there is none."""
        if data is None:
            default = None if self.ref_default is UNSET else self.get_default()
            schema = self._stored()
            return cast(
                "T", default if callable(self.ref_default) or schema.shares(default) else _copy(schema, default)
            )
        return cast("T", self._stored().decode(data))

    def check_value(self, value: Any) -> Data:
        """The value, encoded. Raises `InvalidValue` for one that the field cannot hold."""
        if isinstance(value, RowRef) or hasattr(value, "resolve_expression"):
            raise InvalidValue(
                f"{self.owner._meta.label}.{self.name} is given a value, not {value!r}; of another ref take get(), "
                "and instead of F() use its own increment() or update()"
            )
        return self._stored().encode(value)

    def value_from_object(self, obj: models.Model) -> T:
        ref: RowRef[T] = getattr(obj, self.name)
        return ref.loaded

    def to_plain(self, value: T) -> Any:
        """The value as JSON has it."""
        data = self.schema("json").encode(value)
        return data if isinstance(data, int) else json.loads(data)

    def of_plain(self, plain: Any) -> T:
        """The inverse. Raises `InvalidValue` for what is no value of this field."""
        data = plain if isinstance(plain, int) and not isinstance(plain, bool) else json.dumps(plain).encode()
        return cast("T", self.schema("json").decode(data))

    def value_to_string(self, obj: models.Model) -> str:
        """JSON; serializers ask for it where the value is neither None nor a number or date."""
        return json.dumps(self.to_plain(self.value_from_object(obj)), ensure_ascii=False)

    def to_python(self, value: Any) -> T:
        """Of what a serializer has written, or a person into a fixture: JSON as text, or plain values."""
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)
        try:
            return self.of_plain(value)
        except (DRefError, ValueError, TypeError) as error:
            raise ValidationError(str(error), code="invalid") from error

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """Of `Model.full_clean()`, which is handed the ref: what is staged was checked when it was assigned."""
        return value

    def get_default(self) -> Any:
        return self.ref_default() if callable(self.ref_default) else self.ref_default

    def database_of(self, row: models.Model | None) -> str:
        return router.db_for_write(type(row) if row is not None else self.owner, instance=row)

    @property
    def is_serialized(self) -> bool:
        return bool(vars(self)["serialize"])

    # --- forms ------------------------------------------------------------------------------------------------------

    def form_class(self) -> type[forms.Field]:
        from .forms import JsonFormField, TextFormField

        return TextFormField if self.value_type is str else JsonFormField

    def formfield(self, *args: Any, **kwargs: Any) -> Any:
        return super().formfield(**{"form_class": self.form_class(), "ref_field": self, **kwargs})

    def save_form_data(self, instance: models.Model, data: Any) -> None:
        from .forms import save_edit

        save_edit(self, instance, data)


class DRefCounterField(DRefField[int]):
    """A shared signed 64-bit integer on every row; `article.views` is its `Counter`."""

    ref_class = RowCounter
    column_class = MirroredInteger

    def __init__(self, verbose_name: str | None = None, *, default: int = 0, **options: Any) -> None:
        if type(default) is not int or not INT_MIN <= default <= INT_MAX:
            raise ValueError(f"the default of a counter is a signed 64-bit integer, not {default!r}")
        super().__init__(verbose_name, default=default, type=int, **options)
        del self._given["type"]

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __get__(self, instance: None, owner: Any) -> FieldRefs[RowCounter]: ...
        @overload
        def __get__(self, instance: models.Model, owner: Any) -> RowCounter: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    def get_internal_type(self) -> str:
        return "BigIntegerField"

    def form_class(self) -> type[forms.Field]:
        from .forms import CounterFormField

        return CounterFormField


class DRefFlagField(DRefField[bool]):
    """A shared boolean on every row; `article.featured` is its `Flag`."""

    ref_class = RowFlag
    column_class = MirroredBoolean

    def __init__(self, verbose_name: str | None = None, *, default: bool = False, **options: Any) -> None:
        if not isinstance(default, bool):
            raise ValueError(f"the default of a flag is True or False, not {default!r}")
        super().__init__(verbose_name, default=default, type=bool, **options)
        del self._given["type"]

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __get__(self, instance: None, owner: Any) -> FieldRefs[RowFlag]: ...
        @overload
        def __get__(self, instance: models.Model, owner: Any) -> RowFlag: ...
        @overload
        def __get__(self, instance: Any, owner: Any) -> Self: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    def get_internal_type(self) -> str:
        return "BooleanField"

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.value_from_object(obj))

    def to_python(self, value: Any) -> bool:
        """Django's serializers write True as `True`."""
        return super().to_python({"True": True, "False": False}.get(value, value))

    def form_class(self) -> type[forms.Field]:
        from .forms import FlagFormField

        return FlagFormField


def ref_fields(model: type[models.Model]) -> list[DRefField[Any]]:
    """The ref fields of a model, inherited ones included."""
    return [field for field in model._meta.private_fields if isinstance(field, DRefField)]


def ref_field(model: type[models.Model], name: str) -> DRefField[Any]:
    """Raises FieldError when the model has no such ref field."""
    known = {field.name: field for field in ref_fields(model)}
    if name not in known:
        raise FieldError(f"{model._meta.label} has no ref field {name!r}; there are {', '.join(known) or 'none'}")
    return known[name]


def _check(**options: Any) -> list[checks.CheckMessage]:
    from .checks import check_fields

    return check_fields(**options)


def _copy(schema: Schema, value: Any) -> Any:
    return schema.decode(schema.encode(value))
