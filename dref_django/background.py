"""The process's one background event loop: listeners, dispatchers and hubs run on it, user code never does.

It lives on a daemon thread that starts with its first use, never at import. After a fork the child has none until it
asks for one. At interpreter exit the loop is stopped in a bounded time.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STOP_TIMEOUT = 2.0
"""Seconds that the loop's tasks get to end when the interpreter exits."""

_mutex = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_farewells: list[Callable[[], None]] = []
_last: list[Callable[[], None]] = []


def get_loop() -> asyncio.AbstractEventLoop:
    """The background loop, started when it is not running yet. Any thread may call this."""
    global _loop, _thread
    loop = _loop
    if loop is not None:
        return loop
    with _mutex:
        if _loop is None:
            loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_run, args=(loop,), name="dref-background", daemon=True)
            _thread.start()
            _loop = loop
        return _loop


def submit(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Runs the coroutine on the background loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, get_loop())


def on_loop() -> bool:
    """Whether the caller runs on the background thread (where it must not block)."""
    return _thread is threading.current_thread()


def at_exit(farewell: Callable[[], None]) -> None:
    """Runs `farewell` at interpreter exit, in order of registration, before the loop is stopped. It must not block."""
    _farewells.append(farewell)


def at_end(last: Callable[[], None]) -> None:
    """Runs `last` at interpreter exit after the loop has stopped: for what farewells still need. It may block."""
    _last.append(last)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_TIMEOUT))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _stop() -> None:
    global _loop, _thread
    for farewell in _farewells:
        farewell()
    with _mutex:
        loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is not None and thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2 * STOP_TIMEOUT)
    for last in _last:
        last()


def _forget() -> None:
    """In a forked child: the thread is not there; the parent's loop is left alone, never closed."""
    global _loop, _thread, _mutex
    if _loop is not None:
        _graveyard.append(_loop)
    _mutex = threading.Lock()
    _loop = _thread = None


_graveyard: list[asyncio.AbstractEventLoop] = []
"""Of parents and grandparents. Collecting one would take its sockets out of the epoll that they still wait on."""
atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)
