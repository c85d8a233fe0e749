"""Splices: the smallest single replacement that turns one byte string into another.

Codec-agnostic: common prefix and common suffix are cut off, what stands between is replaced. One field changed in a
100 KB value costs the bytes of that field. Every back end applies a splice natively (slices, string.sub, substring).
"""

from __future__ import annotations

from .protocol import Splice

SPLICE_OVERHEAD = 16
"""Bytes that start, end and framing of a splice cost; a splice must save more than that to be used."""


def make_splice(old: bytes, new: bytes) -> Splice | None:
    """The splice from `old` to `new`, or None when sending `new` whole is not larger."""
    shorter = min(len(old), len(new))
    start = _common_prefix(old, new, shorter)
    tail = _common_suffix(old, new, shorter - start)
    if len(new) - start - tail + SPLICE_OVERHEAD >= len(new):
        return None
    return Splice(start, len(old) - tail, new[start : len(new) - tail])


def apply_splice(old: bytes, splice: Splice) -> bytes:
    """The bytes after the splice. Raises ValueError when it does not fit `old`."""
    start, end, replacement = splice
    if not 0 <= start <= end <= len(old):
        raise ValueError(f"a splice of bytes {start} to {end} does not fit a value of {len(old)} bytes")
    return old[:start] + replacement + old[end:]


def _common_prefix(old: bytes, new: bytes, limit: int) -> int:
    """Bisection over slice comparisons: each is one memcmp, so 100 KB take microseconds, not a loop in Python."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_suffix(old: bytes, new: bytes, limit: int) -> int:
    low, high = 0, limit
    old_size, new_size = len(old), len(new)
    while low < high:
        middle = (low + high + 1) // 2
        if old[old_size - middle : old_size - low] == new[new_size - middle : new_size - low]:
            low = middle
        else:
            high = middle - 1
    return low
