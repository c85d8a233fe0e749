"""The servers and the proxy that other tests stand on do what they say."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from django.core.cache import caches
from django.db import connections
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.processes import running, wait_until
from tests.proxy import TcpProxy
from tests.servers import PORTS, HasUrl, PostgresServer, RedisCluster, RedisServer, ServerError, own_ports

ROOT = Path(__file__).resolve().parent.parent


def plain_client(url: str, timeout: float = 5) -> redis.Redis:
    """A client that neither resends nor reconnects by itself."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,  # a pool would notice a cut connection and hand out a new one
        decode_responses=True,
    )


@contextmanager
def cluster_client(url: str) -> Iterator[Any]:
    """On leaving, its connections are closed, which `close()` does not do."""
    client: Any = redis.RedisCluster.from_url(url, decode_responses=True)
    try:
        yield client
    finally:
        client.disconnect_connection_pools()
        client.close()


def test_parallel_processes_are_given_different_ports_and_none_soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    for worker in ("gw0", "gw1", "gw2"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        ports = own_ports()
        given += [next(ports) for _ in range(len(PORTS) // 3)]
    assert sorted(given) == list(PORTS)


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", own_redis.port) as between:
        yield between


@pytest.fixture
def client(proxy: TcpProxy, own_redis: RedisServer) -> Iterator[redis.Redis]:
    """Connected through the proxy already."""
    with closing(plain_client(proxy.through(own_redis.url))) as connected:
        connected.ping()
        yield connected


@pytest.fixture
def direct(own_redis: RedisServer) -> Iterator[redis.Redis]:
    with closing(plain_client(own_redis.url)) as connected:
        connected.delete("n")
        yield connected


class TestRedisServer:
    def test_append_only_data_survives_kill_and_restart(self, own_redis: RedisServer, direct: redis.Redis) -> None:
        direct.set("kept", "1")
        port = own_redis.port
        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            direct.get("kept")
        own_redis.start()
        assert own_redis.port == port
        assert direct.get("kept") == "1"

    def test_without_append_only_a_restart_finds_nothing(self) -> None:
        with RedisServer(appendonly=False) as server:
            with closing(plain_client(server.url)) as client:
                client.set("lost", "1")
            server.kill()
            server.start()
            with closing(plain_client(server.url)) as client:
                assert client.get("lost") is None

    def test_password_is_in_the_url_and_asked_for(self) -> None:
        with RedisServer(appendonly=False, password="s3cret/@") as server:
            with closing(plain_client(server.url)) as client:
                assert client.ping()
            with pytest.raises(redis.AuthenticationError):
                plain_client(f"redis://127.0.0.1:{server.port}/0")

    def test_paused_server_keeps_connections_and_answers_after_resume(
        self, own_redis: RedisServer, direct: redis.Redis
    ) -> None:
        with closing(plain_client(own_redis.url, timeout=0.1)) as impatient:
            impatient.ping()
            own_redis.pause()
            try:
                with pytest.raises(redis.TimeoutError):
                    impatient.ping()
            finally:
                own_redis.resume()
        assert direct.ping()

    def test_wrong_option_ends_in_an_error_that_quotes_the_log(self) -> None:
        with pytest.raises(ServerError, match="no-such-option"), RedisServer(extra=["--no-such-option", "1"]):
            pass

    def test_a_taken_port_that_was_asked_for_is_an_error(self, own_redis: RedisServer) -> None:
        with pytest.raises(ServerError, match="in use"), RedisServer(port=own_redis.port):
            pass

    def test_close_leaves_neither_process_nor_directory(self) -> None:
        with RedisServer() as server:
            pid, directory = server.pid, server.dir
            assert directory.exists()
        assert not running(pid)
        assert not directory.exists()


class TestPostgresServer:
    def test_committed_data_survives_kill_and_restart(self, own_postgres: PostgresServer) -> None:
        with psycopg.connect(own_postgres.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        pids = own_postgres.pids
        assert len(pids) > 1
        own_postgres.kill()
        assert not any(map(running, pids))
        own_postgres.start()
        with psycopg.connect(own_postgres.url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
            assert connection.info.server_version // 10_000 == 17

    def test_stop_does_not_wait_for_clients(self, own_postgres: PostgresServer) -> None:
        with psycopg.connect(own_postgres.url) as connection:
            own_postgres.restart()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")

    def test_paused_server_answers_after_resume(self, own_postgres: PostgresServer) -> None:
        with psycopg.connect(own_postgres.url) as connection:
            own_postgres.pause()
            try:
                with pytest.raises(psycopg.errors.ConnectionTimeout):
                    psycopg.connect(own_postgres.url, connect_timeout=2)
            finally:
                own_postgres.resume()
            assert connection.execute("SELECT 1").fetchone() == (1,)


class TestRedisCluster:
    def test_values_spread_over_all_masters(self, redis_cluster: RedisCluster) -> None:
        with cluster_client(redis_cluster.url) as client:
            for n in range(60):
                client.set(f"spread:{n}", n)
            assert [client.get(f"spread:{n}") for n in range(60)] == [str(n) for n in range(60)]
        for node in redis_cluster.nodes:
            with closing(plain_client(node.url)) as single:
                assert single.dbsize() > 0

    def test_a_killed_node_rejoins(self) -> None:
        with RedisCluster(appendonly=True) as cluster:
            with cluster_client(cluster.url) as client:
                for n in range(30):
                    client.set(f"rejoin:{n}", n)
            cluster.nodes[1].kill()
            cluster.start()
            with cluster_client(cluster.url) as client:
                assert [client.get(f"rejoin:{n}") for n in range(30)] == [str(n) for n in range(30)]


class TestNothingIsLeftBehind:
    def test_killed_interpreter_leaves_neither_servers_nor_directories(self) -> None:
        program = (
            "import sys; from tests.servers import PostgresServer, RedisServer\n"
            "p, r = PostgresServer(fsync=False).start(), RedisServer().start()\n"
            "p.pause()\n"
            "print(p.dir, r.dir, *p.pids, *r.pids, flush=True); sys.stdin.read()"
        )
        started = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with started:
            assert started.stdout is not None
            *directories, first_pid, second_pid = self._fields(started.stdout.readline())
            started.kill()
        wait_until(lambda: not any(map(running, [first_pid, second_pid])), "the servers to end", 20)
        wait_until(lambda: not any(map(os.path.exists, directories)), "the directories to go", 20)

    @staticmethod
    def _fields(line: str) -> tuple[str, str, int, int]:
        postgres_dir, redis_dir, *pids = line.split()
        return postgres_dir, redis_dir, int(pids[0]), int(pids[-1])


class TestSessionServers:
    def test_cache_alias_points_at_the_redis_server(self, redis_server: HasUrl) -> None:
        caches["redis"].set("frame:cache", 1, timeout=10)
        with closing(plain_client(redis_server.url)) as client:
            assert client.exists(":1:frame:cache")

    @pytest.mark.django_db(databases=["default", "pg"])
    def test_pg_alias_points_at_the_test_database(self, postgres_server: HasUrl) -> None:
        with connections["pg"].cursor() as cursor:
            cursor.execute("SELECT current_database(), inet_server_port()")
            name, port = cursor.fetchone()
        assert name == connections["pg"].settings_dict["NAME"]
        assert name.startswith("test_")
        assert f":{port}/" in postgres_server.url


class TestTcpProxy:
    def test_forwards_in_both_directions(self, client: redis.Redis, direct: redis.Redis) -> None:
        client.set("big", "x" * 1_000_000)
        assert client.get("big") == direct.get("big") == "x" * 1_000_000

    def test_cut_ends_open_connections_and_serves_new_ones(self, proxy: TcpProxy, client: redis.Redis) -> None:
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert client.ping()
        assert proxy.connections == 1
        assert proxy.accepted == 2

    def test_refuse_turns_new_connections_away_until_accept(self, proxy: TcpProxy, client: redis.Redis) -> None:
        proxy.refuse()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port))
        proxy.accept()
        assert client.ping()

    def test_black_hole_swallows_requests_on_old_and_new_connections(
        self, proxy: TcpProxy, own_redis: RedisServer, client: redis.Redis, direct: redis.Redis
    ) -> None:
        proxy.blackhole()
        with pytest.raises(redis.TimeoutError):
            plain_client(proxy.through(own_redis.url), timeout=0.1)
        with socket.create_connection(("127.0.0.1", proxy.port)) as late:
            late.sendall(b"INCR n\r\n")
        wait_until(lambda: proxy.robbed == 2, "the proxy to swallow what both said", 5)
        assert direct.get("n") is None
        assert proxy.connections == 3  # two have hung up, and nobody was told
        proxy.heal()
        assert proxy.connections == 1  # bytes were lost on that connection only
        assert client.incr("n") == 1

    def test_black_hole_for_replies_lets_requests_through(
        self, proxy: TcpProxy, own_redis: RedisServer, direct: redis.Redis
    ) -> None:
        with closing(plain_client(proxy.through(own_redis.url), timeout=0.1)) as half_deaf:
            half_deaf.ping()
            proxy.blackhole(requests=False)
            with pytest.raises(redis.TimeoutError):
                half_deaf.incr("n")
            assert direct.get("n") == "1"
            proxy.heal()
            assert half_deaf.incr("n") == 2

    def test_dropped_reply_means_applied_but_not_acknowledged(
        self, proxy: TcpProxy, client: redis.Redis, direct: redis.Redis
    ) -> None:
        lost = proxy.drop_replies(matching=b"INCR")
        assert client.ping()
        assert not lost.is_set()
        with pytest.raises(redis.ConnectionError):
            client.incr("n")
        assert lost.is_set()
        assert direct.get("n") == "1"
        assert client.incr("n") == 2

    def test_dropped_request_never_reaches_the_server(
        self, proxy: TcpProxy, client: redis.Redis, direct: redis.Redis
    ) -> None:
        lost = proxy.drop_requests(matching=b"INCR")
        with pytest.raises(redis.ConnectionError):
            client.incr("n")
        assert lost.is_set()
        assert direct.get("n") is None
        assert client.incr("n") == 1

    def test_server_killed_behind_it_ends_the_client_connection(
        self, proxy: TcpProxy, own_redis: RedisServer, client: redis.Redis
    ) -> None:
        own_redis.kill()
        try:
            with pytest.raises(redis.ConnectionError):
                client.ping()
        finally:
            own_redis.start()
        assert client.ping()

    def test_postgres_commit_whose_reply_is_dropped_is_kept(self, own_postgres: PostgresServer) -> None:
        with psycopg.connect(own_postgres.url, autocommit=True) as observer:
            observer.execute("CREATE TABLE IF NOT EXISTS acknowledged (n int)")
            with TcpProxy("127.0.0.1", own_postgres.port) as proxy:
                with closing(psycopg.connect(proxy.through(own_postgres.url))) as connection:
                    connection.execute("INSERT INTO acknowledged VALUES (1)")
                    lost = proxy.drop_replies(matching=b"COMMIT")
                    with pytest.raises(psycopg.OperationalError):
                        connection.commit()
                    assert lost.is_set()
            assert observer.execute("SELECT count(*) FROM acknowledged").fetchone() == (1,)
