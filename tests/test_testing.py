"""`dref_django.testing`: isolation in every shape a test may have, and the clock."""

from __future__ import annotations

import asyncio
import inspect
import threading
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.test import SimpleTestCase, TestCase, override_settings

from dref_django import Counter, DRef, Lock, LockLost, backends, lock
from dref_django.backends import Backend
from dref_django.backends.memory import MemoryBackend
from dref_django.protocol import Acquire, Command, LeaseInfo, Renew, Reply, Scan, ScanLeases
from dref_django.testing import IsolatedRefsMixin, ManualClock, isolate
from tests.kinds import installed, make
from tests.processes import wait_until
from tests.scripted import PATIENCE

pytest_plugins = ["pytester"]
counter = Counter("isolated")


@pytest.fixture(autouse=True)
def outer() -> Iterator[Backend]:
    """What the isolated code must not touch."""
    with installed(MemoryBackend(backends.Params())) as backend:
        counter.set(100)
        yield backend
        assert counter.get() == 100


class TestIsolate:
    def test_block_has_an_empty_back_end_of_its_own(self, outer: Backend) -> None:
        with isolate():
            assert backends.get_backend() is not outer
            assert counter.get() == counter.peek() == 0
            counter.increment()
            assert counter.peek() == 1
        assert backends.get_backend() is outer
        assert counter.get() == counter.peek() == 100

    def test_blocks_nest(self) -> None:
        isolation = isolate()
        with isolation:
            counter.set(1)
            with isolation:
                counter.set(2)
            assert counter.get() == 1

    def test_block_that_raises_restores(self) -> None:
        with pytest.raises(ZeroDivisionError), isolate():
            counter.set(1 // 0)

    def test_decorated_function_is_isolated_at_each_call(self) -> None:
        @isolate()
        def add(amount: int, *, twice: bool = False) -> int:
            """Adds."""
            return counter.increment(amount * 2 if twice else amount)

        assert add(3) == 3
        assert add(3, twice=True) == 6
        assert (add.__name__, add.__doc__) == ("add", "Adds.")

    def test_decorated_coroutine_function_is_isolated_at_each_call(self) -> None:
        @isolate()
        async def add(amount: int) -> int:
            await asyncio.sleep(0)
            return await counter.aincrement(amount)

        assert inspect.iscoroutinefunction(add)
        assert asyncio.run(add(3)) == asyncio.run(add(3)) == 3

    def test_block_inside_a_coroutine(self) -> None:
        async def add() -> int:
            with isolate():
                return await counter.aincrement()

        assert asyncio.run(add()) == 1

    def test_other_threads_are_isolated_too(self) -> None:
        found: list[int] = []
        with isolate():
            thread = threading.Thread(target=lambda: found.append(counter.increment()))
            thread.start()
            thread.join()
            assert counter.get() == 1
        assert found == [1]

    def test_every_alias_is_isolated_and_keeps_its_settings(self) -> None:
        fast = {"BACKEND": "memory", "MAX_VALUE_SIZE": 10, "CODEC": "json"}
        with override_settings(DREF_BACKEND=None, DREF_BACKENDS={"default": "memory", "fast": fast}), isolate():
            assert backends.get_backend("default") is not backends.get_backend("fast")
            params = backends.get_backend("fast").params
            assert (params.alias, params.max_value_size, params.codec) == ("fast", 10, "json")
        counter.set(100)

    def test_back_end_may_be_given_as_in_the_settings(self) -> None:
        with isolate({"BACKEND": "memory", "TIMEOUT": 1.5}):
            assert backends.get_backend().params.timeout == 1.5
            assert counter.get() == 0

    def test_locks_are_isolated(self, outer: Backend) -> None:
        outer.execute([Acquire("lock:report", "other/1", 30_000_000)])
        with isolate(), lock("report", timeout=0) as held:
            held.check()

    def test_open_streams_end_with_the_block(self) -> None:
        with isolate():
            stream = counter.changes()
            assert next(stream).value == 0
        assert list(stream) == []


class TestIsolateOnServers:
    @pytest.mark.parametrize("kind", ["redis", "postgres"])
    def test_settings_means_their_back_end_under_a_prefix_of_its_own(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        same = make(kind, request)
        setting = {"BACKEND": kind, "KEY_PREFIX": same.params.key_prefix, "OPTIONS": dict(same.params.options)}
        prefixes = []
        with override_settings(DREF_BACKEND=setting):
            counter.set(5)
            with isolate("settings"):
                isolated = backends.get_backend()
                assert type(isolated) is type(same)
                prefixes.append(isolated.params.key_prefix)
                assert counter.increment() == 1
                with lock("report"):
                    assert counter.peek() == 1
                isolated.execute([Acquire("kept", "other/1", 30_000_000)])
            assert counter.get() == 5
        same.close()
        left = make(kind, request, prefix=prefixes[0])
        assert [reply.page for reply in (*left.execute([Scan()]), *left.execute([ScanLeases()]))] == [(), ()]
        left.close()
        counter.set(100)

    @pytest.mark.django_db(databases=["default", "pg"])
    def test_settings_works_in_a_test_database(self) -> None:
        setting = {"BACKEND": "postgres", "OPTIONS": {"DATABASE_ALIAS": "pg"}}
        with override_settings(DREF_BACKEND=setting), isolate("settings"):
            assert counter.increment() == 1
            assert counter.peek() == 1
        counter.set(100)


def outcome(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun > 1
    assert not result.errors, result.errors
    assert not result.failures, result.failures
    return result


def case_that_counts(base: Any) -> Any:
    class Case(base):  # type: ignore[misc]
        def setUp(self) -> None:
            assert counter.increment() == 1

        def test_first(self) -> None:
            assert counter.increment() == 2

        def test_second(self) -> None:
            assert counter.increment() == 2

        def tearDown(self) -> None:
            assert counter.increment() == 3

    return Case


class TestClasses:
    @pytest.mark.parametrize("base", [unittest.TestCase, SimpleTestCase])
    def test_decorated_test_case_is_isolated_test_by_test_with_its_set_up(self, base: type[unittest.TestCase]) -> None:
        outcome(isolate()(case_that_counts(base)))

    @pytest.mark.parametrize("base", [unittest.TestCase, SimpleTestCase])
    def test_mixin_does_the_same(self, base: type[unittest.TestCase]) -> None:
        outcome(case_that_counts(type("Base", (IsolatedRefsMixin, base), {})))

    def test_async_test_case_is_isolated(self) -> None:
        @isolate()
        class Case(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self) -> None:
                assert await counter.aincrement() == 1

            async def test_first(self) -> None:
                assert await counter.aincrement() == 2

            async def test_second(self) -> None:
                assert await counter.aincrement() == 2

        outcome(Case)

    def test_plain_class_is_isolated_test_by_test(self) -> None:
        @isolate()
        class Tests:
            def test_one(self) -> int:
                return counter.increment()

            async def test_two(self) -> int:
                return await counter.aincrement()

            def helper(self) -> int:
                return counter.get()

        tests = Tests()
        assert tests.test_one() == tests.test_one() == asyncio.run(tests.test_two()) == 1
        assert tests.helper() == 100

    def test_mixin_takes_a_back_end_and_a_clock(self) -> None:
        class Base(IsolatedRefsMixin, unittest.TestCase):
            refs_backend = {"BACKEND": "memory", "TIMEOUT": 2.5}
            refs_clock = ManualClock()

        class Case(Base):
            def test_settings(self) -> None:
                assert backends.get_backend().params.timeout == 2.5

            def test_clock(self) -> None:
                counter.set(1, ttl=10)
                assert self.refs_clock is not None
                self.refs_clock.advance(10)
                assert counter.get() == 0

        outcome(Case)


@isolate()
class TestInsideDjangosTestCase(TestCase):
    """Collected by pytest as a user's would be."""

    def test_first(self) -> None:
        assert counter.increment() == 1

    def test_second(self) -> None:
        assert counter.increment() == 1

    async def test_third(self) -> None:
        assert await counter.aincrement() == 1


class TestPytestFixtures:
    def test_fixtures_are_there_for_projects(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            from django.conf import settings
            settings.configure(INSTALLED_APPS=["dref_django"], DREF_BACKEND="memory")
            """
        )
        pytester.makepyfile(
            """
            from dref_django import Counter

            counter = Counter("n")

            def test_one(dref_isolated):
                assert counter.increment() == 1

            def test_two(dref_isolated):
                assert counter.increment() == 1

            def test_clock(dref_clock):
                counter.set(7, ttl=60)
                dref_clock.advance(59)
                assert counter.get() == 7
                dref_clock.advance(1)
                assert counter.get() == 0

            async def test_async(dref_isolated):
                assert await counter.aincrement() == 1
            """
        )
        pytester.makeini("[pytest]\nasyncio_mode = auto\naddopts = -p no:django -p no:randomly")
        result = pytester.runpytest_subprocess()
        result.assert_outcomes(passed=4)

    def test_plugin_costs_projects_without_django_settings_nothing(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("import sys\ndef test_import():\n    assert 'dref_django.backends' not in sys.modules")
        pytester.makeini("[pytest]\naddopts = -p no:django -p no:asyncio")
        pytester.runpytest_subprocess().assert_outcomes(passed=1)

    def test_asserts_of_the_conformance_suite_explain_themselves(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest("from django.conf import settings\nsettings.configure(INSTALLED_APPS=['dref_django'])")
        pytester.makepyfile(
            """
            import pytest
            from dref_django.backends import Params
            from dref_django.backends.memory import MemoryBackend
            from dref_django.protocol import Reply, Status
            from dref_django.testing.conformance import BackendConformance

            class Forgetful(MemoryBackend):
                def send(self, commands, now, timeout):
                    return [Reply(Status.APPLIED, version=7) for _ in commands]

            @pytest.fixture(scope="module")
            def backend():
                return Forgetful(Params())

            class TestForgetful(BackendConformance):
                pass
            """
        )
        pytester.makeini("[pytest]\naddopts = -p no:django -p no:randomly -k test_write_replaces_value_and_kind")
        result = pytester.runpytest_subprocess()
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["*assert False*", "*Reply(status=<Status.APPLIED: 0>*"])


class TestManualClock:
    def test_time_stands_still(self) -> None:
        clock = ManualClock()
        with isolate(clock=clock):
            counter.set(1)
            version = counter.version()
            counter.set(2)
            assert counter.version() == version + 1
            clock.advance(2.5)
            counter.set(3)
            assert counter.version() == version + 2_500_000
        assert repr(clock) == "<ManualClock, 2.5 s after its start>"

    def test_time_does_not_go_backwards(self) -> None:
        with pytest.raises(ValueError, match="time does not go backwards"):
            ManualClock().advance(-1)

    def test_watchers_hear_of_the_expiry(self) -> None:
        clock = ManualClock()
        with isolate(clock=clock), counter.changes(timeout=PATIENCE) as stream:
            next(stream)
            counter.set(1, ttl=3600)
            assert next(stream).value == 1
            clock.advance(3601)
            assert next(stream).deleted

    def test_lock_is_lost_after_a_jump_over_its_lease(self) -> None:
        clock, losses = ManualClock(), threading.Event()
        with isolate(clock=clock):
            held = Lock("report", ttl=30, on_lost=losses.set).acquire()
            clock.advance(31)
            with Lock("report", timeout=0) as other:
                assert other.token > held.token
            with pytest.raises(LockLost):
                held.check()
            assert losses.wait(PATIENCE)

    def test_lock_is_renewed_over_small_steps(self) -> None:
        clock = ManualClock()
        with isolate(clock=clock), Lock("report", ttl=30) as held:
            for _ in range(20):
                clock.advance(11)
                held.check()

    def test_renewal_that_another_thread_is_late_with_takes_nothing_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was sent at an earlier moment: arriving after a later one, it would end the lease too soon."""
        clock, mover = ManualClock(), threading.current_thread()
        late, overtaken, arrived = threading.Event(), threading.Event(), threading.Event()
        with isolate(clock=clock), Lock("report", ttl=30) as held:
            backend = backends.get_backend()
            send = backend.send

            def send_late(commands: Sequence[Command], now: int | None, timeout: float) -> list[Reply]:
                if not isinstance(commands[0], Renew):
                    return send(commands, now, timeout)
                if threading.current_thread() is mover:
                    late.wait(0.1)
                    return send(commands, now, timeout)
                late.set()
                overtaken.wait(1)
                replies = send(commands, now, timeout)
                arrived.set()
                return replies

            monkeypatch.setattr(backend, "send", send_late)
            for _ in range(4):
                clock.advance(11)
            overtaken.set()
            arrived.wait(0.1)
            for _ in range(4):
                clock.advance(11)
                held.check()

    def test_waiter_gets_the_lock_when_the_time_of_a_dead_holder_is_over(self, outer: Backend) -> None:
        clock = ManualClock()
        with isolate(clock=clock):
            backend = backends.get_backend()
            backend.execute([Acquire("lock:report", "dead/1", 30_000_000)])
            entered = threading.Event()

            def work() -> None:
                with lock("report", timeout=PATIENCE):
                    entered.set()

            thread = threading.Thread(target=work)
            thread.start()
            wait_until(lambda: waiters(backend) == 1, "the waiter to stand in line", PATIENCE)
            assert not entered.is_set()
            clock.advance(31)
            thread.join(PATIENCE)
            assert entered.is_set()

    def test_clock_works_on_servers_too(self, served_backend: Backend) -> None:
        served_backend.clock = clock = ManualClock()
        ref = DRef("n", 0)
        ref.set(1, ttl=3600)
        assert ref.peek() == 1
        clock.advance(3600)
        assert ref.get() == ref.peek() == 0
        with installed(MemoryBackend(backends.Params())):
            counter.set(100)


def waiters(backend: Backend) -> int:
    (reply,) = backend.execute([ScanLeases()])
    return sum(len(row.waiters) for row in reply.page if isinstance(row, LeaseInfo))


def test_plugin_is_declared() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'dref_django = "dref_django.pytest_plugin"' in text
