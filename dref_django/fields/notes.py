"""What an instance remembers of its refs: a value that `save()` is to write, or one that `with_refs` has read.

Both stand where Django keeps what `prefetch_related` has read, and live as long: `refresh_from_db()` forgets them all,
`refresh_from_db(fields=["views"])` the one, a pickled instance takes them along. The mapping is replaced, never
changed, as copies of an instance share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from django.db import models

from dref_django.exceptions import DRefError
from dref_django.protocol import Data

CACHE: Final = "_prefetched_objects_cache"


class UnsavedRow(DRefError, ValueError):
    """The ref of a row that is not in the database: it has no name yet, or nobody could find it."""


Key: TypeAlias = tuple[Any, str | None]
"""Of a row: its primary key, and the alias of its database."""


class Staged(NamedTuple):
    """Assigned, to be written when `save()` commits."""

    value: Any


class Edited(NamedTuple):
    """Entered in a form, to be compared and set when the row is saved."""

    shown: Any
    value: Any


class Loaded(NamedTuple):
    """Read together with the rows of a page."""

    key: Key
    """A copy of the row that was given another primary key, or database, must not show it."""
    version: int
    data: Data | None


Note: TypeAlias = Staged | Edited | Loaded


def key_of(row: models.Model) -> Key:
    return row.pk, row._state.db


def note_of(row: models.Model, field: str) -> Note | None:
    found = row.__dict__.get(CACHE)
    note = None if found is None else found.get(field)
    return note if isinstance(note, (Loaded, Staged, Edited)) else None


def put(row: models.Model, field: str, note: Note) -> None:
    row.__dict__[CACHE] = {**row.__dict__.get(CACHE, {}), field: note}


def drop(row: models.Model, field: str) -> None:
    row.__dict__[CACHE] = {name: note for name, note in row.__dict__.get(CACHE, {}).items() if name != field}


def staged(row: models.Model) -> Iterator[tuple[str, Staged]]:
    for name, note in row.__dict__.get(CACHE, {}).items():
        if isinstance(note, Staged):
            yield name, note


def edited(row: models.Model) -> Iterator[tuple[str, Edited]]:
    for name, note in list(row.__dict__.get(CACHE, {}).items()):
        if isinstance(note, Edited):
            yield name, note
