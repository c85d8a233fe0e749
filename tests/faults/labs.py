"""A lab is one kind of server of a test's own, a proxy before it, and a door behind the library's back.

What a test asks is the same for every back end: kill the listeners, count the connections, change a value so that no
hint goes out, spoil an entry. How that is done is the lab's.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

import psycopg
import redis
from django.db import connections

from dref_django import backends, conf, migrations
from dref_django.backends.base import Params
from dref_django.backends.postgres.channels import Channels
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.redis.keys import Keys
from dref_django.protocol import Read
from tests.faults.driver import Program, Worker, program, run_python
from tests.proxy import TcpProxy
from tests.raft.clusters import ClusterServer
from tests.servers import PostgresServer, RedisServer
from tests.settings import postgres_alias

TIMEOUT = 1.0
"""Seconds of the back ends under test, unless the test says otherwise."""
HEARTBEAT = 0.3
NAMES = ("KEY_PREFIX", "TIMEOUT", "HEARTBEAT", "OPTIONS")


class Breakable(Protocol):
    """A server, or what stands for one, that keeps port and data through all that is done to it."""

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...

    def running(self) -> bool: ...
    def start(self) -> object: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Lab(ABC):
    """Of one test: the server may be shared by the tests of a run, key prefix and proxy are not."""

    kind: ClassVar[str]

    def __init__(self, server: Breakable, proxy: TcpProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.prefix = f"faults-{secrets.token_hex(6)}"
        self._workers: list[Worker] = []

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def proxied_url(self) -> str:
        return self.proxy.through(self.server.url)

    # --- processes and back ends --------------------------------------------------------------------------------

    def worker(self, *, proxied: bool = False, **settings: Any) -> Worker:
        """A new process that does what it is told; it ends with the test."""
        self._workers.append(Worker(self._environment(proxied, settings)))
        return self._workers[-1]

    def run_python(self, source: str, *, proxied: bool = False, **settings: Any) -> str:
        """Runs `source` in a process of the project; returns what it printed. It must end well, and in silence."""
        return run_python(source, self._environment(proxied, settings))

    def program(self, source: str, *, proxied: bool = False, **settings: Any) -> AbstractContextManager[Program]:
        """The same while it runs: inside the block it can be talked to, at the end of the block it must end well."""
        return program(source, self._environment(proxied, settings))

    def here(self, *, proxied: bool = True, **settings: Any) -> AbstractContextManager[str]:
        """A back end in this process; yields the alias for `using=`."""
        return self.here_at((self.proxy if proxied else self.server).port, **settings)

    @contextmanager
    def here_at(self, port: int, **settings: Any) -> Iterator[str]:
        """The same on another port of this host."""
        url = self.url.replace(f":{self.server.port}/", f":{port}/")
        alias = f"faults-{secrets.token_hex(4)}"
        values = {key.lower(): value for key, value in self._settings(url, settings).items() if key in NAMES}
        with self._reachable_here(url) as options:
            params = Params(alias=alias, **{**values, "options": {**values["options"], **options}})
            backend = backends.make_backend(conf.Configuration(conf.SHORT_NAMES[self.kind], params))
            backends.install(alias, backend)
            try:
                yield alias
            finally:
                backends.install(alias, None)
                backend.close()

    def _settings(self, url: str, given: Mapping[str, Any]) -> dict[str, Any]:
        own = {"BACKEND": self.kind, "KEY_PREFIX": self.prefix, "TIMEOUT": TIMEOUT, "HEARTBEAT": HEARTBEAT}
        upper = {key.upper(): value for key, value in given.items()}
        options = {**self._options(url), **upper.pop("OPTIONS", {})}
        return {**own, **upper, "OPTIONS": options}

    def _environment(self, proxied: bool, given: Mapping[str, Any]) -> dict[str, str]:
        url = self.proxied_url if proxied else self.url
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "DREF_FAULT_BACKEND": json.dumps(self._settings(url, given)),
            f"DREF_TEST_{self.kind.upper()}_URL": url,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONUNBUFFERED": "1",
        }

    @abstractmethod
    def _options(self, url: str) -> dict[str, Any]: ...

    @contextmanager
    def _reachable_here(self, url: str) -> Iterator[dict[str, Any]]:
        """Further OPTIONS with which a back end in this process finds the server."""
        yield {}

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    # --- behind the library's back ------------------------------------------------------------------------------

    @abstractmethod
    def connections(self) -> int:
        """How many connections of the library's the server has."""

    @abstractmethod
    def listeners(self) -> int:
        """How many of them listen."""

    @abstractmethod
    def kill_listeners(self) -> int:
        """Ends the listening connections from the server's side; returns how many."""

    small_pool: ClassVar[Mapping[str, int]]
    """OPTIONS for two connections, so that operations queue for them."""
    sends_again: ClassVar[bool] = False
    """Whether a change is sent again on its own when the connection is lost; the server knows it from the first time,
    however long ago that was."""

    @abstractmethod
    def first_change(self, name: str) -> bytes:
        """What only the request contains that makes a new entry."""

    @abstractmethod
    def number(self, name: str) -> int | None:
        """The integer that is stored."""


class ServerLab(Lab):
    """Of a server that is not ours: it has a connection for listening, and can be got at past the library."""

    listening: ClassVar[bytes]
    """What a client sends that begins to listen."""

    @abstractmethod
    def write_silently(self, name: str, number: int) -> None:
        """Stores a newer version of an integer; no hint goes out."""

    @abstractmethod
    def spoil(self, name: str, how: str) -> None:
        """Puts garbage where the entry of this name lies. `how` is one of `spoilings`."""

    spoilings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def shout(self, name: str, payload: bytes) -> None:
        """Sends garbage to those who listen to this name."""


class RedisLab(ServerLab):
    kind = "redis"
    small_pool = {"MAX_CONNECTIONS": 2}
    listening = b"SUBSCRIBE"
    server: RedisServer
    spoilings = ("string", "list", "no version", "version of letters", "integer of letters", "truncated", "ring")

    def _options(self, url: str) -> dict[str, Any]:
        return {"URL": url}

    def client(self) -> Any:
        connect: Any = redis.Redis.from_url
        return connect(self.server.url, decode_responses=True)

    def _clients(self) -> list[dict[str, str]]:
        with self.client() as client:
            own = str(client.client_id())
            return [each for each in client.client_list() if each["id"] != own]

    def connections(self) -> int:
        return len(self._clients())

    def listeners(self) -> int:
        return len(self._listening())

    def _listening(self) -> list[str]:
        return [each["id"] for each in self._clients() if int(each["sub"]) or int(each["psub"])]

    def watched(self, name: str) -> int:
        """How many connections listen to this name."""
        with self.client() as client:
            return int(client.pubsub_numsub(self._keys().channel(name))[0][1])

    def kill_listeners(self) -> int:
        listening = self._listening()
        with self.client() as client:
            for each in listening:
                client.client_kill_filter(_id=each)
        return len(listening)

    def _keys(self) -> Keys:
        return Keys(self.prefix, 0)

    def key(self, name: str) -> str:
        return self._keys().entry(name).decode()

    def first_change(self, name: str) -> bytes:
        return self._keys().names  # it is asked for by the short cut first, which does not know the index of names

    def write_silently(self, name: str, number: int) -> None:
        with self.client() as client:
            version = int(client.hget(self.key(name), "v") or 0) + 1
            client.hset(self.key(name), mapping={"v": version, "i": number})

    def number(self, name: str) -> int | None:
        with self.client() as client:
            stored = client.hget(self.key(name), "i")
        return None if stored is None else int(stored)

    def spoil(self, name: str, how: str) -> None:
        key = self.key(name)
        with self.client() as client:
            if how in ("string", "list"):
                client.delete(key)
                client.set(key, "garbage") if how == "string" else client.rpush(key, "garbage")
            elif how == "no version":
                client.hdel(key, "v")
            elif how == "version of letters":
                client.hset(key, "v", "garbage")
            elif how == "integer of letters":
                client.hdel(key, "b")
                client.hset(key, "i", "garbage")
            elif how == "truncated":
                client.hdel(key, "i", "b")
            elif how == "ring":
                client.hset(key, "r", "garbage")

    def shout(self, name: str, payload: bytes) -> None:
        with self.client() as client:
            assert client.publish(self._keys().channel(name), payload) > 0, "nobody heard it"


class PostgresLab(ServerLab):
    kind = "postgres"
    small_pool = {"POOL_SIZE": 2}
    listening = b"LISTEN"
    server: PostgresServer
    spoilings = ("not ours", "empty", "two values", "ring")

    @staticmethod
    def migrate(server: PostgresServer) -> None:
        """Makes the tables."""
        (folder,) = migrations.__path__
        with psycopg.connect(server.url) as connection:
            connection.execute(Path(folder, "postgres_0001.sql").read_bytes())

    def _options(self, url: str) -> dict[str, Any]:
        return {"DATABASE_ALIAS": "pg"}

    @contextmanager
    def _reachable_here(self, url: str) -> Iterator[dict[str, Any]]:
        alias = f"faults-{secrets.token_hex(4)}"
        known = connections.settings
        known[alias] = {**known["pg"], **postgres_alias(url)}
        try:
            yield {"DATABASE_ALIAS": alias}
        finally:
            del known[alias]

    def _ask(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.url) as connection:
            cursor = connection.execute(sql.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def connections(self) -> int:
        return self._count("true")

    def listeners(self) -> int:
        return self._count("query ~ '^(LISTEN|UNLISTEN|NOTIFY)'")

    def _count(self, condition: str) -> int:
        sql = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dref_django' AND {condition}"  # noqa: S608
        return int(self._ask(sql)[0][0])

    def kill_listeners(self) -> int:
        ended = self._ask(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'dref_django' AND query ~ '^(LISTEN|UNLISTEN|NOTIFY)'"
        )
        return len(ended)

    def first_change(self, name: str) -> bytes:
        return name.encode()

    def write_silently(self, name: str, number: int) -> None:
        self._ask(
            "UPDATE dref_entry SET num = %s, base = version, version = version + 1 WHERE space = %s AND name = %s",
            number,
            self.prefix,
            name,
        )

    def number(self, name: str) -> int | None:
        rows = self._ask("SELECT num FROM dref_entry WHERE space = %s AND name = %s", self.prefix, name)
        return rows[0][0] if rows else None

    def spoil(self, name: str, how: str) -> None:
        change = {
            "not ours": "num = NULL, data = '\\xc1c1c1'",
            "empty": "num = NULL, data = NULL",
            "two values": "num = 1, data = '\\xc1c1c1'",
            "ring": "ring = '\\x00010203'",
        }[how]
        sql = f"UPDATE dref_entry SET {change} WHERE space = %s AND name = %s"  # noqa: S608
        self._ask(sql, self.prefix, name)

    def shout(self, name: str, payload: bytes) -> None:
        self._ask("SELECT pg_notify(%s, %s)", Channels(self.prefix).of_name(name), payload.decode("latin-1"))


class RaftLab(Lab):
    """Processes under test are clients of a cluster of three nodes, each with a process of its own. One connection of
    a client is for everything; those who listen in a test are behind its proxy."""

    kind = "raft"
    small_pool: ClassVar[Mapping[str, int]] = {}
    sends_again = True
    server: ClusterServer

    def _options(self, url: str) -> dict[str, Any]:
        return self.server.options(urlsplit(url).port)

    def connections(self) -> int:
        return self.server.connections

    def listeners(self) -> int:
        return self.proxy.connections

    def kill_listeners(self) -> int:
        connections = self.proxy.connections
        self.proxy.cut()
        return connections

    def first_change(self, name: str) -> bytes:
        return name.encode()

    def number(self, name: str) -> int | None:
        params = Params("behind-the-back", self.prefix, options=self.server.options())
        with closing(RaftBackend(params)) as backend:
            number = backend.execute([Read(name)])[0].data
        assert not isinstance(number, bytes)
        return number
