"""Two back ends on one truth, as two processes have it, shared by a module."""

import secrets
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from dref_django.backends import Backend
from tests.kinds import make

Pair: TypeAlias = tuple[Backend, Backend]
MakePair: TypeAlias = Callable[[str], Pair]


@pytest.fixture(scope="module")
def make_pair(request: pytest.FixtureRequest) -> Iterator[MakePair]:
    made: dict[str, Pair] = {}

    def pair(kind: str) -> Pair:
        if kind not in made:
            prefix = secrets.token_hex(8)
            made[kind] = make(kind, request, prefix=prefix), make(kind, request, prefix=prefix)
        return made[kind]

    yield pair
    for pair_ in made.values():
        for backend in pair_:
            backend.close()
