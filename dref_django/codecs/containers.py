"""Plans of list, tuple, set, frozenset and dict.

A typed tuple or set is stored as a plain array (a set's in a stable order), since the type says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from .plan import ANY, Convert, Plan, each, mismatch
from .refusal import Refused, describe, index_step, key_step

_ARRAYS: Final = frozenset({list, tuple, set, frozenset})


def list_plan(title: str, item: Plan) -> Plan:
    same = item.same
    every = item is ANY

    def converter(convert: Convert) -> Convert:
        def run(value: Any) -> Any:
            if type(value) is not list:
                raise mismatch(title, value)
            if every or same.issuperset(map(type, value)):
                return value
            return each(convert, value)

        return run

    only = frozenset({list})
    return Plan(title, converter(item.lower), converter(item.lift), only, only)


def tuple_plan(title: str, item: Plan) -> Plan:
    def lower(value: Any) -> Any:
        if type(value) is not tuple:
            raise mismatch(title, value)
        return each(item.lower, value)

    def lift(wire: Any) -> Any:
        if type(wire) not in _ARRAYS:
            raise mismatch(title, wire)
        return tuple(each(item.lift, wire))

    return Plan(title, lower, lift, frozenset({tuple}), frozenset({list, tuple}))


def fixed_tuple_plan(title: str, plans: list[Plan]) -> Plan:
    size = len(plans)

    def convert(converts: list[Convert], value: Any) -> list[Any]:
        if len(value) != size:
            raise Refused(f"expected {title}, got {len(value)} items")
        result: list[Any] = []
        try:
            for run, item in zip(converts, value, strict=True):
                result.append(run(item))
        except Refused as refused:
            raise refused.under(index_step(len(result))) from None
        return result

    lowers, lifts = [plan.lower for plan in plans], [plan.lift for plan in plans]

    def lower(value: Any) -> Any:
        if type(value) is not tuple:
            raise mismatch(title, value)
        return convert(lowers, value)

    def lift(wire: Any) -> Any:
        if type(wire) not in (list, tuple):
            raise mismatch(title, wire)
        return tuple(convert(lifts, wire))

    return Plan(title, lower, lift, frozenset({tuple}), frozenset({list, tuple}))


def set_plan(title: str, kind: Any, item: Plan, encode: Callable[[object], bytes]) -> Plan:
    naturally_ordered = item.kinds == item.same and item.kinds in (frozenset({str}), frozenset({int}))
    order = None if naturally_ordered else encode

    def lower(value: Any) -> Any:
        if type(value) is not kind:
            raise mismatch(title, value)
        return sorted(each(item.lower, value), key=order)

    def lift(wire: Any) -> Any:
        if type(wire) not in _ARRAYS:
            raise mismatch(title, wire)
        try:
            return kind(each(item.lift, wire))
        except TypeError as error:
            raise Refused(f"expected {title}, got an item that is not hashable") from error

    return Plan(title, lower, lift, frozenset({kind}), frozenset({list, set, frozenset}))


def dict_plan(title: str, keys: Plan, items: Plan, any_keys: bool) -> Plan:
    """A map when the codec's maps can have these keys, else an array of [key, value] pairs."""
    if keys is not ANY and not (_hashable(keys) if any_keys else keys.wires <= {str}):
        return _pairs(title, keys, items)
    any_item, any_key = items is ANY, keys is ANY
    same_items, same_keys = items.same, keys.same

    def converter(key_of: Convert, item_of: Convert) -> Convert:
        def run(value: Any) -> Any:
            if type(value) is not dict:
                raise mismatch(title, value)
            if (any_key or same_keys.issuperset(map(type, value))) and (
                any_item or same_items.issuperset(map(type, value.values()))
            ):
                return value
            return dict(_converted(value.items(), key_of, item_of))

        return run

    only = frozenset({dict})
    return Plan(title, converter(keys.lower, items.lower), converter(keys.lift, items.lift), only, only)


def _hashable(keys: Plan) -> bool:
    return keys.wires.isdisjoint({list, dict, object})


def _pairs(title: str, keys: Plan, items: Plan) -> Plan:
    def lower(value: Any) -> Any:
        if type(value) is not dict:
            raise mismatch(title, value)
        return [list(pair) for pair in _converted(value.items(), keys.lower, items.lower)]

    def lift(wire: Any) -> Any:
        if type(wire) is not list or not all(type(pair) is list and len(pair) == 2 for pair in wire):
            raise Refused(f"expected {title} as a list of [key, value] pairs, got {describe(wire)}")
        return dict(_converted(wire, keys.lift, items.lift))

    return Plan(title, lower, lift, frozenset({dict}), frozenset({list}))


def _converted(pairs: Iterable[Any], key_of: Convert, item_of: Convert) -> list[tuple[Any, Any]]:
    result = []
    key: Any = None
    try:
        for key, item in pairs:
            result.append((key_of(key), item_of(item)))
    except Refused as refused:
        raise refused.under(key_step(key)) from None
    return result
