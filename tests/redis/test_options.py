"""Where the connection comes from, and what the checks say about it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import django_redis
import pytest
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from dref_django.backends.base import Params
from dref_django.backends.redis import RedisBackend
from dref_django.backends.redis.options import Server
from dref_django.protocol import Add
from tests.redis.conftest import MakeBackend, command
from tests.servers import HasUrl, RedisServer

DJANGO_REDIS = "django_redis.cache.RedisCache"


def server_of(**options: Any) -> Server:
    return RedisBackend(Params(options=options)).server


def set_caches(settings: Any, **caches: dict[str, Any]) -> None:
    settings.CACHES = caches


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ULR": "redis://x"}, r"no option 'ULR'.*there are URL, CACHE_ALIAS"),
        ({"URL": "http://x"}, r"'http://x' is no Redis URL.*redis://host:6379/1"),
        ({"URL": "redis://x", "CACHE_ALIAS": "redis"}, "both URL and CACHE_ALIAS"),
        ({"CACHE_ALIAS": "none"}, "CACHES has no 'none'"),
        ({}, r"locmem.LocMemCache, no django-redis cache.*Set CACHE_ALIAS"),
        ({"URL": "redis://x", "MAX_CONNECTIONS": 0}, "MAX_CONNECTIONS.*from 1"),
        ({"URL": "redis://x", "MAX_CONNECTIONS": "5"}, "MAX_CONNECTIONS.*not '5'"),
        ({"URL": "redis://x", "WAIT_REPLICAS": -1}, "WAIT_REPLICAS.*from 0"),
        ({"URL": "redis://x", "CLUSTER": True, "WAIT_REPLICAS": 1}, "not on a cluster"),
        ({"URL": "redis://x/2", "CLUSTER": True}, "only database 0"),
        ({"URL": "redis://x", "CLUSTER": True, "DB": 2}, "only database 0"),
        ({"URL": "redis://x", "SENTINELS": "localhost"}, r"SENTINELS is a list of \(host, port\)"),
        ({"URL": "redis://x", "CLIENT_KWARGS": {"retry": 3}}, "may not set 'retry'"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=sentence):
        RedisBackend(Params(options=options))


def test_url_is_taken_apart() -> None:
    server = server_of(URL="rediss://me:secret@example.org:7000/3?ssl_cert_reqs=none")
    assert (server.tls, server.database, server.cluster) == (True, 3, False)
    assert server.arguments["username"] == "me"
    assert server.where == "Redis at rediss://example.org:7000/3"
    assert server_of(URL="unix:///run/redis.sock?db=2").where == "Redis at unix:///run/redis.sock?db=2"


def test_django_redis_alias_gives_the_parameters_and_not_its_pool(settings: Any) -> None:
    set_caches(
        settings,
        default={
            "BACKEND": DJANGO_REDIS,
            "LOCATION": ["rediss://primary:7000/1", "rediss://replica:7000/1"],
            "OPTIONS": {
                "USERNAME": "me",
                "PASSWORD": "secret",
                "SOCKET_TIMEOUT": 77,
                "CONNECTION_POOL_KWARGS": {"ssl_cert_reqs": "none", "max_connections": 7, "retry_on_timeout": True},
            },
        },
    )
    server = server_of()
    assert dict(server.arguments) == {
        "host": "primary",
        "port": 7000,
        "db": 1,
        **({"username": "me"} if django_redis.VERSION >= (7,) else {}),  # which did not know that option before
        "password": "secret",
        "ssl_cert_reqs": "none",
    }
    assert server.tls
    assert server_of(DB=5).database == 5


def test_sentinels_of_a_django_redis_alias_are_asked(settings: Any) -> None:
    set_caches(
        settings,
        default={
            "BACKEND": DJANGO_REDIS,
            "LOCATION": "redis://mymaster/2",
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
                "SENTINELS": [("one", 26379), ("two", 26379)],
                "SENTINEL_KWARGS": {"password": "s"},
                "PASSWORD": "secret",
            },
        },
    )
    server = server_of()
    assert (server.service, server.database) == ("mymaster", 2)
    assert server.sentinels == (("one", 26379), ("two", 26379))
    assert (dict(server.sentinel_arguments), server.arguments["password"]) == ({"password": "s"}, "secret")
    assert "host" not in server.arguments


def test_alias_leads_to_the_server(settings: Any, make_backend: MakeBackend, redis_server: HasUrl) -> None:
    set_caches(settings, fast={"BACKEND": DJANGO_REDIS, "LOCATION": redis_server.url})
    backend = make_backend(CACHE_ALIAS="fast", DB=1)
    assert backend.execute([Add("n", 1)])[0].data == 1
    assert make_backend().execute([Add("n", 1)])[0].data == 1  # database 0 is another one


def test_missing_package_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from django.core.exceptions import ImproperlyConfigured\n"
        "try:\n    import dref_django.backends.redis\n"
        "except ImproperlyConfigured as error:\n    print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'dref-django[redis]'" in answer.stdout


def by_id(messages: list[CheckMessage]) -> dict[str, CheckMessage]:
    return {str(message.id): message for message in messages}


def test_check_finds_nothing_where_all_is_well(make_backend: MakeBackend) -> None:
    with RedisServer() as server:
        assert make_backend(URL=server.url).check() == []


def test_check_warns_of_a_database_that_clear_would_empty(
    settings: Any, make_backend: MakeBackend, redis_server: HasUrl
) -> None:
    port = urlsplit(redis_server.url).port
    set_caches(
        settings,
        default={"BACKEND": DJANGO_REDIS, "LOCATION": redis_server.url},
        builtin={"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"redis://localhost:{port}/1"},
        other={"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    )
    shared = by_id(make_backend(CACHE_ALIAS="default").check())["dref.W021"]
    assert "'default'" in shared.msg
    assert "'DB': 1" in str(shared.hint)
    assert "'builtin'" in by_id(make_backend(CACHE_ALIAS="default", DB=1).check())["dref.W021"].msg
    assert "dref.W021" not in by_id(make_backend(CACHE_ALIAS="default", DB=2).check())


def test_check_warns_of_eviction_and_of_a_missing_append_only_file(make_backend: MakeBackend) -> None:
    with RedisServer(appendonly=False) as server:
        command(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        messages = by_id(make_backend(URL=server.url).check())
        assert set(messages) == {"dref.W022", "dref.I023"}
        assert "allkeys-lru" in messages["dref.W022"].msg


def test_check_reports_a_server_that_is_not_there(make_backend: MakeBackend) -> None:
    (message,) = make_backend(URL="redis://127.0.0.1:1/0").check()
    assert message.id == "dref.E020"
    assert "redis://127.0.0.1:1/0" in message.msg
