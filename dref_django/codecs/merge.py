"""What an update must carry over: fields that are stored and that this process's types do not know.

During a rolling deploy a process with the old class updates a value that a process with the new class wrote. The new
value is laid over the stored one (both as plain containers, "wire"): known fields come from the new value, unknown
ones stay, nested records included wherever it is certain which record is which:

- a field's record: under the same field; a mapping's: under the same key; a fixed tuple's: at the same position;
- a list's, tuple's or set's: one whose known fields are unchanged keeps its unknown ones wherever it has moved; a
  changed one takes those that stood at its position when the length is the same (not in sets, which have none).

Values typed `Any` and array-like Structs are not looked into. Fields keep the stored order, so that deltas stay small.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Protocol, get_args, get_origin

from . import records
from .typed import is_union, unwrapped


class Merger(Protocol):
    def known(self, wire: Any) -> Any:
        """`wire` without unknown fields."""

    def merge(self, new: Any, base: Any) -> Any:
        """`new` with the unknown fields of `base`. Whatever does not fit together is left as in `new`."""


Encode = Callable[[object], bytes]


def merger_for(type_: Any, encode: Encode) -> Merger | None:
    """The merger of a type, None when no record stands in it. `encode` makes comparable keys of list items."""
    return _Maker(encode).merger(type_)


class _Maker:
    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.records: dict[type, _Record] = {}

    def merger(self, type_: Any) -> Merger | None:
        type_ = unwrapped(type_)
        if records.is_record(type_):
            return self._record(type_)
        origin, args = get_origin(type_), get_args(type_)
        if is_union(type_):
            return self._union(args)
        if origin is dict and (item := self.merger(args[1])) is not None:
            return _Mapping(item)
        if origin is tuple and args and args[-1] is not Ellipsis:
            items = [self.merger(arg) for arg in args]
            return _Positions(items) if any(items) else None
        if origin in (list, tuple, set, frozenset) and args and (item := self.merger(args[0])) is not None:
            return _Items(item, self.encode, positional=origin in (list, tuple))
        return None

    def _record(self, kind: type) -> Merger | None:
        if (made := self.records.get(kind)) is not None:
            return made
        if records.is_struct(kind):
            return self._struct(kind)
        record = self.records[kind] = _Record()
        hints = records.hints_of(kind)
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind)]
        else:
            names = list(getattr(kind, "_fields", hints))
        record.fields = {name: self.merger(hints.get(name, Any)) for name in names}
        return record

    def _struct(self, kind: Any) -> Merger | None:
        config = kind.__struct_config__
        if config.array_like:
            return None
        record = self.records[kind] = _Record(config.tag_field)
        found = sys.modules["msgspec"].structs.fields(kind)
        record.fields = {field.encode_name: self.merger(field.type) for field in found}
        if config.tag_field:
            record.fields = {config.tag_field: None, **record.fields}
            record.tag = config.tag
        return record

    def _union(self, args: tuple[Any, ...]) -> Merger | None:
        mergers = [found for arg in args if (found := self.merger(arg)) is not None]
        return _Union(mergers) if mergers else None


class _Record:
    def __init__(self, tag_field: str | None = None) -> None:
        self.fields: dict[str, Merger | None] = {}
        self.tag_field = tag_field
        self.tag: object = None

    def _mine(self, wire: Any) -> bool:
        return type(wire) is dict and (self.tag_field is None or wire.get(self.tag_field) == self.tag)

    def known(self, wire: Any) -> Any:
        if not self._mine(wire):
            return wire
        return {
            name: wire[name] if field is None else field.known(wire[name])
            for name, field in self.fields.items()
            if name in wire
        }

    def merge(self, new: Any, base: Any) -> Any:
        if not self._mine(new) or not self._mine(base):
            return new
        merged = {}
        for name, old in base.items():
            if name not in self.fields:
                merged[name] = old
            elif name in new:
                field = self.fields[name]
                merged[name] = new[name] if field is None else field.merge(new[name], old)
        for name, value in new.items():
            merged.setdefault(name, value)
        return merged


class _Union:
    """At most one member fits a stored map and one a stored list (or the tag says which): the others do nothing."""

    def __init__(self, members: list[Merger]) -> None:
        self.members = members

    def known(self, wire: Any) -> Any:
        for member in self.members:
            wire = member.known(wire)
        return wire

    def merge(self, new: Any, base: Any) -> Any:
        for member in self.members:
            new = member.merge(new, base)
        return new


class _Mapping:
    def __init__(self, item: Merger) -> None:
        self.item = item

    def known(self, wire: Any) -> Any:
        if _are_pairs(wire):
            return [[key, self.item.known(value)] for key, value in wire]
        return {key: self.item.known(value) for key, value in wire.items()} if type(wire) is dict else wire

    def merge(self, new: Any, base: Any) -> Any:
        if type(new) is dict and type(base) is dict:
            return {key: self.item.merge(value, base[key]) if key in base else value for key, value in new.items()}
        if _are_pairs(new) and _are_pairs(base):
            old = {repr(key): value for key, value in base}
            return [[key, self.item.merge(value, old.get(repr(key)))] for key, value in new]
        return new


def _are_pairs(wire: Any) -> bool:
    """Whether it is a mapping stored as [key, value] pairs, since no map of the codec can have such keys."""
    return type(wire) is list and all(type(pair) is list and len(pair) == 2 for pair in wire)


class _Positions:
    def __init__(self, items: list[Merger | None]) -> None:
        self.items = items

    def known(self, wire: Any) -> Any:
        if type(wire) is not list or len(wire) != len(self.items):
            return wire
        return [value if item is None else item.known(value) for item, value in zip(self.items, wire, strict=True)]

    def merge(self, new: Any, base: Any) -> Any:
        if type(new) is not list or type(base) not in (list, tuple) or not len(new) == len(base) == len(self.items):
            return new
        triples = zip(self.items, new, base, strict=True)
        return [value if item is None else item.merge(value, old) for item, value, old in triples]


class _Items:
    def __init__(self, item: Merger, encode: Encode, *, positional: bool) -> None:
        self.item = item
        self.encode = encode
        self.positional = positional

    def known(self, wire: Any) -> Any:
        return [self.item.known(value) for value in wire] if type(wire) is list else wire

    def merge(self, new: Any, base: Any) -> Any:
        if type(new) is not list or type(base) is not list:
            return new
        known = [self.item.known(old) for old in base]
        if known == base:
            return new  # nothing unknown is stored
        unclaimed: dict[bytes, list[int]] = {}
        for index, old in enumerate(known):
            unclaimed.setdefault(self.encode(old), []).append(index)
        owner: list[int | None] = []
        for value in new:  # equal items are paired in their order
            candidates = unclaimed.get(self.encode(self.item.known(value)))
            owner.append(candidates.pop(0) if candidates else None)
        if self.positional and len(new) == len(base):
            taken = set(owner)
            owner = [
                index if claimed is None and index not in taken else claimed for index, claimed in enumerate(owner)
            ]
        pairs = zip(new, owner, strict=True)
        return [value if index is None else self.item.merge(value, base[index]) for value, index in pairs]
