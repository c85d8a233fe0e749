"""`with_refs`: the values of a page of rows in one round trip, as `prefetch_related` reads related rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Self, TypeVar

from django.db import models, transaction

from dref_django import backends
from dref_django.flows import Flow, adrive, drive
from dref_django.protocol import Read, Reply
from dref_django.streams import get_hub

from . import declared, lifecycle, notes
from .notes import Edited, Loaded, Staged

M = TypeVar("M", bound=models.Model)

READS: Final = 1000
"""Refs that are read in one round trip."""
CHUNK: Final = 2000
"""Rows that an iterator without a chunk size reads the refs of at a time; Django's own number."""


def prefetch_refs(rows: Iterable[models.Model], *fields: str) -> None:
    """Reads these ref fields (none: all) of rows of any models, for `{{ row.field }}` and `row.field.loaded`.

    One round trip a back end for up to 1,000 values (one a node on a Redis Cluster). Rows that are not saved, and
    values that are staged, stay as they are. Missing values are not written: they show the default.
    """
    for using, wanted in _wanted(rows, fields).items():
        drive(backends.get_backend(using), _load(using, wanted))


async def aprefetch_refs(rows: Iterable[models.Model], *fields: str) -> None:
    for using, wanted in _wanted(rows, fields).items():
        await adrive(backends.get_backend(using), _load(using, wanted))


_Wanted = list[tuple[models.Model, notes.Key, str, str]]
"""Row and its key, field, name of the ref."""


def _wanted(rows: Iterable[models.Model], names: Sequence[str]) -> dict[str, _Wanted]:
    """By the alias of the back end."""
    wanted: dict[str, _Wanted] = {}
    fields: dict[type[models.Model], list[declared.DRefField[Any]]] = {}
    for row in rows:
        model = type(row)
        if model not in fields:
            every = [declared.ref_field(model, name) for name in names] or declared.ref_fields(model)
            fields[model] = every
        key = notes.key_of(row)
        if key[0] is None or row._state.adding:
            continue
        for field in fields[model]:
            if not isinstance(notes.note_of(row, field.name), (Staged, Edited)):
                name = field.pattern.name(key[0], field.database_of(row))
                wanted.setdefault(field.ref_using, []).append((row, key, field.name, name))
    return wanted


def _load(using: str, wanted: _Wanted) -> Flow[None]:
    backend = backends.get_backend(using)
    hub = None if backend.supports_join and backend.is_joined() else get_hub(backend)
    for start in range(0, len(wanted), READS):
        part = wanted[start : start + READS]
        replies: list[Reply] = yield [Read(name) for *_, name in part]
        for (row, key, field, name), reply in zip(part, replies, strict=True):
            notes.put(row, field, Loaded(key, reply.version, reply.data))
            if hub is not None:
                hub.note(name, reply.version, reply.data, reply.left)


class DRefQuerySet(models.QuerySet[M]):
    """A queryset that reads refs with its rows, and writes staged values in `bulk_create`."""

    _ref_fields: tuple[str, ...] | None = None
    _refs_done = False

    def with_refs(self, *fields: str) -> Self:
        """Reads these ref fields (none: all) with the rows, in one round trip a page; works with `async for`, too.

        Raises FieldError for a name that is no ref field of the model, TypeError on `values()`.
        """
        for name in fields:
            declared.ref_field(self.model, name)
        clone: Self = self._chain()  # type: ignore[attr-defined]
        clone._ref_fields = fields
        return clone

    def bulk_create(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> list[M]:
        """As Django's; staged values are written when it commits, for which the rows' primary keys must be known."""
        rows = list(objs)
        if not any(True for row in rows for _ in notes.staged(row)):
            return super().bulk_create(rows, *args, **kwargs)
        if kwargs.get("ignore_conflicts") or len(args) > 1:
            raise ValueError("bulk_create(ignore_conflicts=...) does not say which rows it made; assign no ref values")
        self._for_write = True
        with transaction.atomic(using=self.db, savepoint=False):
            made = super().bulk_create(rows, *args, **kwargs)
            for row in made:
                if row.pk is None and any(notes.staged(row)):
                    raise ValueError(
                        "this database does not tell bulk_create the primary keys that it made, so the refs have no "
                        "names; save the rows one by one, or assign the values afterwards"
                    )
                lifecycle.write_staged(row, self.db)
        return made

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    # --- where rows are fetched -----------------------------------------------------------------------------------

    def _clone(self) -> Self:
        clone: Self = super()._clone()  # type: ignore[misc]
        clone._ref_fields = self._ref_fields
        return clone

    def _fetch_all(self) -> None:
        super()._fetch_all()
        if self._ref_fields is not None and not self._refs_done:
            self._refuse_values()
            prefetch_refs(self._result_cache or (), *self._ref_fields)
            self._refs_done = True

    def _iterator(self, use_chunked_fetch: bool, chunk_size: int | None) -> Iterator[M]:
        rows = super()._iterator(use_chunked_fetch, chunk_size)  # type: ignore[misc]
        if self._ref_fields is None:
            yield from rows
            return
        self._refuse_values()
        while chunk := list(islice(rows, chunk_size or CHUNK)):
            prefetch_refs(chunk, *self._ref_fields)
            yield from chunk

    async def aiterator(self, chunk_size: int = CHUNK) -> AsyncIterator[M]:
        rows = super().aiterator(chunk_size)
        if self._ref_fields is None:
            async for row in rows:
                yield row
            return
        self._refuse_values()
        chunk: list[M] = []
        async for row in rows:
            chunk.append(row)
            if len(chunk) >= chunk_size:
                await aprefetch_refs(chunk, *self._ref_fields)
                for each in chunk:
                    yield each
                chunk.clear()
        await aprefetch_refs(chunk, *self._ref_fields)
        for each in chunk:
            yield each

    def _refuse_values(self) -> None:
        if self._fields is not None:  # type: ignore[attr-defined]
            raise TypeError("with_refs() reads refs of rows; it does not go together with values() and values_list()")


DRefManager = models.Manager.from_queryset(DRefQuerySet)
