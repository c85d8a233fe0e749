"""What waits to go into the log, and which of it shares an entry.

An entry costs the same on the wire, on the disk and in each node's memory whether it holds one request or many, so
requests that wait together go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from .calls import Answered
from .machine import Request, batch_entry

JOINT_REQUESTS: Final = 100
JOINT_BYTES: Final = 16 << 10
"""Requests that share an entry, at most; a larger one has its own."""


class Proposal(NamedTuple):
    answered: Answered
    request: Request | None = None
    entry: bytes = b""
    """In place of a request: an entry of its own."""

    @property
    def size(self) -> int:
        return len(self.entry if self.request is None else self.request.commands)


def grouped(proposals: Iterable[Proposal]) -> Iterator[list[Proposal]]:
    """The proposals of each entry, in order."""
    group: list[Proposal] = []
    size = 0
    for proposal in proposals:
        size += proposal.size
        if group and (
            proposal.request is None or group[0].request is None or len(group) == JOINT_REQUESTS or size > JOINT_BYTES
        ):
            yield group
            group, size = [], proposal.size
        group.append(proposal)
    if group:
        yield group


def entry_of(group: Sequence[Proposal], now: int) -> bytes:
    """One of `grouped`, as it is to be stamped."""
    requests = [proposal.request for proposal in group if proposal.request is not None]
    return batch_entry(now, requests) if requests else group[0].entry
