"""dumpdata and loaddata: Django's own formats, with the values of ref fields among the others.

Django's serializers write the fields that have columns. Here each of its formats also writes the ref fields, where
`loaddata` finds them: it gives them to the constructor, and what a constructor is given is written when the row is
saved. A format for which SERIALIZATION_MODULES names another module is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final

from django.db import models

from dref_django.binding import UNSET
from dref_django.fields.declared import ref_fields
from dref_django.fields.querysets import prefetch_refs

if TYPE_CHECKING:
    from django.core.serializers.base import Serializer as _Serializer
else:
    _Serializer = object

ROWS: Final = 500
"""Rows whose refs are read together."""


class WithRefs(_Serializer):
    def serialize(self, queryset: Iterable[models.Model], **options: Any) -> Any:
        self._chosen = options.get("fields")
        return super().serialize(self._loaded(queryset), **options)

    def _loaded(self, rows: Iterable[models.Model]) -> Iterator[models.Model]:
        iterator = iter(rows)
        while chunk := list(islice(iterator, ROWS)):
            for model, of_model in groupby(chunk, type):
                if names := [field.name for field in self._own(model)]:
                    prefetch_refs(of_model, *names)
            yield from chunk

    def _own(self, model: type[models.Model]) -> list[Any]:
        """Not those of a parent's table: its row is an object of its own, as for other fields."""
        return [
            field
            for field in ref_fields(model)
            if field.owner is model._meta.concrete_model
            and field.is_serialized
            and (self._chosen is None or field.name in self._chosen)
        ]

    def end_object(self, obj: models.Model) -> None:
        for field in self._own(type(obj)):
            if field.ref_default is not UNSET or field.value_from_object(obj) is not None:
                self.handle_field(obj, field)
        super().end_object(obj)
