"""Values to bytes and back: codecs for plain values, schemas for typed ones. Pure: no Django, no I/O.

A *codec* turns plain values into bytes (`MsgpackCodec`, the default; `JsonCodec`; `PickleCodec`). A `Schema` is what a
ref uses: its type, its codec and its size limit, compiled once. `docs/format.md` describes the bytes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from dref_django.exceptions import DRefError

from .base import Codec
from .json import JsonCodec
from .msgpack import MsgpackCodec
from .pickle import PickleCodec
from .schema import Schema, immutable, type_of_default

__all__ = [
    "Codec",
    "InvalidCodec",
    "JsonCodec",
    "MsgpackCodec",
    "PickleCodec",
    "Schema",
    "get_codec",
    "immutable",
    "type_of_default",
]


class InvalidCodec(DRefError, ValueError):
    """A codec setting that names no codec. The message says what was expected."""


_SHORT_NAMES: Final[dict[str, Codec]] = {codec.name: codec for codec in (MsgpackCodec(), JsonCodec(), PickleCodec())}


def get_codec(spec: str | Codec | type) -> Codec:
    """The codec that `spec` means: "msgpack", "json", "pickle", a dotted path to a class or an instance, or either.

    A class is called without arguments. Raises `InvalidCodec` when the path cannot be imported or what it leads to is
    no codec.
    """
    if isinstance(spec, str):
        if spec in _SHORT_NAMES:
            return _SHORT_NAMES[spec]
        found, source = _imported(spec), repr(spec)
    else:
        found, source = spec, repr(spec)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise InvalidCodec(f"the codec {source} cannot be made without arguments: {error}") from error
    if not isinstance(found, Codec):
        raise InvalidCodec(f"the codec {source} is a {type(found).__name__} without name, encode() and decode()")
    return found


def _imported(path: str) -> object:
    module, _, attribute = path.rpartition(".")
    if not module.strip(".") or not attribute:
        names = ", ".join(repr(name) for name in _SHORT_NAMES)
        raise InvalidCodec(f"unknown codec {path!r}: use {names} or a dotted path to a class or an instance")
    try:
        found: object = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InvalidCodec(f"the codec {path!r} cannot be imported: {error}") from error
    return found
