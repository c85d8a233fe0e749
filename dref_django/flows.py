"""Recipes are generators; two small runners drive them, one blocking, one asynchronous.

A recipe (update a ref, take a lock) is written once. It yields steps and gets their results:

- a command, or a list of commands: its reply, or the list of replies;
- `Call(function, args)`: what the user's function returns (the asynchronous runner awaits it when it is awaitable);
- `Pause(seconds, waker)`: True when the waker rang, False after `seconds`;
- `Await(future)`: the result of something under way on the background loop.

What the step raises is raised inside the recipe, at its `yield`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from django.core.exceptions import SynchronousOnlyOperation

from .backends.base import Params
from .driving import arun, run
from .exceptions import Unavailable
from .protocol import Command, Reply
from .waiting import Waker

R = TypeVar("R")


class Call(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()


class Pause(NamedTuple):
    seconds: float | None
    waker: Waker


class Await(NamedTuple):
    future: concurrent.futures.Future[Any]
    what: str
    """Named in the error when it takes longer than the back end's time limit."""


Step: TypeAlias = Command | Sequence[Command] | Call | Pause | Await
Flow: TypeAlias = Generator[Step, Any, R]


class Executor(Protocol):
    """What a flow's commands go to: a back end, or a transaction that stands in for one."""

    @property
    def params(self) -> Params: ...

    def execute(self, commands: Sequence[Command]) -> list[Reply]: ...

    async def aexecute(self, commands: Sequence[Command]) -> list[Reply]: ...


def drive(backend: Executor, flow: Flow[R]) -> R:
    """Runs the recipe in the calling thread. Raises `SynchronousOnlyOperation` inside a running event loop."""
    refuse_running_loop()
    return run(flow, partial(_perform, backend))


async def adrive(backend: Executor, flow: Flow[R]) -> R:
    """Runs the recipe as part of the current task."""
    return await arun(flow, partial(_aperform, backend))


def refuse_running_loop() -> None:
    if asyncio._get_running_loop() is not None and not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise SynchronousOnlyOperation(
            "This call blocks and cannot be made from inside a running event loop. "
            "Await its a-twin (aget, aset, aupdate ...), or wrap it in sync_to_async."
        )


def _perform(backend: Executor, step: Step) -> Any:
    match step:
        case Call(function, args):
            return function(*args)
        case Pause(seconds, waker):
            return waker.wait(seconds)
        case Await(future, what):
            try:
                return future.result(backend.params.timeout)
            except concurrent.futures.TimeoutError:
                future.cancel()
                raise _late(backend, what) from None
        case list() | tuple():
            return backend.execute(step)
        case _:
            return backend.execute([step])[0]  # type: ignore[list-item]


async def _aperform(backend: Executor, step: Step) -> Any:
    match step:
        case Call(function, args):
            result = function(*args)
            return await result if inspect.isawaitable(result) else result
        case Pause(seconds, waker):
            return await waker.await_(seconds)
        case Await(future, what):
            try:
                async with asyncio.timeout(backend.params.timeout):
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                raise _late(backend, what) from None
        case list() | tuple():
            return await backend.aexecute(step)
        case _:
            return (await backend.aexecute([step]))[0]  # type: ignore[list-item]


def _late(backend: Executor, what: str) -> Unavailable:
    params = backend.params
    return Unavailable(f"DREF_BACKENDS[{params.alias!r}]: {what} took longer than TIMEOUT ({params.timeout:g} s).")
