"""What nodes and clients say to each other, as bytes: msgpack arrays whose every field is checked.

A message of the core is `[number of its kind, term, field ...]`, a batch of commands a list of the same, replies and
events likewise; the numbers are places in the tables below and never change their meaning. What the reader can tell by
itself does not travel: the last fields of a message that are 0, those of a reply that have their defaults, the index of
an entry of an Append, and the term and kind of one that is a command of the message's term. The commit index of an
Append is told as how far it is behind `prev_index`: a small number. Nothing is built from what
does not fit: whatever the bytes, decoding ends in a value of the expected type or in `WireError`, and costs memory in
proportion to their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

import msgpack

from dref_django import protocol
from dref_django.protocol import INT_MAX, INT_MIN, KEEP, Command, LeaseInfo, Notice, Patch, Reply, Row, Splice, Wake

from .core import messages
from .core.messages import MESSAGES, NODE_ID_BYTES, Entry, EntryKind, Members, Message

MAX_SIZE: Final = 64 * 1024 * 1024
"""Bytes of anything that is decoded."""
MAX_TEXT: Final = 64 * 1024
"""Characters of a name, an owner, or the text about a lease's holder."""
MAX_OP_ID: Final = 64
USUAL_SPACE: Final = "dref"
"""The key prefix of projects that set none; it travels as nil."""

Check: TypeAlias = Callable[[Any], Any]
T = TypeVar("T")


class WireError(ValueError):
    """These bytes are not what was to be decoded. The sender is broken, of another version, or hostile."""


# --- checks of single fields: the value as it is to be used, or WireError ------------------------------------------


def _number(value: Any) -> int:
    """Indexes, terms, sizes."""
    if type(value) is not int or not 0 <= value <= INT_MAX:
        raise WireError(f"no number from 0 to 2**63 - 1: {value!r:.50}")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or not INT_MIN <= value <= INT_MAX:
        raise WireError(f"no signed 64-bit integer: {value!r:.50}")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise WireError(f"neither true nor false: {value!r:.50}")
    return value


def _blob(value: Any) -> bytes:
    if type(value) is not bytes:
        raise WireError(f"no bytes: {value!r:.50}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_TEXT:
        raise WireError(f"no text of at most {MAX_TEXT} characters: {value!r:.50}")
    return value


def _node(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= NODE_ID_BYTES or len(value.encode()) > NODE_ID_BYTES:
        raise WireError(f"no node id: {value!r:.50}")
    return value


def _op(value: Any) -> bytes:
    if type(value) is not bytes or len(value) > MAX_OP_ID:
        raise WireError(f"no op id: {value!r:.50}")
    return value


def _data(value: Any) -> int | bytes:
    return value if type(value) is bytes else _integer(value)


def _splice(value: Any) -> Splice:
    return Splice(*_fields(value, (_integer, _integer, _blob)))  # whether it fits is the store's to say


def _data_or_splice(value: Any) -> int | bytes | Splice:
    return _splice(value) if type(value) is tuple else _data(value)


def _ttl(value: Any) -> Any:
    return KEEP if value is False else _maybe_integer(value)


def _maybe(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


_maybe_integer = _maybe(_integer)


def _several(check: Check) -> Check:
    def checked(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple:
            raise WireError(f"no list: {value!r:.50}")
        return tuple([check(item) for item in value])

    return checked


def _one_of(kind: type[Any]) -> Check:
    members = {int(member): member for member in kind}

    def checked(value: Any) -> Any:
        if type(value) is not int or value not in members:
            raise WireError(f"no {kind.__name__}: {value!r:.50}")
        return members[value]

    return checked


def _record(kind: Callable[..., T], *shape: Check) -> Callable[[Any], T]:
    return lambda value: kind(*_fields(value, shape))


def _fields(value: Any, shape: Sequence[Check]) -> list[Any]:
    if type(value) is not tuple or len(value) != len(shape):
        raise WireError(f"not the {len(shape)} fields that belong here: {value!r:.50}")
    return [check(item) for check, item in zip(shape, value, strict=True)]


def _members(value: Any) -> Members:
    try:
        members = Members.decode(_blob(value))
    except ValueError as error:
        raise WireError(str(error)) from None
    for node in (*members.voters, *members.learners):
        _node(node)
    return members


# --- what each kind is made of -------------------------------------------------------------------------------------

_ENTRY = (_number, _one_of(EntryKind), _blob)


def _entry(value: Any) -> bytes | list[Any]:
    """The bytes of a command of the message's term, or (term, kind, data)."""
    return value if type(value) is bytes else _fields(value, _ENTRY)


# From the term on: who sent a message to whom, the connection knows.
_MESSAGES: Final[dict[type[Message], tuple[Check, ...]]] = {
    messages.PreVote: (_number, _number, _number),
    messages.PreVoteReply: (_number, _flag),
    messages.Vote: (_number, _number, _number, _flag),
    messages.VoteReply: (_number, _flag),
    messages.Append: (_number, _number, _number, _integer, _several(_entry)),
    messages.AppendReply: (_number, _flag, _number, _number, _number),
    messages.Heartbeat: (_number, _number, _number),
    messages.HeartbeatReply: (_number, _number),
    messages.SnapshotChunk: (_number, _number, _number, _members, _number, _number, _blob),
    messages.SnapshotReply: (_number, _number, _number),
    messages.TimeoutNow: (_number,),
    messages.ReadRequest: (_number, _number),
    messages.ReadReply: (_number, _number, _number),
}
_MESSAGE_KINDS: Final = [(kind, _MESSAGES[kind]) for kind in MESSAGES]
_MESSAGE_NUMBERS: Final = {
    kind: (number, attrgetter(*(field.name for field in fields(kind)))) for number, kind in enumerate(MESSAGES)
}
_MAY_BE_ZERO: Final[dict[type[Message], int]] = {messages.AppendReply: 2, messages.Heartbeat: 1}
"""So many fields at the end are left out when they are 0."""

# The order is part of the format: only ever add at the end.
_COMMANDS: Final[dict[type[Command], tuple[Check, ...]]] = {
    protocol.Read: (_text, _maybe_integer),
    protocol.Check: (_text, _integer),
    protocol.Write: (_text, _data_or_splice, _maybe_integer, _ttl, _op),
    protocol.Add: (_text, _integer, _integer, _op),
    protocol.Delete: (_text, _maybe_integer, _op),
    protocol.Expire: (_text, _maybe_integer, _op),
    protocol.Find: (_text, _op),
    protocol.Scan: (_text, _text, _number, _flag),
    protocol.Acquire: (_text, _text, _integer, _integer, _text),
    protocol.Renew: (_text, _text, _integer, _integer),
    protocol.Release: (_text, _text, _integer, _integer),
    protocol.Inspect: (_text,),
    protocol.Break: (_text, _integer),
    protocol.ScanLeases: (_text, _text, _number),
}
_COMMAND_KINDS: Final = list(_COMMANDS.items())
_COMMAND_NUMBERS: Final = {
    kind: (number, [attrgetter(field.name) for field in fields(kind)]) for number, kind in enumerate(_COMMANDS)
}

_ROW = _record(Row, _text, _integer, _number, _maybe_integer, _maybe(_data))
_LEASE = _record(LeaseInfo, _text, _text, _integer, _integer, _integer, _text, _several(_text))


def _page_row(value: Any) -> Row | LeaseInfo:
    return _ROW(value) if type(value) is tuple and len(value) == len(Row._fields) else _LEASE(value)


_REPLY: Final[tuple[Check, ...]] = (
    _one_of(protocol.Status), _maybe(_data), _integer, _maybe_integer, _flag, _integer, _several(_page_row),
    _text, _maybe(_LEASE),
)  # fmt: skip
_DEFAULTS: Final = (None, *(Reply._field_defaults[field] for field in Reply._fields[1:]))
"""Of a reply's fields; the status has none."""
_NOTICE = _record(
    Notice, _text, _integer, _integer, _one_of(Patch), _maybe(_data), _maybe(_splice), _maybe_integer
)  # fmt: skip
_WAKE = _record(Wake, _text, _text)


# --- encoding and decoding -----------------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """A message of the core, without its `sender` and `to`, half of a small one: the connection tells."""
    number, get = _MESSAGE_NUMBERS[type(message)]
    values = [number, *get(message)[2:]]
    if type(message) is messages.Append:
        values[-2:] = (
            message.prev_index - message.commit,
            [_short_entry(entry, message.term) for entry in message.entries],
        )
    for _ in range(_MAY_BE_ZERO.get(type(message), 0)):
        if values[-1]:
            break
        values.pop()
    packed: bytes = msgpack.packb(values, default=_plain)
    return packed


def _short_entry(entry: Entry, term: int) -> bytes | tuple[Any, ...]:
    if entry.term == term and entry.kind is EntryKind.COMMAND:
        return entry.data
    return entry.term, entry.kind, entry.data


def decode_message(data: bytes, sender: str, to: str) -> Message:
    """What came over a connection with the node `sender` to this node, `to`. Raises `WireError`."""
    kind, shape, values = _kind(_unpacked(data), _MESSAGE_KINDS)
    if len(values) < len(shape):
        values += (0,) * min(len(shape) - len(values), _MAY_BE_ZERO.get(kind, 0))
    checked = _fields(values, shape)
    if kind is messages.Append:
        term, before, _, behind, entries = checked
        checked[-2:] = _number(before - behind), _whole_entries(entries, before + 1, term)
    return kind(sender, to, *checked)


def _whole_entries(entries: Sequence[bytes | list[Any]], first: int, term: int) -> tuple[Entry, ...]:
    _number(first + len(entries))
    return tuple(
        Entry(index, term, EntryKind.COMMAND, entry) if isinstance(entry, bytes) else Entry(index, *entry)
        for index, entry in enumerate(entries, first)
    )


def encode_commands(commands: Sequence[Command]) -> bytes:
    """A batch. Deterministic: equal commands are equal bytes."""
    return _packed([_command_fields(command) for command in commands])


def decode_commands(data: bytes) -> list[Command]:
    """Raises `WireError`. Whether the commands may stand in one batch is the store's to check."""
    return [_command(item) for item in _list(data)]


def encode_replies(replies: Iterable[Reply]) -> bytes:
    return _packed([_short_reply(reply) for reply in replies])


def decode_replies(data: bytes) -> list[Reply]:
    """Raises `WireError`."""
    return [_reply(item) for item in _list(data)]


def encode_events(events: Iterable[Notice | Wake]) -> bytes:
    return _packed(list(events))


def decode_events(data: bytes) -> list[Notice | Wake]:
    """Raises `WireError`."""
    short = len(Wake._fields)
    return [_WAKE(item) if type(item) is tuple and len(item) == short else _NOTICE(item) for item in _list(data)]


def _short_reply(reply: Reply) -> tuple[Any, ...]:
    end = len(reply)
    while end > 1 and reply[end - 1] == _DEFAULTS[end - 1]:
        end -= 1
    return reply[:end]


def _reply(value: Any) -> Reply:
    if type(value) is not tuple or not 0 < len(value) <= len(_REPLY):
        raise WireError(f"no reply: {value!r:.50}")
    return Reply(*[check(item) for check, item in zip(_REPLY, value, strict=False)])


def short_space(space: str) -> str | None:
    return None if space == USUAL_SPACE else space


def whole_space(short: str | None) -> str:
    return USUAL_SPACE if short is None else short


def _plain(value: object) -> object:
    """For what msgpack does not know."""
    if type(value) is Members:
        return value.encode()
    raise TypeError(f"{value!r:.50} has no place on the wire")


def _command_fields(command: Command) -> list[Any]:
    number, getters = _COMMAND_NUMBERS[type(command)]
    values = [get(command) for get in getters]
    return [number, *(False if value is KEEP else value for value in values)]


def _command(item: Any) -> Command:
    kind, shape, values = _kind(item, _COMMAND_KINDS)
    return kind(*_fields(values, shape))


def _kind(item: Any, kinds: Sequence[tuple[type[T], tuple[Check, ...]]]) -> tuple[type[T], Any, Any]:
    """Splits `(number, field ...)` into the kind, its shape and the fields."""
    if type(item) is not tuple or not item:
        raise WireError(f"not a kind and its fields: {item!r:.50}")
    number = item[0]
    if type(number) is not int or not 0 <= number < len(kinds):
        raise WireError(f"unknown kind {number!r:.50}")
    kind, shape = kinds[number]
    return kind, shape, item[1:]


def _list(data: bytes) -> tuple[Any, ...]:
    items = _unpacked(data)
    if type(items) is not tuple:
        raise WireError(f"no list: {items!r:.50}")
    return items


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpacked(data: bytes) -> Any:
    if len(data) > MAX_SIZE:
        raise WireError(f"{len(data)} bytes; at most {MAX_SIZE} are decoded")
    try:
        return msgpack.unpackb(data, use_list=False, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise WireError(f"no msgpack: {error}") from None
