"""The ref of one row, and how a model class hands it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from django.core.validators import EMPTY_VALUES
from django.db import models, router

from dref_django.binding import BaseRef
from dref_django.counters import Counter
from dref_django.flags import Flag
from dref_django.flows import Flow
from dref_django.on_commit import CounterOnCommit, FlagOnCommit, OnCommit
from dref_django.protocol import Data, Read, Reply
from dref_django.refs import DRef

from . import notes
from .notes import Loaded, Staged, UnsavedRow

if TYPE_CHECKING:
    from .declared import DRefField

T = TypeVar("T")
V = TypeVar("V")
R_co = TypeVar("R_co", covariant=True)


class RowRef(DRef[T]):
    """A ref that belongs to a field of one row.

    With an instance it shows in templates and in f-strings as its value: the one that is staged, else the one that
    `with_refs` has loaded, else the one that is read now. `get()` and the other operations always ask the back end.
    Each of them raises `UnsavedRow` while the row is not in the database.
    """

    def __init__(self, field: DRefField[T], alias: str | None, pk: Any, row: models.Model | None = None) -> None:
        BaseRef.__init__(
            self, None, field.ref_default, type=field.ref_type, using=field.ref_using, codec=field.ref_codec
        )
        self._field = field
        self._alias = alias
        self._pk = pk
        self._row = row

    @property
    def name(self) -> str:
        if self._given_name is None:
            if self._is_unsaved():
                raise UnsavedRow(
                    f"{self!r} belongs to a row that is not in the database. Save it first; until then assign the "
                    f"value ({self._field.name} = ...), which save() writes. For a row that you have not loaded: "
                    f"{self._field.owner.__name__}.{self._field.name}.at(pk=...)."
                )
            self._given_name = self._field.pattern.name(self._pk, self.database)
        return self._given_name

    @property
    def database(self) -> str:
        """The alias of the database that the row is written to."""
        if self._alias is None:
            self._alias = self._field.database_of(self._row)
        return self._alias

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._field.name!r} of {self._field.owner._meta.label} {self._pk!r}>"

    def __eq__(self, other: object) -> bool:
        """The admin asks of everything that it shows whether it is one of these; any other value is still refused."""
        if any(other is empty for empty in EMPTY_VALUES):
            return False
        return super().__eq__(other)

    __hash__ = DRef.__hash__

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled or copied: take its value, or its row.")

    # --- what the instance shows --------------------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether `loaded` needs no round trip."""
        return self._note_of_row() is not None or self._is_unsaved()

    @property
    def loaded(self) -> T:
        """The value that is staged, else the one that `with_refs` has loaded, else the one that is read now.

        The default (None without one) where there is no value, also for a row that is not saved yet.
        """
        note = self._note_of_row()
        if isinstance(note, Loaded):
            return self._field.decode(note.data)
        if note is not None:
            return cast("T", note.value)
        return self._field.decode(None) if self._is_unsaved() else self._run(self._now())

    async def aloaded(self) -> T:
        """`loaded`, reading asynchronously."""
        return self.loaded if self.is_loaded else await self._arun(self._now())

    def __str__(self) -> str:
        value = self.loaded
        return "" if value is None else str(value)

    def __format__(self, spec: str) -> str:
        return format(self.loaded, spec) if spec else str(self)

    def _now(self) -> Flow[T]:
        reply: Reply = yield Read(self.name)
        self._note(reply.version, reply.data, reply.left)
        return self._decode(self.name, reply.data)

    def _is_unsaved(self) -> bool:
        row: Any = self._row
        return row is not None and (row._state.adding or not row._is_pk_set())

    def _note_of_row(self) -> notes.Note | None:
        if self._row is None:
            return None
        note = notes.note_of(self._row, self._field.name)
        if isinstance(note, Loaded) and (self._row._state.adding or note.key != notes.key_of(self._row)):
            return None
        return note

    def _note(self, version: int, data: Data | None, left: int | None) -> None:
        """What this ref has read or written is what its row shows from now on, if the row shows an older value."""
        super()._note(version, data, left)
        note = self._note_of_row()
        if self._row is None or not isinstance(note, Loaded) or version < note.version:
            return
        if not self._bind().is_apart():
            notes.put(self._row, self._field.name, Loaded(notes.key_of(self._row), version, data))

    # --- with the row's database --------------------------------------------------------------------------------

    def on_commit(self, using: str | None = None, *, robust: bool = False) -> OnCommit[T]:
        """`ref.on_commit()`; by default of the transaction of the row's own database."""
        return OnCommit(self, using or self.database, robust)


class RowCounter(RowRef[int], Counter):
    def on_commit(self, using: str | None = None, *, robust: bool = False) -> CounterOnCommit:
        return CounterOnCommit(self, using or self.database, robust)


class RowFlag(RowRef[bool], Flag):
    def on_commit(self, using: str | None = None, *, robust: bool = False) -> FlagOnCommit:
        return FlagOnCommit(self, using or self.database, robust)


class FieldRefs(Generic[R_co]):
    """`Article.views`: the refs of all rows."""

    def __init__(self, field: DRefField[Any], model: type[models.Model]) -> None:
        self.field = field
        self.model = model

    def __repr__(self) -> str:
        return f"<refs of {self.model._meta.label}.{self.field.name}>"

    def at(self, pk: Any, *, using: str | None = None) -> R_co:
        """The ref of the row with that primary key, without loading the row, nor asking whether there is one.

        `using`: the alias of the row's database; None: the one that rows of this model are written to.
        """
        alias = using or router.db_for_write(self.model)
        return cast("R_co", self.field.ref_class(self.field, alias, pk))


class Attribute:
    """What stands on the model class under the field's name."""

    def __init__(self, field: DRefField[Any]) -> None:
        self.field = field

    def __get__(self, row: models.Model | None, owner: type[models.Model]) -> Any:
        if row is None:
            return FieldRefs(self.field, owner)
        return self.field.ref_class(self.field, None, row.pk, row)

    def __set__(self, row: models.Model, value: Any) -> None:
        """Stages the value. Raises `InvalidValue` at once for one that the field cannot hold."""
        if isinstance(value, RowRef) and value._row is row and value._field.name == self.field.name:
            return  # Django's full_clean() assigns what it has looked at
        self.field.check_value(value)
        notes.put(row, self.field.name, Staged(value))
