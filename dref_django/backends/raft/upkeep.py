"""Which change of members the leader proposes next, if any: one at a time, as the cluster is now. Pure decisions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .core import AddLearner, Change, Promote, Remove, Role, Status

FLOOR: Final = 3
"""Voters below which nobody is removed for being silent."""


def next_change(
    status: Status, reachable: Collection[str], *, voters: int, silent_ticks: int, insisting: Collection[str] = ()
) -> Change | None:
    """`reachable`: the nodes with a connection; `insisting`: those, perhaps this one too, whose ROLE is "voter".

    - A dead voter, silent for `silent_ticks`, goes, while more than `FLOOR` stay; a dead learner always.
    - A node that is there and no member becomes a learner.
    - A learner that has caught up becomes a voter, while fewer than `voters` live: it takes the place of a dead one
      even where nobody may go before (the node that lost its disk, and comes back under a new id).
    - One that insists comes first, and takes the place of a voter that does not: it becomes a voter, the other goes,
      and is soon a learner again. So a majority is never smaller meanwhile. The leader itself is the last to go.
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
    return _next_voter(status, reachable, insisting, voters, len(members.voters - dead))


def _next_voter(
    status: Status, reachable: Collection[str], insisting: Collection[str], voters: int, living: int
) -> Change | None:
    members, me = status.members, status.node_id
    ready = [node for node in sorted(members.learners) if node in reachable and status.peers[node].caught_up]
    ready.sort(key=lambda node: node not in insisting)
    others = sorted(node for node in members.voters if node != me and node in reachable and node not in insisting)
    replaceable = [*others, *(() if me in insisting else (me,))]
    if ready and (living < voters or (living == voters and ready[0] in insisting and replaceable)):
        return Promote(ready[0])
    if living > voters and replaceable and members.voters & set(insisting):
        return Remove(replaceable[0])
    return None
