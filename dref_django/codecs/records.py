"""Plans for types with named fields: dataclasses, NamedTuples, TypedDicts, msgspec Structs. All are stored as maps.

When read, a field that is missing takes its default, one that is not known is dropped: so a field with a default may
be added or removed while old and new processes run side by side (`merge.py` keeps the unknown ones on an update).
"""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple, cast, get_args, get_origin

from .plan import Compiler, Convert, Plan, Unsupported, mismatch
from .refusal import Refused, key_step

_MSGSPEC_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`$")


def plan_for(kind: type, compiler: Compiler) -> Plan | None:
    """The plan of a record type, None when `kind` is none. Raises `Unsupported`."""
    if is_struct(kind):
        return struct_plan(kind, [kind], compiler)
    if dataclasses.is_dataclass(kind):
        return _dataclass_plan(kind, compiler)
    if is_named_tuple(kind):
        return _named_tuple_plan(kind, compiler)
    if is_typed_dict(kind):
        return _typed_dict_plan(kind, compiler)
    return None


def is_record(kind: Any) -> bool:
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or is_named_tuple(kind) or is_typed_dict(kind) or is_struct(kind)
    )


def is_struct(kind: Any) -> bool:
    """Whether it is a msgspec Struct. msgspec is never imported for it: a Struct's class has done that."""
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields") and hasattr(kind, "_field_defaults")


def is_typed_dict(kind: type) -> bool:
    return issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def shape_of(kind: type) -> tuple[frozenset[type], frozenset[type]]:
    """The Python types and stored types of a record, known before its fields are."""
    stored: type = list if is_struct(kind) and cast(Any, kind).__struct_config__.array_like else dict
    return frozenset({dict if is_typed_dict(kind) else kind}), frozenset({stored})


def hints_of(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception as error:  # whatever an annotation raises when it is evaluated
        raise Unsupported(f"the annotations of {kind.__qualname__} cannot be resolved: {error}") from error


class _Field(NamedTuple):
    name: str
    plan: Plan
    required: bool


def _fields(kind: type, types: Mapping[str, Any], required: Callable[[str], bool], compiler: Compiler) -> list[_Field]:
    fields = []
    for name, type_ in types.items():
        try:
            fields.append(_Field(name, compiler.plan(type_), required(name)))
        except Unsupported as unsupported:
            raise Unsupported(f"{kind.__qualname__}.{name}: {unsupported}") from unsupported
    return fields


def _dataclass_plan(kind: Any, compiler: Compiler) -> Plan:
    hints = hints_of(kind)
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar) and not hasattr(kind, name):
            raise Unsupported(f"{kind.__qualname__}.{name}: an InitVar without default is not stored")
    own = {field.name: field for field in dataclasses.fields(kind)}
    derived = [name for name, field in own.items() if not field.init]

    def required(name: str) -> bool:
        field = own[name]
        return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

    def build(found: dict[str, Any]) -> Any:
        late = [(name, found.pop(name)) for name in derived if name in found]
        made = kind(**found)
        for name, value in late:
            object.__setattr__(made, name, value)
        return made

    fields = _fields(kind, {name: hints[name] for name in own}, required, compiler)
    return _record(kind, fields, _values_getter(list(own)), build if derived else lambda found: kind(**found))


def _values_getter(names: list[str]) -> Convert:
    if not names:
        return lambda value: ()
    getter = attrgetter(*names)
    return getter if len(names) > 1 else lambda value: (getter(value),)


def _named_tuple_plan(kind: Any, compiler: Compiler) -> Plan:
    hints = hints_of(kind)
    types = {name: hints.get(name, Any) for name in kind._fields}
    fields = _fields(kind, types, lambda name: name not in kind._field_defaults, compiler)
    return _record(kind, fields, iter, lambda found: kind(**found))


def _record(kind: type, fields: list[_Field], values_of: Convert, build: Callable[[dict[str, Any]], Any]) -> Plan:
    title = kind.__qualname__
    lowers = [(field.name, field.plan.lower) for field in fields]
    kinds, wires = shape_of(kind)

    def lower(value: Any) -> Any:
        if type(value) is not kind:
            raise mismatch(title, value)
        result: dict[str, Any] = {}
        name = ""
        try:
            for (name, convert), item in zip(lowers, values_of(value), strict=True):
                result[name] = convert(item)
        except Refused as refused:
            raise refused.under(key_step(name)) from None
        except AttributeError as error:
            raise Refused(f"{title} lacks a field: {error}") from error
        return result

    return Plan(title, lower, _lift_record(title, fields, build), kinds, wires)


def _lift_record(title: str, fields: list[_Field], build: Callable[[dict[str, Any]], Any]) -> Convert:
    lifts = [(field.name, field.plan.lift) for field in fields]
    required = frozenset(field.name for field in fields if field.required)

    def lift(wire: Any) -> Any:
        if type(wire) is not dict:
            raise mismatch(title, wire)
        found = {}
        name = ""
        try:
            for name, convert in lifts:
                if name in wire:
                    found[name] = convert(wire[name])
        except Refused as refused:
            raise refused.under(key_step(name)) from None
        if not found.keys() >= required:
            name = next(field.name for field in fields if field.required and field.name not in found)
            raise Refused(f"missing, and {title} has no default for it", key_step(name))
        try:
            return build(found)
        except Exception as error:  # a __post_init__ that validates
            raise Refused(f"{title} does not accept what is stored: {error}") from error

    return lift


def _typed_dict_plan(kind: Any, compiler: Compiler) -> Plan:
    title, hints = kind.__qualname__, hints_of(kind)

    def required(name: str) -> bool:
        # With `from __future__ import annotations` the class itself does not see NotRequired; the resolved hint does.
        marks = _marks(hints[name])
        return "Required" in marks or ("NotRequired" not in marks and name in kind.__required_keys__)

    fields = _fields(kind, hints, required, compiler)
    lowers = {field.name: field.plan.lower for field in fields}
    needed = [field.name for field in fields if field.required]

    def lower(value: Any) -> Any:
        if type(value) is not dict:
            raise mismatch(title, value)
        for name in needed:
            if name not in value:
                raise Refused(f"missing, and {title} requires it", key_step(name))
        result: dict[str, Any] = {}
        for name, item in value.items():
            convert = lowers.get(name)
            if convert is None:
                raise Refused(f"{title} has no such field", key_step(name))
            try:
                result[name] = convert(item)
            except Refused as refused:
                raise refused.under(key_step(name)) from None
        return result

    return Plan(title, lower, _lift_record(title, fields, lambda found: found), *shape_of(kind))


def _marks(hint: Any) -> set[str]:
    """Which of Required, NotRequired, ReadOnly, Annotated wrap the hint."""
    marks = set()
    while (origin := get_origin(hint)) is not None and (name := getattr(origin, "_name", None)) and get_args(hint):
        marks.add(name)
        hint = get_args(hint)[0]
    return marks


# --- msgspec ------------------------------------------------------------------------------------------------------


def struct_plan(type_: Any, kinds: list[type], compiler: Compiler) -> Plan:
    """The plan of one Struct, or of a union of tagged ones. msgspec validates on the way in and on the way out.

    msgspec's own rules hold inside: rename, tag, omit_defaults, constraints of `Meta`. Where the type may hold a set,
    its dictionaries are stored sorted by key too, since that is how msgspec makes sets deterministic.
    """
    import msgspec  # optional, and loaded already by whoever made the Struct

    title = " | ".join(kind.__qualname__ for kind in kinds)
    exact, natives, str_keys = frozenset(kinds), compiler.natives, not compiler.any_keys
    try:
        info = msgspec.inspect.type_info(type_)
        order: Any = "deterministic" if _may_hold_set(info, set()) else None
    except (TypeError, NameError) as error:
        raise Unsupported(f"{title}: {error}") from error

    def to_struct(wire: Any) -> Any:
        try:
            return msgspec.convert(wire, type_, builtin_types=natives, str_keys=str_keys)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise _from_msgspec(error) from error

    def lower(value: Any) -> Any:
        if type(value) not in exact:
            raise mismatch(title, value)
        try:
            wire = msgspec.to_builtins(value, builtin_types=natives, str_keys=str_keys, order=order)
        except (TypeError, ValueError, RecursionError) as error:
            raise Refused(f"msgspec cannot convert this {type(value).__qualname__}: {error}") from error
        to_struct(wire)  # a Struct checks nothing when it is made or changed; a wrong one would break every reader
        return wire

    def lift(wire: Any) -> Any:
        if type(wire) not in wires:
            raise mismatch(title, wire)
        return to_struct(wire)

    wires = frozenset[type]().union(*(shape_of(kind)[1] for kind in kinds))
    return Plan(title, lower, lift, exact, wires)


def _from_msgspec(error: Exception) -> Refused:
    """msgspec's "Expected `int`, got `str` - at `$.a[0]`" in the words of this package."""
    text = str(error)
    match = _MSGSPEC_PATH.search(text)
    path = match[1] if match else ""
    reason = _MSGSPEC_PATH.sub("", text).replace("`", "")
    return Refused(reason[:1].lower() + reason[1:], path)


def _may_hold_set(info: Any, seen: set[int]) -> bool:
    """Walks the tree that `msgspec.inspect` makes of a type."""
    if isinstance(info, list | tuple):
        return any(_may_hold_set(part, seen) for part in info)
    if type(info).__module__ != "msgspec.inspect" or id(info) in seen:
        return False
    seen.add(id(info))
    if type(info).__name__ in ("SetType", "FrozenSetType", "AnyType", "CustomType"):
        return True
    return any(_may_hold_set(getattr(info, name), seen) for name in info.__struct_fields__)
