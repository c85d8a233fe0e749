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
    - A learner that has caught up becomes a voter, while fewer than `voters` live: it takes the place of a dead one
      even where nobody may go before (the node that lost its disk, and comes back under a new id).
    """
    if status.role is not Role.LEADER or status.pending_change or status.transferring_to is not None:
        return None
    members = status.members
    dead = {node for node, peer in status.peers.items() if node not in reachable and peer.silent_ticks >= silent_ticks}
    for node in sorted(dead):
        if node in members.learners or (node in members.voters and len(members.voters) > FLOOR):
            return Remove(node)
    for node in sorted(reachable):
        if node not in members:
            return AddLearner(node)
    if len(members.voters - dead) < voters:
        for node in sorted(members.learners & set(can_vote)):
            if node in reachable and status.peers[node].caught_up:
                return Promote(node)
    return None
