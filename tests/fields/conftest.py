"""Rows in one database, their refs on one back end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.db import connections

from dref_django.backends import Backend
from dref_django.fields import DRefQuerySet
from dref_django.testing import isolate
from tests.fields.shop.models import Article
from tests.kinds import installed, make

PAIRS = [("default", "memory"), ("pg", "redis"), ("pg", "postgres"), ("default", "raft")]
"""Each database, and each back end."""


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Backend]]:
    database, kind = request.param
    options = {"DATABASE_ALIAS": database} if kind == "postgres" else None
    with installed(make(kind, request, options=options)) as backend:
        yield database, backend


@pytest.fixture
def database(pair: tuple[str, Backend]) -> str:
    return pair[0]


@pytest.fixture
def backend(pair: tuple[str, Backend]) -> Backend:
    return pair[1]


@pytest.fixture
def articles(database: str) -> DRefQuerySet[Article]:
    rows: Any = Article.objects.using(database)
    return cast(DRefQuerySet[Article], rows)


@pytest.fixture
def memory() -> Iterator[None]:
    """For what asks nothing of the back end."""
    with isolate():
        yield


@pytest_asyncio.fixture
async def asynchronous() -> AsyncIterator[None]:
    """The thread in which Django's a-methods run keeps no connection to a database that is about to be dropped."""
    yield
    await sync_to_async(connections.close_all)()
