"""Which change of members the leader proposes next, if any: one at a time, as the cluster is now. Pure decisions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .core import AddLearner, Change, Promote, Remove, Role, Status

FLOOR: Final = 3
"""Voters below which nobody is removed for being silent."""


def next_change(
    status: Status, reachable: Collection[str], *, voters: int, silent_ticks: int, can_vote: Collection[str] = ()
) -> Change | None:
    """`reachable`: the nodes with a connection; `can_vote`: those of them that may become voters.

    - A dead voter, silent for `silent_ticks`, goes, while more than `FLOOR` stay; a dead learner always.
    - A node that is there and no member becomes a learner.
    - A learner that has caught up becomes a voter, while there are fewer than `voters`.
    """
    if status.role is not Role.LEADER or status.pending_change or status.transferring_to is not None:
        return None
    members = status.members
    for node, peer in sorted(status.peers.items()):
        dead = node not in reachable and peer.silent_ticks >= silent_ticks
        if dead and (node in members.learners or (node in members.voters and len(members.voters) > FLOOR)):
            return Remove(node)
    for node in sorted(reachable):
        if node not in members:
            return AddLearner(node)
    if len(members.voters) < voters:
        for node in sorted(members.learners & set(can_vote)):
            if node in reachable and status.peers[node].caught_up:
                return Promote(node)
    return None
