"""Which modules `dumpdata` and `loaddata` use once a model has ref fields."""

from __future__ import annotations

from typing import Final

from django.core import serializers

FORMATS: Final = ("json", "jsonl", "python", "xml", "yaml")


def register() -> None:
    """Puts our modules in the place of Django's defaults, which are imported when something is serialized.

    SERIALIZATION_MODULES still comes first.
    """
    for name in FORMATS:
        if serializers.BUILTIN_SERIALIZERS[name].startswith("django."):
            serializers.BUILTIN_SERIALIZERS[name] = f"dref_django.fields.serializers.{name}_"
