"""Django's `xml` format, with ref fields."""

from __future__ import annotations

from django.core.serializers.xml_serializer import Deserializer as Deserializer
from django.core.serializers.xml_serializer import Serializer as _Serializer

from . import WithRefs


class Serializer(WithRefs, _Serializer):
    pass
