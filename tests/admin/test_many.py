"""100,000 refs."""

from __future__ import annotations

import time

import psycopg
import pytest
import redis
from django.db import connections
from django.test import Client

from dref_django import DRef
from dref_django.backends import Backend
from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.redis.keys import Keys
from tests.admin.conftest import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.alone]

COUNT = 100_000
LIMIT = 0.3
"""Seconds for the first page."""


ON_REDIS = """
for n = 0, ARGV[2] - 1 do
  local name = string.format('shop.n%06d', n)
  redis.call('HSET', ARGV[1] .. name .. '}', 'v', string.format('%.0f', 1700000000000000 + n), 'i', 1)
  redis.call('ZADD', KEYS[1], 0, name)
end
"""
ON_POSTGRES = """
INSERT INTO dref_entry (space, name, num, version, existed)
SELECT %s, 'shop.n' || to_char(n, 'FM000000'), 1, 1700000000000000 + n, true FROM generate_series(0, %s) AS n
"""


def fill(backend: Backend) -> None:
    """In one step on the server: 100,000 writes would take ten times as long."""
    if isinstance(backend, PostgresBackend):
        given = connections.settings[backend.address.alias]
        place = {"host": given["HOST"], "port": given["PORT"], "user": given["USER"], "dbname": given["NAME"]}
        with psycopg.connect(**place) as direct:
            direct.execute(ON_POSTGRES, (backend.params.key_prefix, COUNT - 1))
        return
    DRef("first", 0).set(1)  # from now on the server knows that the prefix is ours
    keys = Keys(backend.params.key_prefix, 0)
    with redis.Redis.from_url(backend.params.options["URL"]) as direct_:
        direct_.eval(ON_REDIS, 1, keys.names, keys.opening, COUNT)


@pytest.mark.parametrize("served_backend", ["redis", "postgres"], indirect=True)
def test_first_page_is_quick(served_backend: Backend, superuser: Client) -> None:
    fill(served_backend)
    DRef("first", 0).delete()
    took = []
    for _ in range(5):
        started = time.perf_counter()
        page = superuser.get(ROOT)
        took.append(time.perf_counter() - started)
        assert page.context["rows"][0]["ref"].name == "shop.n000000"
        assert page.context["branches"] == [("shop.", f"{ROOT}?q=shop.")]
    assert min(took) < LIMIT, took  # the best of them: the rest is what else this machine does
    following = superuser.get(page.context["following"])
    assert following.context["rows"][0]["ref"].name == "shop.n000050"
    leaf = superuser.get(ROOT, {"q": "shop.n09999"})
    assert len(leaf.context["rows"]) == 10
