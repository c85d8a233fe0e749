"""A plan: how the values of one type turn into what a codec stores ("wire": plain containers and scalars) and back.

Plans are closures, compiled once for each type (`typed.py`, `records.py`), so that a call looks nothing up in
annotations. `lower` checks and converts a value, `lift` checks and converts what was stored; both raise `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from .refusal import Refused, describe, index_step

Convert: TypeAlias = Callable[[Any], Any]

EVERY: frozenset[type] = frozenset({object})
"""As `kinds` or `wires`: any type."""
NONE: frozenset[type] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    title: str
    """The type as messages name it."""
    lower: Convert
    lift: Convert
    kinds: frozenset[type]
    """The exact Python types that `lower` takes: what tells the members of a union apart."""
    wires: frozenset[type]
    """The exact types that `lift` takes: what tells the members of a union apart when read."""
    also: frozenset[type] = NONE
    """Types that both take as well, unless another member of a union claims them."""
    same: frozenset[type] = NONE
    """Types whose values are lowered and lifted to themselves, so that whole containers of them skip the calls."""


class Compiler(Protocol):
    """What a plan maker may ask of the compiler that runs it."""

    natives: frozenset[type]
    any_keys: bool

    def plan(self, type_: Any) -> Plan: ...


class Unsupported(Exception):
    """An annotation that no plan can be made for, with the reason."""


def mismatch(title: str, value: object) -> Refused:
    return Refused(f"expected {title}, got {describe(value)}")


def each(convert: Convert, items: Iterable[Any]) -> list[Any]:
    """Converts all items; a refusal carries the index."""
    result: list[Any] = []
    append = result.append
    try:
        for item in items:
            append(convert(item))
    except Refused as refused:
        raise refused.under(index_step(len(result))) from None
    return result


def identity(value: Any) -> Any:
    return value


ANY = Plan("Any", identity, identity, EVERY, EVERY, same=EVERY)
