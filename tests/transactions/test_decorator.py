"""`@transaction` runs a function again after a conflict; blocks and functions inside others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from dref_django import Conflict, Counter, DRef, transaction
from tests.transactions.others import elsewhere


@pytest.mark.usefixtures("any_backend")
class TestDecorator:
    def test_function_runs_again_until_nobody_was_in_the_way(self) -> None:
        a, b = Counter("a"), Counter("b")
        attempts = []

        @transaction
        def move(amount: int, *, factor: int) -> int:
            """Moves."""
            attempts.append(a.get())
            if len(attempts) < 6:
                elsewhere(a.increment)
            b.set(a.get() * factor + amount)
            return b.get()

        assert move(1, factor=10) == 51
        assert (attempts, b.get()) == ([0, 1, 2, 3, 4, 5], 51)
        assert (move.__name__, move.__doc__) == ("move", "Moves.")

    async def test_coroutine_function_runs_again(self) -> None:
        a, b = Counter("a"), Counter("b")
        attempts = []

        @transaction
        async def move(amount: int) -> int:
            attempts.append(await a.aget())
            if len(attempts) < 3:
                elsewhere(a.increment)
            await b.aset(await a.aget() + amount)
            return await b.aget()

        assert await move(5) == 7
        assert (attempts, await b.aget()) == ([0, 1, 2], 7)

    def test_attempts_are_bounded(self) -> None:
        a, b = Counter("a"), Counter("b")
        attempts = []

        @transaction(attempts=2)
        def move() -> None:
            attempts.append(a.get())
            elsewhere(a.increment)
            b.increment()

        with pytest.raises(Conflict, match="'a'"):
            move()
        assert (attempts, b.get()) == ([0, 1], 0)

    def test_conflict_of_the_body_itself_is_not_tried_again(self) -> None:
        calls = []

        @transaction
        def refuse() -> None:
            calls.append(1)
            raise Conflict("its own")

        with pytest.raises(Conflict, match="its own"):
            refuse()
        assert calls == [1]

    def test_many_writers_all_finish_and_lose_nothing(self) -> None:
        a, b, total = Counter("a", 1000), Counter("b", 1000), DRef("total", 0)

        @transaction
        def move(amount: int) -> None:
            a.set(a.get() - amount)
            b.set(b.get() + amount)
            total.update(lambda moved: moved + 1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(move, [1, 2, 3, 4, 5, 6, 7, 8] * 4))
        assert (a.get(), b.get(), total.get()) == (1000 - 144, 1000 + 144, 32)

    def test_generators_and_classes_are_refused(self) -> None:
        def generator() -> Any:
            yield 1

        for wrong in (generator, int, "alias"):
            with pytest.raises(TypeError):
                transaction(wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("any_backend")
class TestNested:
    def test_inner_block_is_written_with_the_outermost(self) -> None:
        a, b = Counter("a"), Counter("b")
        with transaction():
            a.increment()
            with transaction():
                assert a.increment() == 2
                b.increment()
            assert (elsewhere(a.get), elsewhere(b.get)) == (0, 0)
        assert (a.get(), b.get()) == (2, 1)

    def test_inner_block_that_raises_takes_back_its_own_changes_only(self) -> None:
        a, b, c = Counter("a"), Counter("b"), DRef("c", "")
        c.set("before")
        with transaction():
            a.increment()
            c.update(lambda text: text + "!")
            with suppress(ZeroDivisionError), transaction():
                a.increment()
                b.set(5)
                c.delete()
                raise ZeroDivisionError
            assert (a.get(), b.get(), c.get()) == (1, 0, "before!")
            assert a.increment() == 2
        assert (a.get(), b.get(), c.get()) == (2, 0, "before!")

    def test_what_a_failed_inner_block_read_still_counts(self) -> None:
        a, b = Counter("a"), Counter("b")

        def block() -> None:
            with transaction():
                with suppress(ZeroDivisionError), transaction():
                    a.increment()
                    raise ZeroDivisionError
                elsewhere(a.increment)
                b.increment()

        with pytest.raises(Conflict, match="'a'"):
            block()

    def test_decorated_function_inside_leaves_the_retry_to_the_outermost(self) -> None:
        a, b = Counter("a"), Counter("b")
        inner_calls, outer_calls = [], []

        @transaction
        def inner() -> None:
            inner_calls.append(a.get())
            if len(inner_calls) == 1:
                elsewhere(a.increment)
            b.increment()

        @transaction
        def outer() -> None:
            outer_calls.append(1)
            inner()

        outer()
        assert (inner_calls, outer_calls, b.get()) == ([0, 1], [1, 1], 1)
