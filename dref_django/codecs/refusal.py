"""Refusals: what cannot be stored or read, and where inside the value it stands."""

from __future__ import annotations

from dref_django.exceptions import InvalidValue

MAX_DEPTH = 100
"""How deep containers may be nested. A value that contains itself is refused by this bound as well.

Reading a tuple or set inside another takes three Python frames: this depth is readable well below the recursion limit,
so that what one caller could store, a caller deeper in its own stack can read."""
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels (or it contains itself)"

_SHOWN = (str, int, float, bool, type(None), bytes)
_SHOWN_LENGTH = 60


class Refused(InvalidValue):
    """An `InvalidValue` that knows its place: `path` such as ".items[3].price", empty for the whole value."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path or 'the value'}: {reason}")
        self.reason = reason
        self.path = path

    def under(self, step: str) -> Refused:
        """The same refusal seen from one level further out."""
        return Refused(self.reason, step + self.path)


def key_step(key: object) -> str:
    """The step of a path into a mapping: ".price", or "['unit price']" when the key is no identifier."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{short(key)}]"


def index_step(index: int) -> str:
    return f"[{index}]"


def describe(value: object) -> str:
    """How a message names a value: "str 'abc'", "a Price"."""
    if value is None:
        return "None"
    if type(value) in _SHOWN:
        return f"{type(value).__name__} {short(value)}"
    return a_kind(value)


def a_kind(value: object) -> str:
    name = type(value).__qualname__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def short(value: object) -> str:
    if type(value) not in _SHOWN:
        return type(value).__qualname__
    if type(value) is int and value.bit_length() > 256:
        return f"of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
