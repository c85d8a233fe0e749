"""Tells a torn write from a damaged write-ahead log of SQLite, before SQLite opens it.

SQLite takes a frame whose checksum is wrong for the end of its log and goes on from there without a word. After a
crash in the middle of a write that is right. When bits were flipped further up it silently takes back transactions
that were once durable, and a Raft node must not forget those.

Every transaction is synced before the next one is written, so what follows a wrong frame can belong to one unfinished
transaction at most. Two of them there (two commit marks, or one page twice: each transaction writes a page once)
prove damage. What cannot be told apart is damage within the very last transaction and a torn write of it.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

MAGIC: Final = 0x377F0682
"""With the lowest bit set when checksums are over big-endian words."""
VERSION: Final = 3007000
PAGE_SIZES: Final = frozenset(1 << power for power in range(9, 17))
_header = struct.Struct(">8I")
_frame = struct.Struct(">6I")
_MASK: Final = 0xFFFFFFFF

Sums = tuple[int, int]


class Frame(NamedTuple):
    page: int
    commit: int
    """Pages of the database after the transaction that this frame ends; 0 in its other frames."""
    salts: tuple[int, int]
    sums: Sums
    body: bytes
    """What the checksum covers: the first eight bytes of the frame's header, and the page."""


def find_damage(path: Path) -> str:
    """Says what is wrong with the write-ahead log at `path`; "" when SQLite may open it, or there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return ""
    with file:
        head = file.read(_header.size)
        if len(head) < _header.size or not file.read(1):
            return ""  # nothing was committed into it
        file.seek(_header.size)
        magic, version, page_size, _, *salts, first, second = _header.unpack(head)
        big = bool(magic & 1)
        sums = checksum(head[:-8], big, (0, 0))
        if magic & ~1 != MAGIC or version != VERSION or page_size not in PAGE_SIZES or sums != (first, second):
            return "its header is damaged"  # that was durable before anything was written after it
        return _find_two_transactions(_frames(file, page_size), (salts[0], salts[1]), sums, big)


def _find_two_transactions(frames: Iterator[Frame], salts: tuple[int, int], sums: Sums, big: bool) -> str:
    for number, frame in enumerate(frames, 1):
        sums = checksum(frame.body, big, sums)
        if frame.salts == salts and frame.sums == sums and frame.page:
            continue
        commits, pages = 0, set()
        for place, later in enumerate((frame, *frames)):
            # One flipped bit leaves one of the two salts as it was.
            if later.salts[0] != salts[0] and later.salts[1] != salts[1]:
                continue
            commits += bool(later.commit)
            if commits > 1 or later.page in pages:
                return f"frame {number} is damaged, and frame {number + place} was written long after it"
            pages.add(later.page)
    return ""


def _frames(file: BinaryIO, page_size: int) -> Iterator[Frame]:
    while len(data := file.read(_frame.size + page_size)) == _frame.size + page_size:
        page, commit, salt, other_salt, first, second = _frame.unpack_from(data)
        yield Frame(page, commit, (salt, other_salt), (first, second), data[:8] + data[_frame.size :])


def checksum(data: bytes, big: bool, sums: Sums) -> Sums:
    """SQLite's running checksum over pairs of 32-bit words."""
    words = array("I", data)
    if big == (sys.byteorder == "little"):
        words.byteswap()
    first, second = sums
    pairs = iter(words)
    for one, other in zip(pairs, pairs, strict=True):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second
