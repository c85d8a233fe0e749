"""System checks of models with ref fields: each row's ref has one name, and no other row's ref has it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks

from . import names
from .declared import DRefField, ref_fields


def check_fields(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """dref.E080: a key that may be written in several ways. E081: two rows may share a ref. E082: a composite key is
    mirrored."""
    fields = [field for model in apps.get_models() for field in ref_fields(model) if field.owner is model]
    labels = None if app_configs is None else {config.label for config in app_configs}
    chosen = [field for field in fields if labels is None or field.owner._meta.app_label in labels]
    messages: list[checks.CheckMessage] = []
    for field in chosen:
        messages += _key(field)
    for one, other in combinations(fields, 2):
        if one in chosen or other in chosen:
            messages += _pair(one, other)
    return messages


def _pair(one: DRefField[Any], other: DRefField[Any]) -> list[checks.CheckMessage]:
    if one.ref_using != other.ref_using or not one.pattern.may_meet(other.pattern):
        return []
    text = f"A ref of {_label(one)} may have the name of one of {_label(other)}: {one.pattern} and {other.pattern}."
    hint = "Put {app}, {model} and {field} into the patterns, or leave name= away."
    return [checks.Error(text, hint=hint, obj=one.owner, id="dref.E081")]


def _key(field: DRefField[Any]) -> list[checks.CheckMessage]:
    parts = names.key_fields(field.owner)
    messages: list[checks.CheckMessage] = [
        checks.Error(
            f"{_label(field)}: a key of the type {type(part).__name__} may be written in several ways, so that no ref "
            "can be named after it.",
            hint="Use a primary key of integers, UUIDs, text, dates or IP addresses, or a composite one of these.",
            obj=field.owner,
            id="dref.E080",
        )
        for part in parts
        if not names.has_one_text(part)
    ]
    if field.columns is not None and len(parts) > 1:
        messages.append(
            checks.Error(
                f"{_label(field)}: rows with a composite primary key cannot be mirrored.",
                hint="Leave mirror=True away, or give the model a primary key of one column.",
                obj=field.owner,
                id="dref.E082",
            )
        )
    return messages


def _label(field: DRefField[Any]) -> str:
    return f"{field.owner._meta.label}.{field.name}"
