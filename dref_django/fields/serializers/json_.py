"""Django's `json` format, with ref fields."""

from __future__ import annotations

from django.core.serializers.json import Deserializer as Deserializer
from django.core.serializers.json import Serializer as _Serializer

from . import WithRefs


class Serializer(WithRefs, _Serializer):
    pass
