"""What a ref is before it does anything: its name, its type, and the back end that it binds to at first use.

Also how stored data becomes a value, and this process's own copy of it. The operations are in `refs.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

from . import backends, conf, naming, workspace
from .backends.base import Backend
from .cells import Cell, Near
from .codecs import Schema, get_codec, type_of_default
from .exceptions import CounterOverflow, InvalidValue, NotFound
from .flows import Await, Flow, adrive, drive
from .history import recorded
from .hub import Hub
from .protocol import INT_MAX, INT_MIN, Data, Read, Reply, check_name
from .streams import get_hub, start_registered

T = TypeVar("T")
R = TypeVar("R")


class Unset:
    def __repr__(self) -> str:
        return "<no default>"


UNSET: Final = Unset()


class _Bound:
    """What a ref knows while the back ends of one `backends.generation` are in use."""

    __slots__ = ("backend", "cell", "decoded", "generation", "hub", "schema")

    def __init__(self, generation: int, backend: Backend, hub: Hub, schema: Schema) -> None:
        self.generation = generation
        self.backend = backend
        self.hub = hub
        self.schema = schema
        self.cell: Cell | None = None
        self.decoded: tuple[Near | None, Any] = (None, None)
        """The last copy that `peek` saw, and its value: one object, since threads race to replace it."""

    def is_apart(self) -> bool:
        """Whether the caller sees and makes what others do not see yet: it is in a transaction of either kind."""
        return workspace.current() is not None or (self.backend.supports_join and self.backend.is_joined())


class BaseRef(Generic[T]):
    """A name that is bound to a back end, and how its values are stored."""

    def __init__(
        self,
        name: str | None = None,
        default: T | Callable[[], T] | Unset = UNSET,
        *,
        type: Any = None,  # noqa: A002 -- the name in the public API
        using: str = conf.DEFAULT_ALIAS,
        codec: str | None = None,
        group: str | None = None,
        history: int = 0,
    ) -> None:
        self._history = _checked_history(history)
        self._given_name = None if name is None else naming.grouped(check_name(name), group)
        self._group = group
        self._default = default
        self._using = using
        self._type = type
        self._codec = codec
        self._bound: _Bound | None = None
        self._attribute: tuple[type[Any], str] | None = None
        if self._given_name is not None:
            _declare(self, self._given_name)

    # --- identity -----------------------------------------------------------------------------------------------

    def __set_name__(self, owner: type[Any], attribute: str) -> None:
        if self._given_name is None:
            self._attribute = (owner, attribute)

    @property
    def name(self) -> str:
        """The name in the back end. Raises `InvalidName` for a ref that has none and is no class attribute."""
        if self._given_name is None:
            self._given_name = naming.grouped(naming.from_attribute(self, self._attribute), self._group)
            _declare(self, self._given_name)
        return self._given_name

    @property
    def using(self) -> str:
        return self._using

    def __repr__(self) -> str:
        """No I/O: a repr that shows up in a log must not talk to a server."""
        shown = self._given_name or (self._attribute and f"{self._attribute[0].__qualname__}.{self._attribute[1]}")
        using = "" if self._using == conf.DEFAULT_ALIAS else f", using={self._using!r}"
        return f"{type(self).__name__}({shown!r}{using})"

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a ref, not a value, and would always be true: use .value or .get()")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseRef):
            return self is other or (self.name, self._using) == (other.name, other._using)
        self._no_comparison(other)

    def __hash__(self) -> int:
        return hash((self._using, self.name))

    def _no_comparison(self, other: object) -> NoReturn:
        raise TypeError(f"{self!r} is a ref, not a value, and cannot be compared with {other!r}: use .value or .get()")

    __lt__ = __le__ = __gt__ = __ge__ = _no_comparison

    # --- this process's copy ------------------------------------------------------------------------------------

    def _near(self) -> Flow[Near]:
        bound = self._bind()
        if bound.is_apart():
            apart: Reply = yield Read(self.name)
            return Near.of(apart.version, apart.data, apart.left, bound.backend.clock.monotonic())
        cell = bound.cell
        if cell is None or cell.near is None:
            yield Await(bound.hub.keep_near(self.name), f"the first look at {self.name!r}")
            cell = bound.cell = bound.hub.cells.get(self.name)
        near = None if cell is None else cell.near
        if near is None:  # evicted from the near-cache at once: read it
            reply: Reply = yield Read(self.name)
            near = Near.of(reply.version, reply.data, reply.left, bound.backend.clock.monotonic())
        return near

    def _decode_near(self, near: Near) -> T:
        bound = self._bind()
        expired = near.expires is not None and near.has_expired(bound.backend.clock.monotonic())
        seen, known = bound.decoded
        if near is seen and not expired:
            return cast("T", known)
        value = self._decode_or_fail(None if expired else near.data)
        if near.expires is None and bound.schema.shares(value) and not callable(self._default):
            bound.decoded = near, value
        return value

    # --- values -------------------------------------------------------------------------------------------------

    def _decode(self, name: str, data: Data | None) -> T:
        """For watchers: an absent value is the default, or None."""
        if data is None and self._default is UNSET:
            return cast("T", None)
        return self._decode_or_fail(data)

    def _decode_or_fail(self, data: Data | None) -> T:
        if data is not None:
            value: T = self._bind().schema.decode(data)
            return value
        default = self._default
        if default is UNSET:
            raise NotFound(f"{self.name!r} has no value and no default")
        if callable(default):
            made: T = default()
            return made
        return self._copy(cast("T", default))

    def _note(self, version: int, data: Data | None, left: int | None) -> None:
        bound = self._bind()
        if not bound.is_apart():  # what a transaction has not committed is nobody else's to see
            bound.hub.note(self.name, version, data, left)

    def _bind(self) -> _Bound:
        bound = self._bound
        if bound is None or bound.generation != backends.generation:
            generation = backends.generation
            backend = backends.get_backend(self._using)
            schema = Schema(
                self.name,
                self._value_type(),
                get_codec(self._codec or backend.params.codec),
                backend.params.max_value_size,
            )
            bound = self._bound = _Bound(generation, backend, get_hub(backend), schema)
            start_registered()
        return bound

    def _value_type(self) -> object | None:
        if self._type is not None or self._default is UNSET:
            return cast("object | None", self._type)
        default = self._default
        return type_of_default(default() if callable(default) else default)

    def _run(self, flow: Flow[R]) -> R:
        if self._history:
            flow = recorded(self.name, flow, self._history)
        return drive(workspace.executor(self._bind().backend), flow)

    async def _arun(self, flow: Flow[R]) -> R:
        if self._history:
            flow = recorded(self.name, flow, self._history)
        return await adrive(workspace.executor(self._bind().backend), flow)

    def _copy(self, value: T) -> T:
        """Another object than `value` where a caller could change it in place."""
        schema = self._bind().schema
        return value if schema.shares(value) else cast("T", schema.decode(schema.encode(value)))


def _checked_history(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"history is the number of changes to remember, 0 or more, not {number!r}")
    return number


def checked_amount(name: str, amount: Any) -> int:
    """What counters are changed by, or `InvalidValue`, `CounterOverflow`."""
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise InvalidValue(f"{name!r} is changed by integers, not by {amount!r}")
    if not INT_MIN <= amount <= INT_MAX:
        raise CounterOverflow(f"{name!r}: {amount} does not fit in a signed 64-bit integer; it was not changed")
    return amount


_known: weakref.WeakValueDictionary[tuple[str, str], BaseRef[Any]] = weakref.WeakValueDictionary()
_known_again: weakref.WeakValueDictionary[int, BaseRef[Any]] = weakref.WeakValueDictionary()
"""By id, refs declared under a name that another one had then: they may outlive it."""


def _declare(ref: BaseRef[Any], name: str) -> None:
    if _known.setdefault((ref._using, name), ref) is not ref:
        _known_again[id(ref)] = ref


def known_ref(name: str, using: str = conf.DEFAULT_ALIAS) -> BaseRef[Any] | None:
    """The ref that this process declared under that name, if any; the first of several."""
    first = _known.get((using, name))
    if first is not None:
        return first
    for reference in _known_again.valuerefs():
        ref = reference()
        if ref is not None and (ref._using, ref._given_name) == (using, name):
            return _known.setdefault((using, name), ref)
    return None
