"""Forks, loops and the end of a process: whose connection is whose, and how many there are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
from asgiref.sync import async_to_sync

from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.postgres.channels import parse
from dref_django.protocol import Add, Notice, Read
from tests.postgres.conftest import OP, Database, MakeBackend

ROOT = Path(__file__).resolve().parents[2]


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked child; returns its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def server_side(database: Database) -> set[int]:
    rows = database.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'dref_django'")
    return {pid for (pid,) in rows}


def test_child_starts_anew_and_leaves_the_parents_connections_alone(
    backend: PostgresBackend, database: Database
) -> None:
    backend.execute([Add("n", 1, op=OP)])
    backend.dispatcher.flush()
    before = server_side(database)

    def child() -> None:
        backend.after_fork()
        assert backend.execute([Add("n", 1, op=OP)])[0].data == 2
        assert backend.dispatcher.flush()
        backend.close()

    assert in_child(child) == 0
    assert backend.execute([Add("n", 1, op=OP)])[0].data == 3
    assert backend.dispatcher.flush()
    assert before & server_side(database) == before


def test_child_that_is_told_nothing_leaves_the_parents_connections_alone(
    backend: PostgresBackend, database: Database
) -> None:
    backend.execute([Add("n", 1, op=OP)])
    backend.dispatcher.flush()
    before = server_side(database)

    def child() -> None:
        assert backend.execute([Add("n", 1, op=OP)])[0].data == 2

    assert in_child(child) == 0
    assert in_child(lambda: None) == 0
    assert backend.execute([Read("n")])[0].data == 2
    assert before & server_side(database) == before


def test_thousand_loops_leave_one_connection(backend: PostgresBackend, database: Database) -> None:
    add = async_to_sync(backend.aexecute)
    for step in range(1000):
        add([Add("n", 1, op=step.to_bytes(8, "big"))])
    assert backend.execute([Read("n")])[0].data == 1000
    assert database.sessions() <= 2, "one for all loops, one that notifies"


def test_two_loops_and_threads_share_the_pool(make_backend: MakeBackend, database: Database) -> None:
    backend = make_backend(POOL_SIZE=2)

    async def work(name: str) -> None:
        await asyncio.gather(*(backend.aexecute([Add(name, 1, op=step.to_bytes(8, "big"))]) for step in range(50)))

    async def elsewhere() -> None:
        await asyncio.gather(asyncio.to_thread(asyncio.run, work("a")), work("b"), asyncio.to_thread(in_thread))

    def in_thread() -> None:
        for step in range(50):
            backend.execute([Add("c", 1, op=step.to_bytes(8, "big"))])

    asyncio.run(elsewhere())
    assert [reply.data for reply in backend.execute([Read("a"), Read("b"), Read("c")])] == [50] * 3
    assert database.sessions() <= 3


async def test_cancelled_operation_does_not_spoil_its_connection_for_the_next(
    make_backend: MakeBackend, database: Database
) -> None:
    backend = make_backend(POOL_SIZE=1)
    await backend.aexecute([Add("n", 1, op=OP)])
    async with await psycopg.AsyncConnection.connect(database.url) as other:
        await other.execute("SELECT 1 FROM dref_entry WHERE name = 'n' FOR UPDATE")
        task = asyncio.ensure_future(backend.aexecute([Add("n", 10, op=OP)]))
        while not database.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert (await backend.aexecute([Read("n")]))[0].data == 1


LAST_WORDS = """
import django; django.setup()
from dref_django.backends.base import Params
from dref_django.backends.postgres import PostgresBackend
from dref_django.protocol import Add
backend = PostgresBackend(Params(key_prefix={prefix!r}))
for step in range(300):
    backend.execute([Add("n", 1, op=step.to_bytes(8, "big"))])
"""
SETTINGS = """
from tests.settings import *
from tests.settings import postgres_alias
DATABASES = {{"default": postgres_alias({url!r})}}
"""


def test_process_that_ends_sends_its_last_notice(backend: PostgresBackend, database: Database, tmp_path: Path) -> None:
    (tmp_path / "last_words_settings.py").write_text(SETTINGS.format(url=database.url))
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "last_words_settings"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    with psycopg.connect(database.url, autocommit=True) as listener:
        listener.execute(f"LISTEN {backend.channels.of_name('n')}".encode())
        program = LAST_WORDS.format(prefix=backend.params.key_prefix)
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", program],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        heard: list[object] = []
        while not heard or not isinstance(heard[-1], Notice) or heard[-1].data != 300:
            heard += [item for each in listener.notifies(timeout=5, stop_after=1) for item in parse(each.payload)]
    assert len(heard) == 300
