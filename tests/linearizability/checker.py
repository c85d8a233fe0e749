"""Is a history linearizable: can its operations be put into one order that the model allows and real time allows?

The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) in the just-in-time form of
Lowe ("Testing for linearizability", 2017), with his cache of (operations linearized, state) pairs, one key at a time
(linearizability is compositional: Herlihy and Wing, 1990). It goes through the operations in the order of their
returns. The earliest one not yet linearized is the frontier; what was called before the frontier returned may go
before it. Four things keep the search small, none of which loses a linearization:

- An operation that only observes, and fits the state, is linearized at once: it can stand in no one's way.
- An overwrite that nobody observes needs no place of its own. When it returns, and another overwrite was linearized
  since its call, it may be taken to have happened just before that one ("covered"). So an overwrite that is not the
  frontier is only worth linearizing when an operation that is not an overwrite comes right after it.
- Of operations with unknown outcome that are alike, the one called first is used first; and having used fewer
  of them in the same state is never worse.
- When an open operation needs a state that is not there, and nothing concurrent with it that is left can bring it
  about, the branch is given up.

Caveats: the problem is NP-complete, so a hard history ends in `CheckTimedOut`; with some 32 or more operations open on
one key at a time, mixed adds, writes and deletes are often that hard. Times that are equal count as
concurrent. Clocks must agree: real time is taken from the history as it stands.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .history import Operation
from .models import ANY, IMPOSSIBLE, Effect, Model

_NODES_BETWEEN_CLOCK_READS = 256
_LINES_OF_ORDER_SHOWN = 8


class CheckTimedOut(TimeoutError):
    """The search ended without a verdict."""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict. `linearizations` has an order for each key checked, up to and including the first key that fails;
    for that one, `failed_key`, it is the longest order found. `explanation` says in words what does not fit."""

    ok: bool
    linearizations: dict[str, tuple[Operation, ...]]
    explanation: str = ""
    failed_key: str | None = None


def check(model: Model, history: Iterable[Operation], timeout: float = 60.0) -> Result:
    """Check each key of a history against the model.

    `timeout` is in seconds, for the whole history; past it CheckTimedOut is raised. An operation that returned
    before it was called is a ValueError.
    """
    deadline = time.monotonic() + timeout
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.returned is not None and operation.returned < operation.called:
            raise ValueError(f"returned before it was called: {operation}")
        keys[operation.key].append(operation)
    linearizations: dict[str, tuple[Operation, ...]] = {}
    for key, operations in keys.items():
        search = _Search(model, operations)
        ok = search.run(deadline)
        linearizations[key] = search.linearization()
        if not ok:
            return Result(False, linearizations, f"key {key!r}: {search.explanation()}", key)
    return Result(True, linearizations)


# Which operations were linearized, newest first; True marks a covered overwrite.
_Trail: TypeAlias = "tuple[_Trail, Operation, bool] | None"


class _Node(NamedTuple):
    frontier: int  # index of the first required operation, by return, that is not linearized
    ahead: int  # bit i: required operation frontier + i is linearized
    used: int  # bit i: optional operation i is linearized
    state: Hashable
    covered_until: float  # overwrites called by then can be covered; minus infinity before the first overwrite
    unobserved: bool  # the state comes from an overwrite that was linearized early and not yet observed
    trail: _Trail


class _Search:
    def __init__(self, model: Model, operations: list[Operation]) -> None:
        self._model = model
        known = [operation for operation in operations if operation.returned is not None]
        self._required = sorted(known, key=_end)
        self._effects = [model.effect(operation) for operation in self._required]
        unknown = (operation for operation in operations if operation.returned is None)
        possible = (operation for operation in unknown if model.effect(operation) is not Effect.OBSERVES)
        self._optional = sorted(possible, key=lambda operation: operation.called)
        self._optional_calls = [operation.called for operation in self._optional]
        self._twin_before = _twins(self._optional)
        self._concurrent = _concurrent(self._required)
        self._before = [model.before(operation) for operation in self._required]
        self._sources = self._required_sources()
        self._optional_sources = [self._sources_among(self._optional, index) for index in range(len(known))]
        self._seen: defaultdict[Hashable, list[tuple[int, float]]] = defaultdict(list)
        self._best = _Node(0, 0, 0, model.initial, -math.inf, False, None)

    def run(self, deadline: float) -> bool:
        stack = [self._best]
        nodes = 0
        while stack:
            node = self._observe(stack.pop())
            if _progress(node) > _progress(self._best):
                self._best = node
            if node.frontier == len(self._required):
                return True
            if self._is_hopeless(node) or self._is_dominated(node):
                continue
            nodes += 1
            if nodes % _NODES_BETWEEN_CLOCK_READS == 0 and time.monotonic() > deadline:
                raise CheckTimedOut(f"no verdict after {nodes} nodes")
            stack.extend(reversed(list(self._successors(node))))
        return False

    def _required_sources(self) -> list[int]:
        """For each required operation, as bits: the ones changing the state to what it needs, and concurrent with it.

        Others cannot bring that state about between its call and its return.
        """
        sources = [0] * len(self._required)
        for first, seconds in enumerate(self._concurrent):
            for second in seconds:
                for source, reader in ((first, second), (second, first)):
                    if self._effects[source] is not Effect.OBSERVES and self._may_serve(self._required[source], reader):
                        sources[reader] |= 1 << source
        return sources

    def _sources_among(self, optional: list[Operation], reader: int) -> int:
        reach = bisect_right(self._optional_calls, _end(self._required[reader]))
        return sum(1 << index for index in range(reach) if self._may_serve(optional[index], reader))

    def _may_serve(self, source: Operation, reader: int) -> bool:
        before = self._before[reader]
        left = self._model.after(source)
        return before is None or left is ANY or left in before

    def _is_hopeless(self, node: _Node) -> bool:
        """Whether an open operation needs a state that is not there and that nothing left can bring about."""
        for index in self._open(node):
            before = self._before[index]
            if before is None or node.state in before:
                continue
            if self._sources[index] >> node.frontier & ~node.ahead or self._optional_sources[index] & ~node.used:
                continue
            return True
        return False

    def _is_dominated(self, node: _Node) -> bool:
        seen = self._seen[node.frontier, node.ahead, node.state, node.unobserved]
        for used, covered_until in seen:
            if used & ~node.used == 0 and covered_until >= node.covered_until:
                return True
        seen.append((node.used, node.covered_until))
        return False

    def _observe(self, node: _Node) -> _Node:
        """Linearize every open operation that only observes and fits the state."""
        settled = False
        while not settled and node.frontier < len(self._required):
            settled = True
            for index in self._open(node):
                operation = self._required[index]
                if self._effects[index] is not Effect.OBSERVES:
                    continue
                if self._model.step(node.state, operation) is IMPOSSIBLE:
                    continue
                at_frontier = index == node.frontier
                node = self._linearize(node, index, node.state, unobserved=False)
                if at_frontier:
                    settled = False
                    break
        return node

    def _successors(self, node: _Node) -> Iterator[_Node]:
        frontier = self._required[node.frontier]
        reached = _end(frontier)
        coverable = frontier.called <= node.covered_until and not node.unobserved
        if coverable and self._effects[node.frontier] is Effect.OVERWRITES:
            yield self._linearize(node, node.frontier, node.state, unobserved=False, covered=True)
        sources = self._sources[node.frontier]
        for index in sorted(self._open(node), key=lambda index: index != node.frontier and not sources >> index & 1):
            operation, effect = self._required[index], self._effects[index]
            overwrites = effect is Effect.OVERWRITES
            if effect is Effect.OBSERVES or (overwrites and node.unobserved):
                continue
            state = self._model.step(node.state, operation)
            if state is not IMPOSSIBLE:
                reach = reached if overwrites else node.covered_until
                yield self._linearize(node._replace(covered_until=reach), index, state, unobserved=overwrites)
        for index in range(bisect_right(self._optional_calls, reached)):
            yield from self._use(node, index, reached)

    def _use(self, node: _Node, index: int, reached: int) -> Iterator[_Node]:
        """Let an operation of unknown outcome take effect, unless it would have none or a twin should go first."""
        twin = self._twin_before[index]
        if node.used >> index & 1 or (twin is not None and not node.used >> twin & 1):
            return
        operation = self._optional[index]
        overwrites = self._model.effect(operation) is Effect.OVERWRITES
        state = self._model.step(node.state, operation)
        if state is IMPOSSIBLE or (node.unobserved if overwrites else state == node.state):
            return
        yield node._replace(
            used=node.used | 1 << index,
            state=state,
            covered_until=reached if overwrites else node.covered_until,
            unobserved=overwrites,
            trail=(node.trail, operation, False),
        )

    def _open(self, node: _Node) -> Iterator[int]:
        """The required operations that may come next, the frontier first."""
        yield node.frontier
        for index in self._concurrent[node.frontier]:
            if not node.ahead >> (index - node.frontier) & 1:
                yield index

    def _linearize(self, node: _Node, index: int, state: Hashable, *, unobserved: bool, covered: bool = False) -> _Node:
        frontier, ahead = node.frontier, node.ahead | 1 << (index - node.frontier)
        while ahead & 1:
            frontier, ahead, unobserved = frontier + 1, ahead >> 1, False
        trail = (node.trail, self._required[index], covered)
        return _Node(frontier, ahead, node.used, state, node.covered_until, unobserved, trail)

    def linearization(self) -> tuple[Operation, ...]:
        """The longest order found; the whole one after a search that succeeded."""
        steps: list[tuple[Operation, bool]] = []
        trail = self._best.trail
        while trail is not None:
            trail, operation, covered = trail
            steps.append((operation, covered))
        order: list[Operation] = []
        last_overwrite = 0
        for operation, covered in reversed(steps):
            if covered:
                order.insert(last_overwrite, operation)
                last_overwrite += 1
                continue
            if self._model.effect(operation) is Effect.OVERWRITES:
                last_overwrite = len(order)
            order.append(operation)
        return tuple(order)

    def explanation(self) -> str:
        """Where the longest order ends, and what stands in the way of a longer one."""
        node, order = self._best, self.linearization()
        frontier = self._required[node.frontier]
        others = [self._required[index] for index in self._open(node) if index != node.frontier]
        reach = bisect_right(self._optional_calls, _end(frontier))
        unknown = [self._optional[index] for index in range(reach) if not node.used >> index & 1]
        lines = [
            f"not linearizable: the longest order found has {_progress(node)} of the {len(self._required)} operations",
            f"that returned; it leaves the value {node.state!r}, where this one does not fit:",
            f"  {frontier}",
        ]
        lines += ["open at the same time:", *(f"  {operation}" for operation in others + unknown)]
        lines += ["last in the order:", *(f"  {operation}" for operation in order[-_LINES_OF_ORDER_SHOWN:])]
        return "\n".join(lines)


def _end(operation: Operation) -> int:
    if operation.returned is None:
        raise ValueError(f"the outcome is unknown: {operation}")
    return operation.returned


def _progress(node: _Node) -> int:
    return node.frontier + node.ahead.bit_count()


def _concurrent(required: list[Operation]) -> list[list[int]]:
    """For each operation, by return: the later-returning ones that were called before it returned."""
    ends = [_end(operation) for operation in required]
    concurrent: list[list[int]] = [[] for _ in required]
    for index, operation in enumerate(required):
        for earlier in range(index - 1, -1, -1):
            if ends[earlier] < operation.called:
                break
            concurrent[earlier].append(index)
    return concurrent


def _twins(optional: list[Operation]) -> list[int | None]:
    """For each operation of unknown outcome: the last one before it that does the same."""
    latest: dict[str, int] = {}
    before: list[int | None] = []
    for index, operation in enumerate(optional):
        deed = repr((operation.op, operation.args))
        before.append(latest.get(deed))
        latest[deed] = index
    return before
