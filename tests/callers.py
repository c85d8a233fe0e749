"""One test for a method and its a-twin."""

from __future__ import annotations

import asyncio
from typing import Any

from dref_django.binding import BaseRef


class Caller:
    """Calls a method of a ref in this thread, or its a-twin on a loop."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self._runner = runner

    def __call__(self, ref: BaseRef[Any], method: str, *args: Any, **kwargs: Any) -> Any:
        if self._runner is None:
            return getattr(ref, method)(*args, **kwargs)
        return self._runner.run(getattr(ref, f"a{method}")(*args, **kwargs))
