"""Processes that run a few lines of a test's own on the test's back end, and talk to it in lines.

    with Child(program, backend) as child:
        child.hears("leads")                  # waits for `say("leads", ...)` and returns what else it said
        child.tell("resign")                  # the next of `orders()` there

The program finds `say`, `orders` and everything of `dref_django`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from dref_django.backends import Backend
from tests.processes import freeze, kill_family, thaw
from tests.servers import janitor

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0
BACKEND = "DREF_TEST_CHILD"
PREAMBLE = "from tests.children import join, orders, say\njoin()\nfrom dref_django import *\n"


class Child:
    """The process; killed at the end of the block if it has not ended."""

    def __init__(self, program: str, backend: Backend, environment: Mapping[str, str] | None = None) -> None:
        kind, params = type(backend), backend.params
        given = {
            "path": f"{kind.__module__}.{kind.__qualname__}",
            "key_prefix": params.key_prefix,
            "options": dict(params.options),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREAMBLE + program],
            cwd=ROOT,
            env={**os.environ, BACKEND: json.dumps(given), **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        janitor().watch_process(self._process.pid)
        self._said: list[list[Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._said.append(json.loads(line))
                self._news.notify_all()

    def hears(self, word: str, timeout: float = PATIENCE) -> list[Any]:
        """Waits until the child says `word`; what it said before is passed over. Returns the rest of that line."""
        with self._news:
            if not self._news.wait_for(lambda: any(said[0] == word for said in self._said), timeout):
                raise TimeoutError(f"the child never said {word!r}, but {self._said}")
            while (said := self._said.pop(0))[0] != word:
                pass
            return said[1:]

    def tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self) -> None:
        freeze(self.pid)

    def thaw(self) -> None:
        thaw(self.pid)

    def kill(self) -> None:
        kill_family(self.pid)

    def ends(self, timeout: float = PATIENCE) -> int:
        """Waits for its end by itself; returns the exit code."""
        return self._process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._process.wait(PATIENCE)
        janitor().forget_process(self.pid)
        self._reader.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


# --- in the child -------------------------------------------------------------------------------------------------


def join() -> None:
    """Sets Django up, and puts the back end of the test in the place of the default one."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    from django.db import connections

    django.setup()
    from dref_django import backends, conf

    given = json.loads(os.environ[BACKEND])
    if alias := given["options"].get("DATABASE_ALIAS"):
        connections.settings[alias] = {**connections.settings["pg"], "NAME": alias}
    params = backends.Params(key_prefix=given["key_prefix"], options=given["options"])
    backends.install("default", backends.make_backend(conf.Configuration(given["path"], params)))


def say(*words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def orders() -> Iterator[str]:
    for line in sys.stdin:
        yield line.strip()
