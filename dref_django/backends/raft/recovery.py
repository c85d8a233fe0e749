"""From a lost majority back to a cluster of one. Not consensus: whoever calls this knows that the others are gone."""

from __future__ import annotations

import secrets

from dref_django.exceptions import DRefError

from .core import Entry, EntryKind, HardState, Members
from .host import DATABASE
from .lock import HostLock
from .machine import Kind, plain_entry
from .options import Options
from .storage import Storage


class NotRecovered(DRefError):
    """This node cannot be made a cluster of one; the message says why. Nothing was changed."""


def recover(options: Options) -> str:
    """Makes this machine's node the only member, with all that its log has, under a new cluster id.

    The node must not run. Returns a sentence about what was done; raises `NotRecovered`, `StorageError`.
    """
    path = options.data_dir / DATABASE
    if not path.exists():
        raise NotRecovered(f"There is no node at {path}: nothing to recover from.")
    lock = HostLock.take(options.data_dir)
    if lock is None:
        raise NotRecovered(f"A process hosts the node at {options.data_dir}: stop all of them first.")
    with lock:
        storage = Storage.open(path, options.cluster)
        try:
            return _make_sole_member(storage)
        finally:
            storage.close()


def _make_sole_member(storage: Storage) -> str:
    node, term, last = storage.node_id, storage.hard_state.term + 1, storage.last_index
    if not last:
        raise NotRecovered(f"{storage.path} holds nothing yet: nothing to recover from.")
    members = Members(frozenset({node}))
    entries = (
        Entry(last + 1, term, EntryKind.MEMBERS, members.encode()),
        Entry(last + 2, term, EntryKind.COMMAND, plain_entry(Kind.RENAME, 0, secrets.token_hex(8))),
    )
    storage.save(HardState(term, "", storage.hard_state.commit), None, entries, None)
    return f"Node {node} is the only member now, with {last} entries, in term {term}. Delete DATA_DIR of all others."
