"""The JSON codec: for values that other programs read with nothing but a JSON parser."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from .exact import Gate
from .refusal import Refused


class JsonCodec:
    """dict with str keys, list, str, int, finite float, bool and None; ASCII only, no spaces, dicts in their order.

    `encode` raises `InvalidValue` with the path of whatever would not come back the same: tuples, sets, bytes, other
    keys, NaN and the infinities, subclasses, lone surrogates. Integers may have any size; readers that parse numbers
    as doubles (JavaScript) are exact up to 2^53. A typed ref stores datetimes and the like as text, see `Schema`.
    """

    name = "json"

    def encode(self, value: object) -> bytes:
        if not _GATE.admits(value):
            raise _refusal(value)
        try:
            text = _ENCODER.encode(value)
        except (ValueError, OverflowError) as error:
            raise _refusal(value) from error
        if "\\ud" in text and (found := _GATE.refusal(value)) is not None:
            raise found
        return text.encode("ascii")

    def decode(self, data: bytes) -> object:
        try:
            value: object = _DECODER.decode(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise Refused(f"the stored {len(data)} bytes are not readable as JSON: {error}") from error
        return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)


def _objection(value: Any) -> str | None:
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return f"JSON has no {value}"
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return "cannot store text with lone surrogates"
    if kind is int:
        try:
            str(value)
        except ValueError:
            return f"cannot store an int of {value.bit_length()} bits as JSON"
    return None


_GATE: Final = Gate(
    frozenset({str, int, float, bool, type(None)}),
    frozenset({dict, list}),
    any_keys=False,
    objection=_objection,
)


def _refusal(value: object) -> Refused:
    return _GATE.refusal(value) or Refused(f"JSON cannot store this {type(value).__qualname__}")
