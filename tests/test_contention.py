"""Many writers on one ref: nothing lost, all finish; and what one process costs the server."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import redis
from asgiref.sync import async_to_sync

from dref_django import Conflict, Counter, DRef, refs
from dref_django.backends import Backend
from dref_django.backends.postgres import PostgresBackend
from dref_django.backends.redis import RedisBackend
from tests.crowd import Crowd, on_threads, update
from tests.scripted import PATIENCE


@pytest.fixture
def crowd(served_backend: Backend, request: pytest.FixtureRequest) -> Crowd:
    """Processes on the same back end as the test."""
    params = served_backend.params
    setting = {"BACKEND": "raft", "KEY_PREFIX": params.key_prefix, "OPTIONS": dict(params.options)}
    match served_backend:
        case RedisBackend():
            return Crowd({**setting, "BACKEND": "redis"}, {})
        case PostgresBackend():
            setting = {**setting, "BACKEND": "postgres", "OPTIONS": {"DATABASE_ALIAS": "pg"}}
            return Crowd(setting, {"DREF_TEST_POSTGRES_URL": url(served_backend, request)})
        case _:
            return Crowd(setting, {})


def url(backend: Backend, request: pytest.FixtureRequest) -> str:
    if "postgres" not in type(backend).__module__:
        return str(request.getfixturevalue("redis_server").url)
    server = str(request.getfixturevalue("postgres_server").url)
    return server.rpartition("/")[0] + "/" + str(backend.params.options["DATABASE_ALIAS"])


class TestManyWriters:
    @pytest.mark.usefixtures("any_backend")
    def test_updates_of_many_threads_are_all_there(self) -> None:
        on_threads(16, lambda _: update("n", 10))
        assert DRef("n", 0).get() == 160

    @pytest.mark.usefixtures("any_backend")
    async def test_updates_of_many_tasks_are_all_there(self) -> None:
        ref = DRef("n", 0)

        async def add(value: int) -> int:
            await asyncio.sleep(0)  # others run between reading and writing
            return value + 1

        async def work() -> None:
            for _ in range(5):
                await ref.aupdate(add)

        await asyncio.gather(*(work() for _ in range(20)))
        assert await ref.aget() == 100

    @pytest.mark.usefixtures("any_backend")
    def test_increments_and_updates_mix(self) -> None:
        counter = Counter("n")

        def work(number: int) -> None:
            for _ in range(20):
                if number % 2:
                    counter.increment()
                else:
                    counter.update(lambda value: value + 1)

        on_threads(8, work)
        assert counter.get() == 160

    @pytest.mark.usefixtures("any_backend")
    def test_one_of_many_creators_wins(self) -> None:
        wins: list[int] = []

        def create(number: int) -> None:
            if DRef("first", -1).set_if_absent(number):
                wins.append(number)

        on_threads(8, create)
        assert [DRef("first", -1).get()] == wins

    @pytest.mark.usefixtures("any_backend")
    def test_update_queues_after_a_few_conflicts_and_frees_the_queue(self) -> None:
        """The function that loses every race, since it writes in between itself, gets its turn and no more tries."""
        ref, calls = DRef("n", 0), 0

        def interfere(value: int) -> int:
            nonlocal calls
            calls += 1
            if calls <= refs.QUEUE_AFTER + 2:
                ref.set(value + 100)
            return value + 1

        ref.update(interfere)
        assert ref.get() == 100 * (refs.QUEUE_AFTER + 2) + 1
        with ref.edit(timeout=0) as draft:  # the lock of the queue is free again
            draft.value = 0

    @pytest.mark.usefixtures("any_backend")
    def test_editors_take_turns_with_updates(self) -> None:
        ref = DRef[list[int]]("list", [])

        def append(number: int) -> None:
            for _ in range(3):
                ref.update(lambda found: [*found, number])

        def edit(number: int) -> None:
            done = 0
            while done < 3:
                try:
                    with ref.edit() as draft:
                        draft.value.append(number)
                    done += 1
                except Conflict:
                    continue  # an update came between; editing again is the user's choice

        on_threads(4, lambda number: append(number) if number % 2 else edit(number))
        assert sorted(ref.get()) == sorted([*range(4)] * 3)

    @pytest.mark.timeout(120)
    def test_64_threads_in_4_processes_lose_nothing(self, crowd: Crowd) -> None:
        crowd.run([{"do": "update", "name": "n", "threads": 16, "times": 5}] * 4)
        assert DRef("n", 0).get() == 320


class TestOneProcess:
    @pytest.mark.parametrize("served_backend", ["redis", "postgres"], indirect=True)
    def test_500_watchers_share_one_listening_connection(
        self, served_backend: Backend, request: pytest.FixtureRequest
    ) -> None:
        before = listeners(served_backend, url(served_backend, request))
        streams = [Counter(f"n{number % 250}").changes(timeout=PATIENCE) for number in range(500)]
        for stream in streams:
            assert next(stream).value == 0
        Counter("n7").increment()
        assert next(streams[7]).value == next(streams[257]).value == 1
        assert listeners(served_backend, url(served_backend, request)) - before == 1

    @pytest.mark.usefixtures("any_backend")
    def test_a_loop_a_call_works_a_thousand_times(self) -> None:
        counter = Counter("n")
        for _ in range(1000):
            async_to_sync(counter.aincrement)()
        assert counter.get() == 1000

    @pytest.mark.usefixtures("any_backend")
    def test_threads_and_loops_work_at_once(self) -> None:
        counter = Counter("n")
        done = threading.Barrier(3)

        async def add() -> None:
            await asyncio.gather(*(counter.aincrement() for _ in range(50)))

        def work(job: Any) -> None:
            done.wait(PATIENCE)
            job()

        with ThreadPoolExecutor(3) as pool:
            jobs = [lambda: asyncio.run(add()), lambda: asyncio.run(add()), lambda: update("n", 50)]
            for each in [pool.submit(work, job) for job in jobs]:
                each.result()
        assert counter.get() == 150


def listeners(backend: Backend, where: str) -> int:
    """Connections to the server that listen."""
    if "postgres" in type(backend).__module__:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dref_django' AND query ~ '^LISTEN'"
        return _ask(where, sql)
    with redis.Redis.from_url(where) as client:
        return sum(1 for each in client.client_list() if int(each["sub"]) + int(each["psub"]) + int(each["ssub"]) > 0)


def _ask(where: str, sql: str) -> int:
    with psycopg.connect(where) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return int(row[0])
