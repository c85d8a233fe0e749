"""What travels by NOTIFY: channels and payloads. Pure.

Names are spread over 16 channels per key prefix, so that a listener hears little of what it did not ask for and a
watcher of everything needs but 16. A process has a channel of its own for wakes and for the canary of its listener.

A payload is base64 (it must be text) of a msgpack array of items:

    [name, version, base, patch, body, left]    a notice; body: the integer or bytes, [start, end, bytes], or nil
    [name, owner]                               a wake
    [number]                                    a canary
    []                                          notices were lost: everything may have changed

A wake that give.sql sends is plain: the owner, a space, the name. There is no space in base64, nor in an owner.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgpack

from dref_django.protocol import Notice, Patch, Splice, Wake

BUCKETS: Final = 16
PAYLOAD_LIMIT: Final = 7999
"""Characters that PostgreSQL takes in one payload."""
_RAW_LIMIT: Final = PAYLOAD_LIMIT // 4 * 3 - 5
"""Bytes of items in one payload, without the array's head."""

Item: TypeAlias = Notice | Wake | None
"""None: notices were lost."""
Message: TypeAlias = tuple[str, str]
"""Channel and payload."""


class Channels:
    """The channels of one key prefix."""

    def __init__(self, space: str) -> None:
        self._stem = "dref_" + hashlib.sha256(space.encode()).hexdigest()[:12]
        self.nodes = f"{self._stem}_n"
        """What the channels of processes start with."""
        self.all = frozenset(f"{self._stem}_{bucket:x}" for bucket in range(BUCKETS))

    def of_name(self, name: str) -> str:
        return f"{self._stem}_{binascii.crc32(name.encode()) % BUCKETS:x}"

    def of_node(self, node: str) -> str:
        return f"{self.nodes}{hashlib.sha256(node.encode()).hexdigest()[:24]}"

    def of_owner(self, owner: str) -> str:
        return self.of_node(owner.partition("/")[0])

    def messages(self, items: Iterable[Item]) -> list[Message]:
        """As few payloads as hold these items, in their order within each channel."""
        packed: dict[str, list[bytes]] = {}
        pack: Callable[[object], bytes] = msgpack.Packer().pack
        for item in items:
            if item is None:
                for channel in self.all:
                    packed.setdefault(channel, []).append(pack([]))
            elif isinstance(item, Wake):
                packed.setdefault(self.of_owner(item.owner), []).append(pack([item.name, item.owner]))
            else:
                packed.setdefault(self.of_name(item.name), []).append(_pack(item, pack))
        return [(channel, payload) for channel, items in packed.items() for payload in _payloads(items)]


def _payloads(items: list[bytes]) -> Iterable[str]:
    start, size = 0, 0
    for place, item in enumerate(items):
        if size + len(item) > _RAW_LIMIT and place > start:
            yield _envelope(items[start:place])
            start, size = place, 0
        size += len(item)
    yield _envelope(items[start:])


def _envelope(items: list[bytes]) -> str:
    head: bytes = msgpack.Packer().pack_array_header(len(items))
    return binascii.b2a_base64(head + b"".join(items), newline=False).decode()


def canary(number: int) -> str:
    return _envelope([msgpack.packb([number])])


def _pack(notice: Notice, pack: Callable[[object], bytes]) -> bytes:
    name, version, base, patch, data, splice, left = notice
    body: Any = list(splice) if splice is not None else data
    packed = pack((name, version, base, int(patch), body, left))
    return packed if len(packed) <= _RAW_LIMIT else pack((name, version, base, int(Patch.HINT), None, left))


def shorten(notice: Notice) -> Notice:
    """The notice as a hint when its value is too large to travel along; nobody needs to keep it until then."""
    body = notice.splice.replacement if notice.splice else notice.data
    if isinstance(body, bytes) and len(body) > _RAW_LIMIT:
        return notice._replace(patch=Patch.HINT, data=None, splice=None)
    return notice


def parse(payload: str) -> list[Item | int]:
    """The items of a payload; an int is a canary. Raises ValueError when it is not one of ours."""
    owner, space, name = payload.partition(" ")
    if space and "/" in owner:  # every owner has one
        return [Wake(name, owner)]
    try:
        raw = msgpack.unpackb(binascii.a2b_base64(payload))
        if not isinstance(raw, list):
            raise ValueError("not an array of items")
        return [_item(*fields) for fields in raw]
    except (TypeError, msgpack.UnpackException, msgpack.ExtraData) as error:
        raise ValueError("a payload that this back end did not make") from error


def _item(*fields: Any) -> Item | int:
    match fields:
        case ():
            return None
        case (int(number),):
            return number
        case (str(name), str(owner)):
            return Wake(name, owner)
        case (str(name), int(version), int(base), int(patch), body, left):
            if isinstance(body, list):
                start, end, replacement = body
                return Notice(name, version, base, Patch(patch), None, Splice(start, end, replacement), left)
            return Notice(name, version, base, Patch(patch), body, None, left)
        case _:
            raise ValueError("an item of unknown shape")
