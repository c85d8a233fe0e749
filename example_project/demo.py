"""Starts the demo: `python -m example_project.demo --backend memory|raft|redis|postgres [--port N] [--check]`.

On memory it is one process; on raft three processes on three ports, each a node of the cluster that they are; on redis
and postgres two processes on two ports, with a server of their own from a wheel.
Everything listens on 127.0.0.1 only, keeps its data in a temporary directory, and ends with Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import http.cookiejar
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self
from urllib.error import URLError
from urllib.parse import urlencode

from tests.processes import wait_until
from tests.servers import PostgresServer, RedisServer, free_port, janitor

from . import people

PROCESSES: Final = {"memory": 1, "raft": 3, "redis": 2, "postgres": 2}
DEFAULT_PORT: Final = 8000
READY_TIMEOUT: Final = 30.0  # seconds
STOP_TIMEOUT: Final = 10.0
ROOT: Final = Path(__file__).resolve().parent.parent


class DemoError(Exception):
    """The demo did not come up, or ended; the message says why."""


class Demo:
    """The demo's processes and their server. `ports` says where they listen; as a context manager it starts and ends.

    `port` is that of the first process, the second has the next one; None: free ones. What the processes print goes to
    `log`, by default to the terminal.
    """

    def __init__(self, backend: str, *, port: int | None = None, log: Path | None = None) -> None:
        self.backend = backend
        count = PROCESSES[backend]
        self.ports = [free_port() if port is None else port + index for index in range(count)]
        self._log = log
        self._nodes = [free_port() for _ in range(count)] if backend == "raft" else []
        self._environments: list[dict[str, str]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    @property
    def addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{port}/" for port in self.ports]

    def start(self) -> Self:
        try:
            directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dref-demo-"))
            environment = {
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "example_project.settings",
                "DREF_DEMO_BACKEND": self.backend,
                "DREF_DEMO_DIR": directory,
                "DREF_DEMO_PORTS": ",".join(map(str, self.ports)),
                "DREF_DEMO_SECRET": secrets.token_urlsafe(32),
                "DREF_DEMO_URL": self._start_server(),
            }
            self._environments = [
                {**environment, "DREF_DEMO_PORT": str(port), **self._node(directory, number)}
                for number, port in enumerate(self.ports)
            ]
            self._set_up(self._environments[0])
            self._processes += [self._serve(number) for number in range(len(self.ports))]
            for address in self.addresses:
                self._await(address)
        except BaseException:
            self.close()
            raise
        return self

    def kill(self, number: int) -> None:
        """Ends one process as a crash would, with whatever it holds."""
        process = self._processes[number]
        process.kill()
        process.wait(STOP_TIMEOUT)
        janitor().forget_process(process.pid)

    def restart(self, number: int) -> None:
        """Starts a killed process again, on its port."""
        self._processes[number] = self._serve(number)
        self._await(self.addresses[number])

    def _await(self, address: str) -> None:
        wait_until(lambda: self._answers(address), f"{address} to answer", READY_TIMEOUT)

    def _start_server(self) -> str:
        if self.backend == "redis":
            return self._stack.enter_context(RedisServer()).url
        if self.backend == "postgres":
            return self._stack.enter_context(PostgresServer()).url
        return ""

    def _node(self, directory: str, number: int) -> dict[str, str]:
        """What tells a process which node it is, and where the others are."""
        if not self._nodes:
            return {}
        return {
            "DREF_NODE_ADDRESSES": ",".join(f"127.0.0.1:{port}" for port in self._nodes),
            "DREF_PORT": str(self._nodes[number]),
            "DREF_DATA_DIR": str(Path(directory, f"node-{number}")),
        }

    def _set_up(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "example_project.people"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(f"The database could not be set up.\n{done.stdout}{done.stderr}")

    def _serve(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "example_project.asgi:application", "--host", "127.0.0.1"]
        command += ["--port", str(self.ports[number]), "--log-level", "warning", "--timeout-graceful-shutdown", "3"]
        output = None if self._log is None else self._stack.enter_context(self._log.open("ab"))
        # In a session of its own: Ctrl-C is for the parent, which then ends its children.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environments[number],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        janitor().watch_process(process.pid)
        return process

    def _answers(self, address: str) -> bool:
        self.check_running()
        try:
            with urllib.request.urlopen(f"{address}static/dref_django/dref.js", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def check_running(self) -> None:
        """Raises `DemoError` when a process has ended by itself."""
        for port, process in zip(self.ports, self._processes, strict=False):
            if process.poll() is not None:
                raise DemoError(f"The process on port {port} has ended (exit {process.returncode}).")

    def close(self) -> None:
        """Ends the processes, then their server, by their process ids."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT)
            janitor().forget_process(process.pid)
        self._processes.clear()
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Visitor:
    """Somebody who loads the page and presses its buttons over HTTP, without JavaScript."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))

    def load(self) -> str:
        with self._opener.open(self.address, timeout=READY_TIMEOUT) as answer:
            page: bytes = answer.read()
        return page.decode()

    def post(self, path: str, **fields: str) -> None:
        """`path` as in "click/". The page has to be loaded first, as its forms need its cookie."""
        token = next(cookie.value or "" for cookie in self._cookies if cookie.name == "csrftoken")
        headers = {"X-CSRFToken": token, "X-Requested-With": "fetch"}
        body = urlencode(fields).encode()
        request = urllib.request.Request(self.address + path, data=body, headers=headers, method="POST")  # noqa: S310
        self._opener.open(request, timeout=READY_TIMEOUT).close()


def check(demo: Demo) -> None:
    """Changes a ref through the first process and sees it on a websocket of the last. Raises when it does not come."""
    from websockets.sync.client import connect
    from websockets.typing import Origin

    visitors = [Visitor(address) for address in demo.addresses]
    for visitor in visitors:
        if "<dref-value" not in visitor.load():
            raise DemoError(f"{visitor.address} shows no value")
    address = demo.addresses[-1]
    url = address.replace("http", "ws", 1) + "dref/ws/"
    with connect(url, origin=Origin(address.removesuffix("/")), open_timeout=READY_TIMEOUT) as socket:
        socket.send(json.dumps({"type": "watch", "names": ["demo.clicks"]}))
        before = _next_value(socket)
        visitors[0].post("click/")
        after = _next_value(socket)
    if after != before + 1:
        raise DemoError(f"one click made {after} of {before}")


def _next_value(socket: Any) -> int:
    while True:
        message = json.loads(socket.recv(timeout=READY_TIMEOUT))
        if message["type"] == "error":
            raise DemoError(message["message"])
        if message["type"] == "snapshot":
            return int(json.loads(message["text"]))


def _announce(demo: Demo) -> None:
    where = " and ".join(demo.addresses)
    both = "Open them side by side" if len(demo.addresses) > 1 else "Open it twice, side by side"
    staff = f"{', '.join(people.RIGHTS)} or {people.SUPERUSER}"
    print(f"\n  The demo runs on the {demo.backend} back end:\n\n      {where}\n\n  {both}, and click. Ctrl-C ends it.")
    print(f"  The admin is at {demo.addresses[0]}admin/ for {staff}; the password is {people.PASSWORD}.\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description="Starts the demo.")
    parser.add_argument("--backend", choices=sorted(PROCESSES), default="raft")
    parser.add_argument("--port", type=int, help=f"of the first process; by default {DEFAULT_PORT}, or free ones")
    parser.add_argument("--check", action="store_true", help="start, see one change go through all of it, and end")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    try:
        with Demo(options.backend, port=options.port or _default_port(options)) as demo:
            if options.check:
                check(demo)
                print(f"checked: a change went from {demo.addresses[0]} to a websocket of {demo.addresses[-1]}")
                return 0
            _announce(demo)
            while not stop.wait(0.5):
                demo.check_running()
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _default_port(options: argparse.Namespace) -> int | None:
    """8000 and 8001, unless they are taken or nobody is going to type them."""
    import socket

    if options.check:
        return None
    for port in range(DEFAULT_PORT, DEFAULT_PORT + PROCESSES[options.backend]):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return None
    return DEFAULT_PORT


if __name__ == "__main__":
    sys.exit(main())
