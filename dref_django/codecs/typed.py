"""Compiles annotations into plans. Scalars, unions, literals and enums are made here.

Nothing is coerced silently: bool is no int, '5' is no 5; only an int where a float is expected becomes a float, when
that is exact.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, Final, Literal, Union, get_args, get_origin

from . import containers, records
from .plan import ANY, Convert, Plan, Unsupported, mismatch
from .refusal import Refused, short
from .scalars import TEXT, zone_objection

_ANNOTATION_WRAPPERS: Final = frozenset({"Annotated", "Required", "NotRequired", "ReadOnly", "Final"})


@functools.lru_cache(maxsize=1024)
def compiled(type_: Any, natives: frozenset[type], any_keys: bool, encode: Callable[[object], bytes]) -> Plan:
    """The plan for `type_` under a codec with these abilities. Raises `Unsupported`."""
    return _Compiler(natives, any_keys, encode).plan(type_)


class _Compiler:
    def __init__(self, natives: frozenset[type], any_keys: bool, encode: Callable[[object], bytes]) -> None:
        self.natives = natives
        self.any_keys = any_keys
        self.encode = encode
        self.finished: dict[type, Plan] = {}
        self.started: set[type] = set()

    def plan(self, type_: Any) -> Plan:
        type_ = unwrapped(type_)
        if type_ is Any or type_ is object:
            return ANY
        origin = get_origin(type_)
        if is_union(type_):
            return self._union(type_, get_args(type_))
        if origin is Literal:
            return self._literal(type_, get_args(type_))
        if isinstance(origin or type_, type):
            return self._class(type_, origin or type_)
        raise Unsupported(f"{title_of(type_)} is not supported")

    def _class(self, type_: Any, kind: type) -> Plan:
        if kind in _PLAIN or kind in self.natives:
            return _scalar(kind)
        if kind is float:
            return _FLOAT
        if kind in TEXT:
            return _text(kind)
        if kind in (dict, list, tuple, set, frozenset):
            return self._container(kind, get_args(type_), type_)
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if get_args(type_):
            raise Unsupported(f"{title_of(type_)} is not supported{_hint(kind)}")
        return self._record(kind)

    def _record(self, kind: type) -> Plan:
        if (plan := self.finished.get(kind)) is not None:
            return plan
        if kind in self.started:  # a type that contains itself: looked up when the plan is finished
            return self._later(kind)
        self.started.add(kind)
        made = records.plan_for(kind, self)
        if made is None:
            raise Unsupported(f"{title_of(kind)} is not supported{_hint(kind)}")
        self.finished[kind] = made
        return made

    def _later(self, kind: type) -> Plan:
        finished = self.finished
        kinds, wires = records.shape_of(kind)
        return Plan(
            title_of(kind),
            lambda value: finished[kind].lower(value),  # noqa: PLW0108 -- not finished yet
            lambda wire: finished[kind].lift(wire),  # noqa: PLW0108
            kinds,
            wires,
        )

    def _container(self, kind: type, args: tuple[Any, ...], type_: Any) -> Plan:
        title = title_of(type_)
        if kind is dict:
            keys, items = (self.plan(arg) for arg in args or (Any, Any))
            return containers.dict_plan(title, keys, items, self.any_keys)
        if kind is list:
            return containers.list_plan(title, self.plan(args[0]) if args else ANY)
        if kind is tuple:
            if (args and args[-1] is not Ellipsis) or type_ == tuple[()]:
                return containers.fixed_tuple_plan(title, [self.plan(arg) for arg in args])
            return containers.tuple_plan(title, self.plan(args[0]) if args else ANY)
        return containers.set_plan(title, kind, self.plan(args[0]) if args else ANY, self.encode)

    def _union(self, type_: Any, args: tuple[Any, ...]) -> Plan:
        structs = [arg for arg in args if records.is_struct(arg)]
        plans = [self.plan(arg) for arg in args if arg not in structs]
        if structs:  # one member, told apart by msgspec's tags
            plans.append(records.struct_plan(functools.reduce(operator.or_, structs), structs, self))
        return _union(title_of(type_), plans)

    def _literal(self, type_: Any, values: tuple[Any, ...]) -> Plan:
        title = title_of(type_)
        to_wire: dict[tuple[type, Any], Any] = {}
        to_value: dict[tuple[type, Any], Any] = {}
        for value in values:
            wire = self.plan(type(value)).lower(value)
            to_wire[type(value), value] = wire
            to_value[type(wire), wire] = value
        return _table(title, to_wire, to_value)


def title_of(type_: Any) -> str:
    """The annotation as a user wrote it, nearly."""
    if type_ is type(None):
        return "None"
    if isinstance(type_, type) and not get_args(type_):
        return type_.__qualname__
    return str(type_).replace("typing.", "")


def is_union(type_: Any) -> bool:
    return get_origin(type_) in (Union, types.UnionType)


def unwrapped(type_: Any) -> Any:
    while True:
        if type_ is None:
            return type(None)
        if hasattr(type_, "__supertype__"):  # NewType
            type_ = type_.__supertype__
        elif type(type_).__name__ == "TypeAliasType":  # `type X = ...` of Python 3.12
            type_ = type_.__value__
        elif getattr(get_origin(type_), "__name__", getattr(get_origin(type_), "_name", "")) in _ANNOTATION_WRAPPERS:
            type_ = get_args(type_)[0]
        else:
            return type_


def _hint(kind: type) -> str:
    if kind in (collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Iterable):
        return "; use list or tuple"
    if kind in (collections.abc.Mapping, collections.abc.MutableMapping):
        return "; use dict"
    if getattr(kind, "_is_protocol", False):
        return ": a Protocol says nothing about how to store it"
    if typing.get_args(kind) or getattr(kind, "__parameters__", ()):
        return ": generic classes are not"
    return ""


def _exactly(title: str, kind: type) -> Convert:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise mismatch(title, value)
        return value

    return check


def _scalar(kind: type) -> Plan:
    title = title_of(kind)
    check, only = _exactly(title, kind), frozenset({kind})
    return Plan(title, check, check, only, only, same=only)


_PLAIN: Final = frozenset({type(None), bool, int, str})


def _float_of(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            exact = float(value)
        except OverflowError:
            exact = float("nan")
        if exact == value:
            return exact
        raise Refused(f"expected float, got an int that no float equals: {short(value)}")
    raise mismatch("float", value)


_FLOAT: Final = Plan(
    "float",
    _float_of,
    _float_of,
    frozenset({float}),
    frozenset({float}),
    also=frozenset({int}),
    same=frozenset({float}),
)


def _text(kind: type) -> Plan:
    title = title_of(kind)
    to_text, from_text = TEXT[kind]

    def lower(value: Any) -> str:
        if type(value) is not kind:
            raise mismatch(title, value)
        if (objection := zone_objection(value)) is not None:
            raise Refused(objection)
        return to_text(value)

    def lift(wire: Any) -> Any:
        if type(wire) is not str:
            raise mismatch(title, wire)
        try:
            return from_text(wire)
        except ValueError:
            raise mismatch(title, wire) from None

    return Plan(title, lower, lift, frozenset({kind}), frozenset({str}))


def _enum(kind: type[enum.Enum]) -> Plan:
    members = list(kind.__members__.values())
    if issubclass(kind, enum.Flag):
        return _flag(kind)
    by_value = all(type(member.value) in (str, int) for member in members)
    to_wire = {(kind, member): member.value if by_value else member.name for member in members}
    to_value = {(type(wire), wire): member for (_, member), wire in to_wire.items()}
    return _table(title_of(kind), to_wire, to_value)


def _flag(kind: type[enum.Flag]) -> Plan:
    title = title_of(kind)

    def lower(value: Any) -> Any:
        if type(value) is not kind:
            raise mismatch(title, value)
        return int(value.value)

    def lift(wire: Any) -> Any:
        if type(wire) is not int:
            raise mismatch(title, wire)
        try:
            return kind(wire)
        except ValueError:
            raise mismatch(title, wire) from None

    return Plan(title, lower, lift, frozenset({kind}), frozenset({int}))


def _table(title: str, to_wire: dict[tuple[type, Any], Any], to_value: dict[tuple[type, Any], Any]) -> Plan:
    """Looks up by (type, value), since 1 == True == 1.0."""

    def lookup(table: dict[tuple[type, Any], Any]) -> Convert:
        def convert(value: Any) -> Any:
            try:
                return table[type(value), value]
            except (KeyError, TypeError):
                raise mismatch(title, value) from None

        return convert

    kinds = frozenset(kind for kind, _ in to_wire)
    return Plan(title, lookup(to_wire), lookup(to_value), kinds, frozenset(kind for kind, _ in to_value))


def _union(title: str, plans: list[Plan]) -> Plan:
    by_kind = _dispatch(title, plans, lambda plan: plan.kinds, lambda plan: plan.lower)
    by_wire = _dispatch(title, plans, lambda plan: plan.wires, lambda plan: plan.lift)
    if object in by_kind:
        return ANY

    def converter(table: dict[type, Convert]) -> Convert:
        def run(value: Any) -> Any:
            convert = table.get(type(value))
            if convert is None:
                raise mismatch(title, value)
            return convert(value)

        return run

    same = frozenset[type]().union(*(plan.same for plan in plans))
    return Plan(title, converter(by_kind), converter(by_wire), frozenset(by_kind), frozenset(by_wire), same=same)


def _dispatch(
    title: str, plans: list[Plan], types_of: Callable[[Plan], frozenset[type]], convert_of: Callable[[Plan], Convert]
) -> dict[type, Convert]:
    table: dict[type, Convert] = {}
    owners: dict[type, Plan] = {}
    for plan in plans:
        for kind in types_of(plan):
            if (other := owners.get(kind)) is not None:
                raise Unsupported(f"{title}: {other.title} and {plan.title} cannot be told apart when stored")
            owners[kind], table[kind] = plan, convert_of(plan)
    for plan in plans:
        for kind in plan.also:
            table.setdefault(kind, convert_of(plan))
    return table
