"""Op ids: what proves, after a lost reply, that a mutation was applied (see `backends/delivery.py`)."""

from __future__ import annotations

import itertools
import os
import secrets

from .protocol import OP_ID_SIZE


def new_op_id() -> bytes:
    """Unique among all that can stand in one entry's ring: counted on from a random 64-bit number of this process."""
    return (next(_numbers) % 2**64).to_bytes(OP_ID_SIZE, "big")


def _count_anew() -> None:
    global _numbers
    _numbers = itertools.count(secrets.randbits(64))


_numbers: itertools.count[int]
_count_anew()
os.register_at_fork(after_in_child=_count_anew)
