"""A lock taken inside `atomic()` is released when the outermost open transaction ends, however it ends."""

from __future__ import annotations

import gc
import threading
import unittest

import pytest
from django.db import Error, connection, connections, transaction
from django.test import TestCase

from dref_django import LockTimeout, lock
from dref_django.inspection import break_lock, lock_info
from tests.locks.conftest import InThread
from tests.locks.test_entering import is_free
from tests.processes import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "pg"]),
    pytest.mark.usefixtures("backend"),
    pytest.mark.parametrize("kind", ["memory", "redis"]),
]


def until_free(name: str) -> None:
    wait_until(lambda: is_free(name), f"{name!r} to be free", 5)


class TestEnds:
    def test_commit(self) -> None:
        with transaction.atomic():
            with lock("a") as held:
                pass
            assert not is_free("a")
            held.check()
        assert is_free("a")

    def test_rollback(self) -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
            with lock("a"):
                pass
            assert not is_free("a")
            raise ZeroDivisionError
        until_free("a")

    def test_rollback_because_the_block_raised(self) -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic(), lock("a"):
            raise ZeroDivisionError
        until_free("a")

    def test_set_rollback(self) -> None:
        with transaction.atomic():
            with lock("a"):
                transaction.set_rollback(True)
            assert not is_free("a")
        until_free("a")

    def test_outermost_counts_when_entered_in_a_savepoint(self) -> None:
        with transaction.atomic():
            with transaction.atomic(), lock("a"):
                pass
            assert not is_free("a")
        assert is_free("a")

    def test_savepoint_that_rolls_back_frees_nothing(self) -> None:
        with transaction.atomic():
            with pytest.raises(ZeroDivisionError), transaction.atomic(), lock("a"):
                raise ZeroDivisionError
            gc.collect()
            assert not is_free("a")
            with lock("a", timeout=0):
                pass
        assert is_free("a")

    def test_connection_that_closes(self) -> None:
        with pytest.raises(Error), transaction.atomic(using="pg"):  # noqa: PT012
            with lock("a"):
                pass
            connections["pg"].close()
            until_free("a")
            connections["pg"].cursor()
        connections["pg"].close()

    @pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # that is what it does
    def test_thread_that_ends_in_its_transaction(self) -> None:
        def leave_open() -> None:
            transaction.atomic().__enter__()
            with lock("a"):
                pass
            assert not is_free("a")

        thread = threading.Thread(target=leave_open)
        thread.start()
        thread.join()
        gc.collect()
        until_free("a")

    def test_transaction_inside_the_block_ends_before_it(self) -> None:
        with lock("a"):
            with transaction.atomic():
                pass
            assert not is_free("a")
        assert is_free("a")

    def test_no_transaction_no_delay(self) -> None:
        with lock("a"):
            pass
        assert is_free("a")

    def test_at_least_counts_after_commit_and_after_rollback(self) -> None:
        with transaction.atomic(), lock("a", at_least=30):
            pass
        with pytest.raises(ZeroDivisionError), transaction.atomic(), lock("b", at_least=30):
            raise ZeroDivisionError
        for name in "ab":
            wait_until(lambda: (found := lock_info(name)) is not None and not found.held, "the release", 5)  # noqa: B023
            with pytest.raises(LockTimeout):
                lock(name, timeout=0).acquire()

    def test_handles_are_released_at_once(self) -> None:
        with transaction.atomic():
            guard = lock("a")
            guard.release(guard.acquire())
            assert is_free("a")


class TestSeveralDatabases:
    @pytest.mark.parametrize("outer", ["default", "pg"])
    def test_last_of_them_counts(self, outer: str) -> None:
        inner = "pg" if outer == "default" else "default"
        with transaction.atomic(using=outer):
            with transaction.atomic(using=inner), lock("a"):
                pass
            assert not is_free("a")
        assert is_free("a")

    def test_one_that_rolls_back_waits_for_the_other(self) -> None:
        with transaction.atomic():
            with pytest.raises(ZeroDivisionError), transaction.atomic(using="pg"), lock("a"):
                raise ZeroDivisionError
            assert not is_free("a")
        until_free("a")


class TestAgain:
    def test_loop_takes_the_same_name_many_times(self) -> None:
        tokens = set()
        with transaction.atomic():  # as ATOMIC_REQUESTS
            for _ in range(50):
                with lock("a", timeout=0) as held:
                    tokens.add(held.token)
            assert not is_free("a")
        assert len(tokens) == 1
        assert is_free("a")

    def test_function_with_a_lock_is_called_again(self) -> None:
        @lock("a", timeout=0)
        def step(number: int) -> int:
            return number

        with transaction.atomic():
            assert [step(number) for number in range(3)] == [0, 1, 2]
        assert is_free("a")

    def test_held_name_is_adopted_beside_a_new_one(self) -> None:
        with transaction.atomic():
            with lock("a"):
                pass
            with lock("a", "b", "c", timeout=0) as held:
                assert held.remaining() > 0
            for name in "abc":
                assert not is_free(name)
        for name in "abc":
            assert is_free(name)

    def test_other_threads_wait(self, in_thread: InThread) -> None:
        def enter() -> None:
            with lock("a", timeout=0):
                pass

        with transaction.atomic():
            with lock("a"):
                pass
            with pytest.raises(LockTimeout):
                in_thread(enter).result(10)
        in_thread(enter).result(10)

    def test_lock_that_was_lost_meanwhile_is_taken_anew(self) -> None:
        with transaction.atomic():
            with lock("a", ttl=1) as first:
                pass
            break_lock("a")
            first.lost.wait(5)
            with lock("a", timeout=0) as second:
                assert second.token > first.token
            with lock("a", timeout=0) as third:
                assert third.token == second.token
        assert is_free("a")

    def test_loss_between_block_and_commit_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with transaction.atomic():
            with lock("a"):
                pass
            break_lock("a")
        assert "lost" in caplog.text

    def test_next_transaction_takes_it_anew(self) -> None:
        tokens = []
        for _ in range(2):
            with transaction.atomic(), lock("a", timeout=0) as held:
                tokens.append(held.token)
        assert tokens[0] < tokens[1]


class TestHooks:
    def test_commit_hook_may_take_the_same_lock(self) -> None:
        ran: list[int] = []

        def hook() -> None:
            with lock("a", timeout=0):
                ran.append(1)

        with transaction.atomic(), lock("a"):
            transaction.on_commit(hook)
        assert ran == [1]
        assert is_free("a")

    def test_commit_hook_that_raises_keeps_nothing_locked(self) -> None:
        def hook() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as caught, transaction.atomic():  # noqa: PT012
            transaction.on_commit(hook)
            with lock("a"):
                pass
        assert caught.tb is not None  # it holds what was left of the hooks
        assert is_free("a")


def test_testcases_own_transaction_does_not_count(kind: str) -> None:
    seen: list[bool] = []

    class Case(TestCase):
        def test(self) -> None:
            assert connection.in_atomic_block
            with lock("a"):
                pass
            seen.append(is_free("a"))

    result = unittest.TestResult()
    unittest.TestSuite([Case("test")]).run(result)
    assert not result.errors
    assert seen == [True]
