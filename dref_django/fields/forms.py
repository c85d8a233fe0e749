"""Ref fields in model forms and in the admin: what is entered is compared and set against what the form had shown.

A form carries what it shows in a hidden input as well (Django's `show_hidden_initial`). Validation refuses an edit of a
value that somebody else has changed meanwhile; saving is a compare-and-set, so that nothing can slip in between.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from dref_django.exceptions import DRefError
from dref_django.protocol import INT_MAX, INT_MIN

from . import notes
from .notes import Edited, Staged

if TYPE_CHECKING:
    from .declared import DRefField

_Base = forms.Field

SHOWN: Final = "_dref_shown"
"""On the instance of a form between its validation and its saving: what the form had shown, by field."""


class _Marks(Enum):
    NEW = 1
    """The row is not in the database yet: what is entered is staged."""
    DONE = 2
    """The instance has been given what was entered."""


NEW, DONE = _Marks.NEW, _Marks.DONE


class RefFormField(_Base):
    """What the form fields of refs share."""

    def __init__(self, *args: Any, ref_field: DRefField[Any], **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "show_hidden_initial": True})
        self.ref_field = ref_field
        self._form: forms.BaseForm | None = None

    def get_bound_field(self, form: forms.BaseForm, field_name: str) -> forms.BoundField:
        self._form = form  # a form has copies of its own of the fields that it is declared with
        return super().get_bound_field(form, field_name)

    def clean(self, value: Any) -> Any:
        new = super().clean(value)
        try:
            self.ref_field.check_value(new)
        except DRefError as error:
            raise ValidationError(str(error), code="invalid") from error
        row = getattr(self._form, "instance", None)
        if isinstance(row, models.Model):
            shown = NEW if row._state.adding else DONE if self.disabled else self._shown()
            vars(row).setdefault(SHOWN, {})[self.ref_field.name] = shown
            if shown is not NEW and shown is not DONE and new != shown:
                self._compare(row, shown)
        return new

    def _compare(self, row: models.Model, shown: Any) -> None:
        ref = getattr(row, self.ref_field.name)
        current = ref._run(ref._now())
        if current != shown:
            raise ValidationError(
                _("Somebody has changed this meanwhile: it is %(current)s now, not %(shown)s. Load the form again."),
                code="conflict",
                params={"current": current, "shown": shown},
            )

    def _shown(self) -> Any:
        if self._form is None:
            raise ValueError(f"{type(self).__name__} is cleaned as a part of its form only")
        bound = self._form[self.ref_field.name]
        text = self.hidden_widget().value_from_datadict(self._form.data, self._form.files, bound.html_initial_name)
        if text is None:
            raise ValidationError(
                _("The form was sent without the hidden value that it had shown, so the edit cannot be compared."),
                code="not_shown",
            )
        return self.to_python(text)


class CounterFormField(RefFormField, forms.IntegerField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"min_value": INT_MIN, "max_value": INT_MAX, **kwargs})


class FlagFormField(RefFormField, forms.BooleanField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "required": False})


class TextFormField(RefFormField, forms.CharField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"strip": False, **kwargs, "required": False})


class _AsEntered(str):
    __slots__ = ()


class JsonFormField(RefFormField):
    """Any other value, as JSON."""

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        if value in (None, ""):
            return None
        try:
            return self.ref_field.of_plain(json.loads(value))
        except (DRefError, ValueError) as error:
            raise ValidationError(
                _("This is not the JSON of such a value: %(error)s"), code="invalid", params={"error": error}
            ) from error

    def bound_data(self, data: Any, initial: Any) -> Any:
        return initial if self.disabled else _AsEntered(data or "")

    def prepare_value(self, value: Any) -> Any:
        if value is None or isinstance(value, _AsEntered):
            return value
        return json.dumps(self.ref_field.to_plain(value), ensure_ascii=False)

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(not self.disabled and self.to_python(data) != initial)
        except ValidationError:
            return True


def save_edit(field: DRefField[Any], row: models.Model, new: Any) -> None:
    """Called by the form when it is valid, and once more when the row is saved; the row is given the edit once."""
    shown: dict[str, Any] = vars(row).get(SHOWN, {})
    if field.name not in shown:
        raise TypeError(
            f"the form's own field {field.name!r} does not say what it has shown; make it with "
            f"{field.owner.__name__}._meta.get_field({field.name!r}).formfield()"
        )
    before = shown[field.name]
    shown[field.name] = DONE
    if before is NEW:
        if new != field.decode(None):
            notes.put(row, field.name, Staged(new))
    elif before is not DONE and new != before:
        notes.put(row, field.name, Edited(before, new))
