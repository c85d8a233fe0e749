"""How a node with an empty disk begins: it founds the cluster with others like it, or it joins one. Pure decisions.

A cluster is founded once, by `expect` nodes that see each other and nobody with a state. Each promises to found with
that very set, on disk and at most once in its life, and only when it has heard the same promise from all of them does
it found: as no node promises twice, no node is among the founders of two clusters, and all of them begin with the same
first entry. Whoever sees a node with a state joins instead. Of more founders than may vote the first do, by their ids,
and the others begin as learners; so all of them must be told the same number of voters.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgpack

from .core import Members

NOBODY: frozenset[str] = frozenset()


class News(NamedTuple):
    """What a node tells the others while a cluster forms."""

    has_state: bool
    sees: frozenset[str] = NOBODY
    """The nodes without a state that it can talk to, itself included."""
    promised: frozenset[str] = NOBODY
    voters: int = 0
    """How many of them vote, as the settings of that node say."""

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb((self.has_state, sorted(self.sees), sorted(self.promised), self.voters))
        return packed

    @classmethod
    def decode(cls, data: bytes) -> News:
        """Raises ValueError."""
        try:
            has_state, sees, promised, voters = msgpack.unpackb(data)
            return cls(bool(has_state), _nodes(sees), _nodes(promised), int(voters))
        except (TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"no news of a node: {error}") from error


def _nodes(names: Any) -> frozenset[str]:
    if not all(isinstance(name, str) for name in names):
        raise ValueError("node ids are texts")
    return frozenset(names)


class Step(Enum):
    WAIT = "wait"
    PROMISE = "promise"
    """To these nodes; put it on disk before it is told."""
    FOUND = "found"
    """With these nodes as the first members."""
    JOIN = "join"
    """Start empty: the leader of the cluster that is there takes this node in."""


class Decision(NamedTuple):
    step: Step
    nodes: frozenset[str] = NOBODY
    why: str = ""
    """What is waited for, in words."""


def first_members(founders: frozenset[str], voters: int) -> Members:
    ordered = sorted(founders)
    return Members(frozenset(ordered[:voters]), frozenset(ordered[voters:]))


def decide(me: str, expect: int, voters: int, promised: frozenset[str], others: Mapping[str, News]) -> Decision:
    """`others`: the latest news of each node that can be talked to now; `promised`: by this node, or nobody."""
    if any(news.has_state for news in others.values()):
        return Decision(Step.JOIN)
    if promised:
        return _with_promise(me, voters, promised, others)
    for news in others.values():
        if me in news.promised and news.promised <= {me, *others}:
            return Decision(Step.PROMISE, news.promised)  # rather than a choice of its own, which may differ
    nodes = frozenset((me, *others))
    if len(nodes) < expect:
        return Decision(
            Step.WAIT, nodes, f"for {expect - len(nodes)} more of the {expect} nodes that found the cluster"
        )
    if len(nodes) > expect:
        nodes = frozenset(sorted(nodes)[:expect])
        if me not in nodes:
            return Decision(Step.WAIT, nodes, "for the cluster to be founded by others")
    if all(others[node].sees >= nodes for node in nodes - {me}):
        return Decision(Step.PROMISE, nodes)
    return Decision(Step.WAIT, nodes, "for the nodes that found the cluster to see each other")


def _with_promise(me: str, voters: int, promised: frozenset[str], others: Mapping[str, News]) -> Decision:
    members = first_members(promised, voters)
    for node in sorted(promised - {me}):
        if node in others and first_members(promised, others[node].voters) != members:
            why = f"but VOTERS is {others[node].voters} at {node} and {voters} here: give all nodes the same"
            return Decision(Step.WAIT, promised, why)
    missing = sorted(node for node in promised - {me} if node not in others or others[node].promised != promised)
    if not missing:
        return Decision(Step.FOUND, promised)
    torn = [node for node in missing if node in others and others[node].promised]
    if torn:
        why = f"but {', '.join(torn)} founds with others: stop one of the two, delete its DATA_DIR, start it again"
        return Decision(Step.WAIT, promised, why)
    return Decision(Step.WAIT, promised, f"for {', '.join(missing)}, with which it founds the cluster")
