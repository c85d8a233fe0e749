"""Django's `python` format, with ref fields."""

from __future__ import annotations

from django.core.serializers.python import Deserializer as Deserializer
from django.core.serializers.python import Serializer as _Serializer

from . import WithRefs


class Serializer(WithRefs, _Serializer):
    pass
