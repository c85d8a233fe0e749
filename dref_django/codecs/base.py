"""What a codec is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Codec(Protocol):
    """Turns plain values into bytes and back, deterministically; one instance serves every thread.

    `encode` raises `InvalidValue` (or any exception, which is wrapped) for a value it cannot store. A codec need only
    store what JSON has: a typed ref hands it dict with str keys, list, str, int, float, bool and None. It may say with
    an attribute `natives` (a frozenset) which of bytes, datetime, date, time, timedelta, Decimal and UUID it stores
    itself, and with `any_keys = True` that its maps may have any hashable key.
    """

    @property
    def name(self) -> str: ...

    def encode(self, value: object) -> bytes: ...

    def decode(self, data: bytes) -> object: ...
