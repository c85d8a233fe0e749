"""The gate in front of an encoder: only values that come back with the same type and value pass.

Encoders written in C let look-alikes through (a bytearray comes back as bytes, json turns a tuple into a list). The
gate compares whole levels of a value at a time, `set(map(type, ...))`, so that it costs about as much as encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final

from .refusal import MAX_DEPTH, TOO_DEEP, Refused, a_kind, index_step, key_step, short

_PLAIN_KEYS: Final[frozenset[type]] = frozenset({str})


class Gate:
    """Admits `scalars` and `containers` of them, by exact type: a subclass would come back as its base."""

    def __init__(
        self,
        scalars: frozenset[type],
        containers: frozenset[type],
        *,
        any_keys: bool,
        objection: Callable[[object], str | None],
    ) -> None:
        """`any_keys`: a mapping's keys may be any admitted value, else only str.

        `objection(scalar)` says why this one scalar cannot be stored, None when it can; asked only in `refusal`.
        """
        self.scalars = scalars
        self.containers = containers
        self.any_keys = any_keys
        self.storable = scalars | containers
        self.objection = objection

    def admits(self, value: Any) -> bool:
        """Whether every type in `value` may be stored. Scalars are not looked into."""
        if type(value) in self.scalars or self._flat(value):
            return True
        level = [value]
        for _ in range(MAX_DEPTH + 1):
            kinds = set(map(type, level))
            if kinds <= self.scalars:
                return True
            if not kinds <= self.storable:
                return False
            # By identity: what is referred to many times is looked at once, or a small knot of lists would explode.
            inner = {id(item): item for item in level if type(item) in self.containers}.values()
            dicts = [item for item in inner if type(item) is dict]
            level = [item for item in inner if type(item) is not dict]
            level = list(chain.from_iterable(level + [item.values() for item in dicts]))
            odd_keys = set(map(type, chain.from_iterable(dicts))) - _PLAIN_KEYS
            if odd_keys and not self.any_keys:
                return False
            if odd_keys:
                level.extend(key for item in dicts for key in item if type(key) in odd_keys)
        return False

    def _flat(self, value: Any) -> bool:
        """A shortcut for what refs mostly hold: a dict of scalars by name."""
        return (
            type(value) is dict
            and self.scalars.issuperset(map(type, value.values()))
            and _PLAIN_KEYS.issuperset(map(type, value))
        )

    def refusal(self, value: Any, depth: int = MAX_DEPTH) -> Refused | None:
        """The first thing in `value` that cannot be stored, with its path; None when there is none. Slow."""
        kind = type(value)
        if kind in self.scalars:
            reason = self.objection(value)
            return Refused(reason) if reason else None
        if kind not in self.containers:
            return Refused(self._why(value))
        if depth <= 0:
            return Refused(TOO_DEEP)
        for step, item in _items(value):
            if (found := self.refusal(item, depth - 1)) is not None:
                return found.under(step)
        return self._refused_key(value, depth) if kind is dict else None

    def _refused_key(self, value: dict[Any, Any], depth: int) -> Refused | None:
        for key in value:
            step = f"[key {short(key)}]"
            if not self.any_keys and type(key) not in _PLAIN_KEYS:
                return Refused(f"cannot store {a_kind(key)} as a key", step)
            if (found := self.refusal(key, depth - 1)) is not None:
                return found.under(step)
        return None

    def _why(self, value: object) -> str:
        kind = type(value)
        for base in kind.__mro__[1:]:
            if base in self.storable and base is not object:
                return f"cannot store {a_kind(value)}, it would come back as {base.__name__}; convert it first"
        return f"cannot store {a_kind(value)}"


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    kind = type(value)
    if kind is dict:
        return ((key_step(key), item) for key, item in value.items())
    if kind in (set, frozenset):
        return ((f"{{{short(item)}}}", item) for item in value)
    return ((index_step(index), item) for index, item in enumerate(value))
