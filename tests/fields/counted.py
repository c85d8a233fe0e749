"""How often a back end is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dref_django.backends import Backend


@contextmanager
def sent(backend: Backend) -> Iterator[list[Any]]:
    """The batches that are executed meanwhile."""
    batches: list[Any] = []
    execute = backend.execute

    def counted(commands: Any, **options: Any) -> Any:
        batches.append(commands)
        return execute(commands, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "execute", counted)
        yield batches
