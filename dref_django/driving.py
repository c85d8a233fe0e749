"""Generators that say what they want, and the two loops that get it for them: one blocks, the other awaits.

So what is to be done is written once, and knows nothing of threads or tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

W = TypeVar("W")
R = TypeVar("R")


def run(steps: Generator[W, Any, R], get: Callable[[W], Any]) -> R:
    """What `steps` return. What `get` raises is raised in them, at their `yield`."""
    try:
        wanted = next(steps)
        while True:
            try:
                found = get(wanted)
            except BaseException as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(found)
    except StopIteration as stop:
        result: R = stop.value
        return result


async def arun(steps: Generator[W, Any, R], get: Callable[[W], Awaitable[Any]]) -> R:
    """`run`, as part of the current task."""
    try:
        wanted = next(steps)
        while True:
            try:
                found = await get(wanted)
            except BaseException as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(found)
    except StopIteration as stop:
        result: R = stop.value
        return result
