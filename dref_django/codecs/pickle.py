"""The pickle codec, used only by a project that asks for it by name."""

from __future__ import annotations

import pickle
from typing import Final

from .refusal import Refused, a_kind
from .scalars import TEXT

PROTOCOL: Final = 5
"""Fixed, so that processes on different Python versions write the same bytes."""


class PickleCodec:
    """Any picklable value. Whoever can write to the back end can run code in every process that reads: trusted only.

    Not deterministic as the other codecs are: pickle writes sets in their hash order and objects by identity, so equal
    values may differ in their bytes and deltas may be larger. Other languages cannot read it.
    """

    name = "pickle"
    natives: Final[frozenset[type]] = frozenset(TEXT)
    any_keys: Final = True

    def encode(self, value: object) -> bytes:
        try:
            return pickle.dumps(value, protocol=PROTOCOL)
        except Exception as error:  # user classes may raise anything from their hooks
            raise Refused(f"cannot pickle {a_kind(value)}: {error}") from error

    def decode(self, data: bytes) -> object:
        try:
            value: object = pickle.loads(data)  # noqa: S301 -- the project asked for pickle by name
        except Exception as error:
            raise Refused(f"the stored {len(data)} bytes cannot be unpickled: {error}") from error
        return value
