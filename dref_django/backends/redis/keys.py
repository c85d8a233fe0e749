"""How names become Redis keys and channels. `docs/format.md` promises this to programs in other languages.

- An entry is `{prefix:name}`, a lease `{prefix:name}!`. The braces are the hash tag of Redis Cluster, so an entry and
  its lock share a slot. In names, `%`, `{` and `}` are written `%25`, `%7B`, `%7D`; no two names share a key.
- A name inside a group (`group`, U+001F, `name`) is `{prefix:group}:name`: all names of a group share a slot.
- `{prefix:}` tags what belongs to all of them: `{prefix:}layout`, `{prefix:}names`, `{prefix:}leases`.
- Channels carry the database's number, since Redis delivers what is published to all databases.

The prefix is percent-encoded, so prefixes of two projects cannot run into each other.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

GROUP_SEPARATOR = "\x1f"
ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})
KEYS_REMEMBERED = 10_000


def escape(name: str) -> str:
    return name.translate(ESCAPES)


def unescape(text: bytes) -> bytes:
    if b"%" not in text:
        return text
    return re.sub(rb"%(25|7B|7D)", lambda match: bytes([int(match[1], 16)]), text)


def escape_glob(text: str) -> str:
    """As a pattern of PSUBSCRIBE and MATCH, so that it stands for itself."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


class Keys:
    """The keys and channels of one key prefix in one database."""

    def __init__(self, key_prefix: str, database: int) -> None:
        prefix = quote(key_prefix, safe="")
        self.opening = f"{{{prefix}:"
        self._tag_opening = self.opening.encode()
        self.layout = f"{self.opening}}}layout".encode()
        self.names = f"{self.opening}}}names".encode()
        self.leases = f"{self.opening}}}leases".encode()
        self.channels = f"{prefix}@{database}:"
        self.wakes = f"{prefix}@{database}!wake:"
        self.canaries = f"{prefix}@{database}!canary:"
        # A dict of one's own would have to be bounded, too; ref names are mostly few and used again and again.
        self.entry = lru_cache(KEYS_REMEMBERED)(self._entry)
        self.lease = lru_cache(KEYS_REMEMBERED)(self._lease)
        self.channel = lru_cache(KEYS_REMEMBERED)(self._channel)

    def _entry(self, name: str) -> bytes:
        return self._key(name, "")

    def _lease(self, name: str) -> bytes:
        return self._key(name, "!")

    def _channel(self, name: str) -> bytes:
        return f"{self.channels}{name}".encode()

    def _key(self, name: str, mark: str) -> bytes:
        group, separator, rest = name.partition(GROUP_SEPARATOR)
        suffix = f":{escape(rest)}" if separator else ""
        return f"{self.opening}{escape(group)}}}{mark}{suffix}".encode()

    def tag(self, name: str) -> str:
        """What Redis Cluster computes the slot of `name` from."""
        return f"{self.opening[1:]}{escape(name.partition(GROUP_SEPARATOR)[0])}"

    def name(self, key: bytes, mark: bytes = b"") -> bytes | None:
        """The name (as UTF-8) whose entry, or with mark "!" lease, this key is; None when it is no such key."""
        if not key.startswith(self._tag_opening):
            return None
        tag, closed, suffix = key[len(self._tag_opening) :].partition(b"}")
        if not closed:
            return None
        if suffix == mark:
            return unescape(tag) or None
        if not suffix.startswith(mark + b":"):
            return None
        return unescape(tag) + GROUP_SEPARATOR.encode() + unescape(suffix[len(mark) + 1 :])

    def scan_pattern(self, prefix: str) -> bytes:
        """A pattern that all keys of names with that prefix match, and few others."""
        group, separator, rest = prefix.partition(GROUP_SEPARATOR)
        if not separator:
            return escape_glob(f"{self.opening}{escape(prefix)}").encode() + b"*"
        return (
            escape_glob(f"{self.opening}{escape(group)}}}").encode() + b"*" + escape_glob(escape(rest)).encode() + b"*"
        )
