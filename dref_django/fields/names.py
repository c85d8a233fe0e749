"""The names of the refs of rows: `shop.article.7.views`, and back from the name to the primary key.

A pattern is text with `{app}`, `{model}`, `{field}` and `{pk}`. In front of it stands a namespace, if there is one: by
default the alias of a database other than "default", so that rows of two databases never share a ref;
`DREF_FIELD_NAMESPACE` names a function of the project's own, for tenants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, models
from django.utils.module_loading import import_string

from dref_django.exceptions import InvalidName
from dref_django.naming import GROUP_SEPARATOR, grouped
from dref_django.protocol import MAX_NAME_LENGTH, check_name

Namespace = Callable[[type[models.Model], str], str]

SETTING: Final = "DREF_FIELD_NAMESPACE"
DEFAULT_PATTERN: Final = "{app}.{model}.{pk}.{field}"
NAMESPACE_END: Final = "/"
_PLACEHOLDER: Final = re.compile(r"{(\w*)}")
_UNSAFE: Final = re.compile(r"[%\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a name cannot hold, and the sign that stands for it."""
_ESCAPED: Final = re.compile(r"%([0-9A-F]{2,4});")
_KEYS: Final[dict[type[models.Field[Any, Any]], str]] = {
    models.IntegerField: "[-0-9]*",
    models.UUIDField: "[-0-9a-f]*",
    models.DateField: "[-0-9]*",
    models.CharField: ".*",
    models.TextField: ".*",
    models.GenericIPAddressField: "[0-9a-f:.]*",
}
"""Keys that are written in one way only, and what is in their texts."""


def check_pattern(pattern: str, group: str | None) -> None:
    """Raises ValueError for a pattern under which two rows would share a ref, or with a placeholder unknown to us."""
    for text in (pattern, group or pattern):
        check_name(text)
        if unknown := {*_PLACEHOLDER.findall(text)} - {"app", "model", "field", "pk"}:
            raise ValueError(f"{text!r}: there is no {{{min(unknown)}}}; use {{app}}, {{model}}, {{field}} and {{pk}}")
    if "{pk}" not in pattern:
        raise ValueError(f"{pattern!r} lacks {{pk}}, so that all rows would share one ref; for that, declare a DRef")


class Pattern:
    """The pattern of one field of one model."""

    def __init__(self, pattern: str, group: str | None, model: type[models.Model], field: str) -> None:
        def filled(text: str) -> str:
            known = {"app": model._meta.app_label, "model": model._meta.model_name, "field": field, "pk": "{pk}"}
            return _PLACEHOLDER.sub(lambda found: str(known[found[1]]), text)

        self._model = model
        self._name = filled(pattern)
        self._group = None if group is None else filled(group)
        self._parts = grouped_pattern(self._name, self._group).split("{pk}")
        first, *others = map(re.escape, self._parts)
        back = ")(?P=pk)(?:".join(others)
        self._regex = re.compile(f"{first}(?P<pk>.*?)(?:{back})", re.DOTALL)

    def __str__(self) -> str:
        return grouped_pattern(self._name, self._group).replace(GROUP_SEPARATOR, "/")

    def may_meet(self, other: Pattern) -> bool:
        """Whether some row's name here could be another row's name there."""
        if (self._group is None) is not (other._group is None):
            return False
        pairs = [(self._name, other._name), (self._group or "", other._group or "")]
        return all(_may_meet(mine, _alphabet(self._model), theirs, _alphabet(other._model)) for mine, theirs in pairs)

    def name(self, pk: Any, alias: str) -> str:
        """The ref's name. Raises `InvalidName` when it gets longer than names may be."""
        text = pk_text(self._model, pk)
        space = namespace(self._model, alias)
        if self._group is None:
            return _short(space + self._name.replace("{pk}", text))
        return grouped(_short(self._name.replace("{pk}", text)), space + self._group.replace("{pk}", text))

    def prefix(self, alias: str) -> str:
        """What all names of this field begin with."""
        return namespace(self._model, alias) + self._parts[0]

    def pk(self, name: str, alias: str) -> Any:
        """The primary key in a name; None when no row of this model could have the name."""
        space = namespace(self._model, alias)
        found = self._regex.fullmatch(name, len(space)) if name.startswith(space) else None
        return None if found is None else pk_of_text(self._model, found["pk"])


def _short(name: str) -> str:
    """Its characters are fine: the pattern's and the namespace's were looked at, the key's are escaped."""
    return name if len(name) <= MAX_NAME_LENGTH else check_name(name)


def grouped_pattern(name: str, group: str | None) -> str:
    return name if group is None else f"{group}{GROUP_SEPARATOR}{name}"


def _may_meet(one: str, one_keys: str, other: str, other_keys: str) -> bool:
    """Of two patterns: what one has more than the other before or behind the key has to be part of the other's key."""
    if one == other:
        return True
    if "{pk}" not in one or "{pk}" not in other:
        return False
    ends = [(one.partition("{pk}")[0][::-1], other.partition("{pk}")[0][::-1])]
    ends.append((one.rpartition("{pk}")[2], other.rpartition("{pk}")[2]))
    for mine, theirs in ends:
        longer, shorter, keys = (mine, theirs, other_keys) if len(mine) > len(theirs) else (theirs, mine, one_keys)
        if not longer.endswith(shorter) or not re.fullmatch(keys, longer[: len(longer) - len(shorter)], re.DOTALL):
            return False
    return True


def key_fields(model: type[models.Model]) -> Sequence[models.Field[Any, Any]]:
    """Of the primary key; several of a composite one, and of a relation the ones that it points at."""
    fields: list[models.Field[Any, Any]] = []
    for field in _key(model, ())[0]:
        fields += [field] if field.remote_field is None else key_fields(field.remote_field.model)
    return fields


def has_one_text(field: models.Field[Any, Any]) -> bool:
    """Whether equal keys are written in one way, and others in others."""
    return isinstance(field, tuple(_KEYS)) and not isinstance(field, models.DateTimeField)


def _alphabet(model: type[models.Model]) -> str:
    fields = key_fields(model)
    kinds = [text for kind, text in _KEYS.items() if isinstance(fields[0], kind)]
    return kinds[0] if len(fields) == 1 and kinds else ".*"


def pk_text(model: type[models.Model], pk: Any) -> str:
    """One text for one key, however it is written: 7 and "7", a UUID and its hex."""
    if type(pk) is int and isinstance(model._meta.pk, models.IntegerField):
        return str(pk)
    try:
        parts = [_part_text(field, part) for field, part in zip(*_key(model, pk), strict=True)]
    except (ValidationError, ValueError, TypeError) as error:
        raise InvalidName(f"{pk!r} is no primary key of {model._meta.label}") from error
    return parts[0] if len(parts) == 1 else ",".join(part.replace(",", "%2C;") for part in parts)


def _part_text(field: Any, part: Any) -> str:
    value = field.to_python(part)
    if value is None or (isinstance(part, float) and value != part):
        raise ValueError(f"{part!r} stands for no row")
    return _escaped(str(value))


def pk_of_text(model: type[models.Model], text: str) -> Any:
    fields, _ = _key(model, ())
    texts = [text] if len(fields) == 1 else text.split(",")
    try:
        parts = [field.to_python(_plain(part)) for field, part in zip(fields, texts, strict=True)]
    except (ValidationError, ValueError, TypeError):
        return None
    pk = parts[0] if len(parts) == 1 else tuple(parts)
    return pk if pk_text(model, pk) == text else None


def _key(model: type[models.Model], pk: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    field: Any = model._meta.pk
    composite = getattr(field, "fields", None)  # of a CompositePrimaryKey
    return ([field], [pk]) if composite is None else (composite, pk)


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X};", text)


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


# --- namespaces ---------------------------------------------------------------------------------------------------


def namespace(model: type[models.Model], alias: str) -> str:
    """What stands before the name, with its end; "" for none."""
    found = _function()(model, alias)
    if not found:
        return ""
    if NAMESPACE_END in found:
        raise InvalidName(f"{SETTING}: a namespace has no {NAMESPACE_END!r} in it: {found!r}")
    return check_name(found) + NAMESPACE_END


def by_database(model: type[models.Model], alias: str) -> str:
    """The namespace unless the setting names another function."""
    return "" if alias == DEFAULT_DB_ALIAS else alias


@cache
def _function() -> Namespace:
    path = getattr(settings, SETTING, None)
    if path is None:
        return by_database
    try:
        function: Namespace = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{SETTING}: {path!r} cannot be imported: {error}") from error
    return function


def _forget(*, setting: str, **_: object) -> None:
    if setting == SETTING:
        _function.cache_clear()


setting_changed.connect(_forget, dispatch_uid="dref_django.fields.names")
