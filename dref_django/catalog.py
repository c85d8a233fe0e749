"""What is stored, for operators: pages of refs, one of them with its version, and a change of exactly that version.

Values are shown and entered as JSON text. A ref that this process declared is read and written through its type, so
that a datetime or a dataclass survives the trip; the value of an unknown ref can be entered only when JSON holds it as
it is (a set, say, would come back as a list).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from . import backends, conf, history, streams
from .binding import known_ref
from .codecs import Schema, get_codec
from .codecs.typed import title_of
from .exceptions import DRefError, InvalidValue
from .flows import Flow, drive
from .naming import GROUP_SEPARATOR
from .protocol import ABSENT, KEEP, OP_ID_SIZE, Data, Read, Reply, Row, Scan, Status, Write, _Keep, check_name

PAGE: Final = 100
RESERVED: Final = "dref."
"""Groups whose names begin so hold records of our own (elections, `once` ...)."""
SEPARATORS: Final = "./:" + GROUP_SEPARATOR
"""Characters that set the parts of a name apart, for the tree of prefixes."""
JUMPS: Final = 60
"""Scans that one level of the tree may take."""
_LAST: Final = "\U0010ffff"
"""Comes after every character that a name goes on with."""
LOOKS: Final = 20
"""Scans that one page may take when most of what it meets is not to be shown."""


@dataclass(frozen=True, slots=True)
class StoredRef:
    """One stored value. `left`: seconds to live, None for ever. `data`: encoded, None when it was not asked for."""

    name: str
    version: int
    size: int
    left: float | None
    data: Data | None
    using: str

    @property
    def group(self) -> str:
        return self.name.rpartition(GROUP_SEPARATOR)[0]

    @property
    def label(self) -> str:
        """For people: the group, if any, before a slash."""
        return label(self.name)

    @property
    def reserved(self) -> bool:
        return is_reserved(self.name)

    @property
    def changed(self) -> datetime:
        """The last change: a version is the server's clock in microseconds, or one more than the version before."""
        return datetime.fromtimestamp(self.version / 1e6, UTC)

    @property
    def type(self) -> str:
        """The declared type; of an unknown ref what its bytes decode to, "" when they were not read."""
        ref = known_ref(self.name, self.using)
        declared = None if ref is None else ref._value_type()
        if declared is not None:
            return title_of(declared)
        if self.data is None:
            return ""
        try:
            return type(self.value()).__name__
        except DRefError:
            return "unreadable"

    def value(self) -> Any:
        """Decoded by the ref that this process declared under the name, else by the back end's codec.

        Raises `InvalidValue` for bytes that it cannot read.
        """
        if self.data is None:
            raise InvalidValue(f"{self.label!r}: the value was not read")
        return _schema(self.name, self.using).decode(self.data)

    def text(self) -> str | None:
        """The value as JSON that `encoded` takes back unchanged; None when JSON has no such text."""
        try:
            return text_of(self.name, self.value(), using=self.using)
        except DRefError:
            return None


def text_of(name: str, value: Any, *, using: str = conf.DEFAULT_ALIAS) -> str | None:
    """A value of that ref as JSON that `encoded` takes back unchanged; None when JSON has no such text."""
    try:
        found = _json_schema(name, using).encode(value)
    except DRefError:
        return None
    return str(found) if isinstance(found, int) else found.decode("ascii")


def label(name: str) -> str:
    return name.replace(GROUP_SEPARATOR, "/")


def is_reserved(name: str) -> bool:
    """Whether it is a record of our own: of a group that begins with "dref.", or the history of a ref."""
    return GROUP_SEPARATOR in name and (name.startswith(RESERVED) or name.endswith(history.SUFFIX))


def checked(name: str) -> str:
    """The stored name, group included. Raises `InvalidName`."""
    for part in name.split(GROUP_SEPARATOR):
        check_name(part)
    return name


def page(
    prefix: str = "",
    after: str = "",
    limit: int = PAGE,
    *,
    values: bool = False,
    reserved: bool = False,
    using: str = conf.DEFAULT_ALIAS,
) -> tuple[list[StoredRef], str]:
    """The next refs in the order of their names, and where the page after begins; "" at the end.

    Never more than `limit`. Fewer do not mean the end. Records of our own are left out unless `reserved`.
    """
    backend = backends.get_backend(using)
    found: list[StoredRef] = []
    for _ in range(LOOKS):
        command = Scan(prefix, after, limit - len(found), values)
        (reply,) = backend.execute([command])
        rows = [row for row in reply.page if isinstance(row, Row)]
        found += [_stored(row, using) for row in rows if reserved or not is_reserved(row.name)]
        after = reply.cursor
        if not after or len(found) >= limit:
            break
    return found, after


def with_values(refs: Sequence[StoredRef], *, largest: int) -> list[StoredRef]:
    """The same as they are now, read in one round trip, without those that are gone; values beyond `largest` bytes
    are left where they are."""
    small = [ref for ref in refs if ref.size <= largest]
    if not small:
        return list(refs)
    replies = backends.get_backend(small[0].using).execute([Read(ref.name) for ref in small])
    now = {ref.name: _found(ref.name, reply, ref.using) for ref, reply in zip(small, replies, strict=True)}
    return [found for ref in refs if (found := now.get(ref.name, ref)) is not None]


def branches(prefix: str, *, using: str = conf.DEFAULT_ALIAS) -> tuple[list[str], bool]:
    """The longer prefixes into which the names under `prefix` fall, each up to its next separator; and whether that is
    all of them. It jumps from one to the next, so what it costs does not depend on how many names there are."""
    backend = backends.get_backend(using)
    found: list[str] = []
    after = ""
    for _ in range(JUMPS):
        (reply,) = backend.execute([Scan(prefix, after, 1)])
        names = [row.name for row in reply.page if isinstance(row, Row)]
        after = reply.cursor
        if names:
            own = is_reserved(names[0])
            branch = _own_group(names[0]) if own else _branch(names[0], prefix)
            if branch and not own:
                found.append(branch)
            if branch and after:
                after = branch + _LAST
        if not after:
            return found, True
    return found, False


def _own_group(name: str) -> str:
    """What all names of that group begin with, "" where others are among them (the history of a ref)."""
    return name.partition(GROUP_SEPARATOR)[0] + GROUP_SEPARATOR if name.startswith(RESERVED) else ""


def _branch(name: str, prefix: str) -> str:
    """`prefix` and the part of the name behind it, the separator included; "" when no separator follows."""
    for place in range(len(prefix), len(name)):
        if name[place] in SEPARATORS and place + 1 < len(name):
            return name[: place + 1]
    return ""


def find(name: str, *, using: str = conf.DEFAULT_ALIAS) -> StoredRef | None:
    """What is stored under the name; None when nothing is."""
    (reply,) = backends.get_backend(using).execute([Read(checked(name))])
    return _found(name, reply, using)


def encoded(name: str, text: str, *, using: str = conf.DEFAULT_ALIAS) -> Data:
    """The stored form of a value that is given as JSON. Raises `InvalidValue` when it does not fit the ref's type."""
    try:
        json.loads(text)
    except ValueError as error:
        raise InvalidValue(f"{label(name)!r}: this is not JSON ({error}); text stands in double quotes") from error
    value = _json_schema(name, using).decode(text.encode())
    return _schema(name, using).encode(value)


def put(
    name: str,
    data: Data,
    *,
    expect: int | None,
    ttl: float | _Keep | None = KEEP,
    using: str = conf.DEFAULT_ALIAS,
) -> StoredRef | None:
    """Writes `data` if the stored version is `expect` (0: if there is no value; None: in any case).

    `ttl`: seconds to live, None for ever; the deadline stays as it is by default. Returns None when it was written,
    else, with nothing changed, what is stored instead: a `StoredRef` of size 0 without data when the value is gone.
    """
    backend = backends.get_backend(using)
    ref = known_ref(name, using)
    flow = _put(checked(name), data, expect, ttl)
    reply = drive(backend, history.recorded(name, flow, 0 if ref is None else ref._history))
    if reply.status is Status.APPLIED:
        streams.get_hub(backend).note(name, reply.version, data, reply.left)
        return None
    return _found(name, reply, using) or StoredRef(name, ABSENT, 0, None, None, using)


def records(name: str, *, using: str = conf.DEFAULT_ALIAS) -> list[history.Record]:
    """The changes of a ref that are remembered, the newest first; none where nobody asked for history."""
    return drive(backends.get_backend(using), history.read(checked(name), _schema(name, using).decode))


def _put(name: str, data: Data, expect: int | None, ttl: float | _Keep | None) -> Flow[Reply]:
    life = max(int(ttl * 1e6), 1) if isinstance(ttl, int | float) else ttl
    reply: Reply = yield Write(name, data, expect, life, os.urandom(OP_ID_SIZE))
    return reply


def _found(name: str, reply: Reply, using: str) -> StoredRef | None:
    if reply.data is None:
        return None
    size = len(reply.data) if isinstance(reply.data, bytes) else 8
    return StoredRef(name, reply.version, size, _seconds(reply.left), reply.data, using)


def _stored(row: Row, using: str) -> StoredRef:
    return StoredRef(row.name, row.version, row.size, _seconds(row.left), row.data, using)


def _seconds(left: int | None) -> float | None:
    return None if left is None else left / 1e6


def _schema(name: str, using: str) -> Schema:
    ref = known_ref(name, using)
    if ref is not None:
        return ref._bind().schema
    params = backends.get_backend(using).params
    return Schema(name, None, get_codec(params.codec), params.max_value_size)


def _json_schema(name: str, using: str) -> Schema:
    """The same type, as text. It is bounded by what the text stands for, not by its own length."""
    own = _schema(name, using)
    return Schema(name, own.type_, get_codec("json"), 8 * own.max_size)
