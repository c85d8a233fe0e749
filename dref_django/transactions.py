"""Refs and database transactions."""

from __future__ import annotations

from contextlib import AbstractContextManager

from . import backends, conf


def join_transaction(using: str = conf.DEFAULT_ALIAS) -> AbstractContextManager[None]:
    """`with join_transaction(): ref.set(...)` makes ref operations part of the surrounding database transaction.

    Only on the postgres back end, inside `transaction.atomic()` of its database alias; raises `NotJoinable` on others.
    The change is committed or rolled back with that transaction; watchers hear of it after the commit. Reads have that
    transaction's isolation, serialization failures raise `Conflict`, nothing is retried, and `peek` is bypassed.
    """
    return backends.get_backend(using).joined()
