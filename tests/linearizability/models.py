"""What a single object does when operations reach it one at a time.

A model tells the checker three things: the state at the start, whether an operation with the result it had can happen
in a state (and which state follows), and what kind of effect it has. The kinds are what lets the search stay small.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from enum import Enum
from typing import Any, Final, Protocol

from .history import Operation


class Effect(Enum):
    OBSERVES = "observes"  # in every state either impossible or without effect
    OVERWRITES = "overwrites"  # possible in every state; the next state does not depend on the one before
    DEPENDS = "depends"  # anything else


class Impossible(Enum):
    IMPOSSIBLE = "impossible"


IMPOSSIBLE: Final = Impossible.IMPOSSIBLE


class Anything(Enum):
    ANY = "any"


ANY: Final = Anything.ANY


class Model(Protocol):
    initial: Hashable

    def effect(self, operation: Operation) -> Effect:
        """The kind of effect of this operation, given its result."""

    def step(self, state: Hashable, operation: Operation) -> Hashable:
        """The state after the operation, or IMPOSSIBLE when it cannot have had this result in `state`.

        An operation with an unknown outcome is asked for what it does if it takes effect; its result says nothing.
        """

    def before(self, operation: Operation) -> frozenset[Hashable] | None:
        """States outside which the operation is impossible, or None when there is no short list of them.

        Only asked about operations that returned.
        """

    def after(self, operation: Operation) -> Hashable:
        """The one state the operation can leave behind if it changes the state, or ANY when it is not just one."""


def frozen(value: Any) -> Hashable:
    """A hashable stand-in for a JSON value; unlike in Python, 1, 1.0 and True differ."""
    if value is None or type(value) in (int, str):
        return value  # type: ignore[no-any-return]
    return (type(value).__name__, json.dumps(value, sort_keys=True))


class Register:
    """read() -> value, write(value), cas(expected, new) -> bool; None before the first write."""

    initial: Hashable = None

    def effect(self, operation: Operation) -> Effect:
        match operation.op:
            case "read":
                return Effect.OBSERVES
            case "write":
                return Effect.OVERWRITES
            case "cas":
                expected, new = map(frozen, operation.args)
                refused = operation.returned is not None and operation.result is False
                return Effect.OBSERVES if refused or expected == new else Effect.DEPENDS
        raise ValueError(f"{type(self).__name__} has no operation {operation.op!r}")

    def step(self, state: Hashable, operation: Operation) -> Hashable:
        known = operation.returned is not None
        match operation.op:
            case "read":
                return IMPOSSIBLE if known and frozen(operation.result) != state else state
            case "write":
                return frozen(operation.args[0])
            case "cas":
                expected, new = map(frozen, operation.args)
                if known and operation.result is not (state == expected):
                    return IMPOSSIBLE
                return new if state == expected else state
        raise ValueError(f"{type(self).__name__} has no operation {operation.op!r}")

    def before(self, operation: Operation) -> frozenset[Hashable] | None:
        if operation.op == "read":
            return frozenset({frozen(operation.result)})
        if operation.op == "cas" and operation.result is True:
            return frozenset({frozen(operation.args[0])})
        return None

    def after(self, operation: Operation) -> Hashable:
        return ANY if operation.op == "read" else frozen(operation.args[-1])


class Ref(Register):
    """A register that also has add(amount) -> new value and delete() -> None, or -> bool when it tells what was there.

    An absent ref is None: it reads as None, cas(None, new) creates it, and add counts from 0.
    """

    def effect(self, operation: Operation) -> Effect:
        match operation.op:
            case "add":
                return Effect.DEPENDS
            case "delete":
                if operation.returned is None or operation.result is None:
                    return Effect.OVERWRITES
                return Effect.DEPENDS if operation.result else Effect.OBSERVES
        return super().effect(operation)

    def step(self, state: Hashable, operation: Operation) -> Hashable:
        known = operation.returned is not None
        match operation.op:
            case "add":
                if state is not None and type(state) is not int:
                    return IMPOSSIBLE
                total = (state or 0) + operation.args[0]
                return IMPOSSIBLE if known and operation.result != total else total
            case "delete":
                told = known and operation.result is not None
                return IMPOSSIBLE if told and operation.result is not (state is not None) else None
        return super().step(state, operation)

    def before(self, operation: Operation) -> frozenset[Hashable] | None:
        if operation.op == "add":
            old = operation.result - operation.args[0]
            return frozenset({old, None}) if old == 0 else frozenset({old})
        return super().before(operation)

    def after(self, operation: Operation) -> Hashable:
        if operation.op == "add":
            return ANY if operation.returned is None else operation.result
        return None if operation.op == "delete" else super().after(operation)
