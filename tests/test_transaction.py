"""`transaction()`: several refs in one atomic step, on every back end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from dref_django import (
    Conflict,
    Counter,
    CounterOverflow,
    DRef,
    DRefError,
    Flag,
    NotFound,
    OutcomeUnknown,
    lock,
    transaction,
)
from dref_django.backends import Backend
from dref_django.backends.delivery import ReplyLost
from dref_django.protocol import MUTATIONS, Find, Read
from tests.kinds import installed, make

R = TypeVar("R")


def elsewhere(function: Callable[..., R], *args: Any) -> R:
    """Calls it as another writer or reader does: in a thread of its own, which is in no transaction."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


class Calls:
    """What goes to a back end."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[list[Any]] = []
        send = backend.send

        def recording(commands: Any, now: int | None, timeout: float) -> Any:
            self.sent.append(list(commands))
            return send(commands, now, timeout)

        monkeypatch.setattr(backend, "send", recording)

    @property
    def changing(self) -> list[list[Any]]:
        return [batch for batch in self.sent if any(isinstance(command, MUTATIONS) for command in batch)]


@pytest.mark.usefixtures("any_backend")
class TestBlock:
    def test_changes_come_all_at_once_at_the_end(self) -> None:
        a, b = Counter("a"), DRef("b", "old")
        with transaction():
            a.increment(3)
            b.set("new")
            assert (elsewhere(a.get), elsewhere(b.get)) == (0, "old")
        assert (elsewhere(a.get), elsewhere(b.get)) == (3, "new")

    async def test_async_block(self) -> None:
        a, b = Counter("a"), DRef("b", [1])
        async with transaction():
            assert await a.aincrement() == 1
            assert await b.aupdate(lambda items: [*items, 2]) == [1, 2]
            assert (elsewhere(a.get), elsewhere(b.get)) == (0, [1])
        assert (await a.aget(), await b.aget()) == (1, [1, 2])

    async def test_tasks_of_a_block_share_it_and_lose_nothing(self) -> None:
        a, b = Counter("a"), DRef("b", "")
        async with transaction():
            await asyncio.gather(*(a.aupdate(lambda number: number + 1) for _ in range(20)), b.aset("x"))
            assert await a.aget() == 20
        assert (await a.aget(), await b.aget()) == (20, "x")

    async def test_blocking_code_behind_sync_to_async_is_inside(self) -> None:
        a = Counter("a")
        async with transaction():
            assert await sync_to_async(a.increment)() == 1
            assert elsewhere(a.get) == 0
        assert await a.aget() == 1

    def test_body_that_raises_changes_nothing(self) -> None:
        a, b = Counter("a"), DRef("b", {"x": 1})

        def fail() -> None:
            with transaction():
                a.increment()
                b.set({})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert (a.get(), b.get(), a.version()) == (0, {"x": 1}, 0)

    def test_reads_inside_see_what_was_changed_inside(self) -> None:
        number, text, flag = Counter("number"), DRef("text", "a" * 100), Flag("flag")
        text.set("a" * 100)
        number.set(5)
        with transaction():
            assert number.increment() == 6
            assert number.decrement(2) == 4
            assert (number.get(), number.peek(), number.get(max_staleness=60)) == (4, 4, 4)
            assert text.update(lambda old: old + "b") == "a" * 100 + "b"
            assert text.get_and_set("c") == "a" * 100 + "b"
            assert text.get() == "c"
            assert flag.toggle() is True
            assert flag.get() is True
            assert flag.compare_and_set(False, True) is False
            assert flag.set_if_absent(False) is False
            assert flag.delete() is True
            assert flag.delete() is False
            assert flag.get() is False
        assert (number.get(), text.get(), flag.get(), flag.version() > 0) == (4, "c", False, False)

    def test_deleted_ref_is_absent_inside_and_after(self) -> None:
        ref: DRef[str] = DRef("ref")
        ref.set("value")
        with transaction():
            assert ref.delete() is True
            with pytest.raises(NotFound):
                ref.get()
            assert ref.set_if_absent("again") is True
            assert ref.delete() is True
        with pytest.raises(NotFound):
            ref.get()

    def test_refused_operation_changes_nothing_and_the_others_go_on(self) -> None:
        number, other = Counter("number"), Counter("other")
        number.set(2**63 - 1)
        with transaction():
            with pytest.raises(CounterOverflow):
                number.increment()
            other.increment()
        assert (number.get(), other.get()) == (2**63 - 1, 1)

    def test_time_to_live_is_kept_set_and_cleared_as_outside(self, any_backend: Backend) -> None:
        kept, cleared, limited, expired = (Counter(name) for name in ("kept", "cleared", "limited", "expired"))
        for ref in (kept, cleared):
            ref.set(1, ttl=100)
        expired.set(1)
        with transaction():
            kept.increment()
            cleared.set(2)
            limited.set(2, ttl=50)
            limited.increment()
            expired.expire(30)
        left = {ref.name: _left(any_backend, ref.name) for ref in (kept, cleared, limited, expired)}
        assert left["cleared"] is None
        assert 60 < (left["kept"] or 0) <= 100
        assert 40 < (left["limited"] or 0) <= 50
        assert 20 < (left["expired"] or 0) <= 30
        assert (kept.get(), cleared.get(), limited.get(), expired.get()) == (2, 2, 3, 1)

    def test_time_to_live_goes_with_what_was_deleted(self, any_backend: Backend) -> None:
        again = Counter("again")
        again.set(7, ttl=100)
        with transaction():
            again.delete()
            assert again.increment() == 1
        assert (again.get(), _left(any_backend, "again")) == (1, None)

    def test_block_without_changes_writes_nothing(self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        a = Counter("a")
        calls = Calls(any_backend, monkeypatch)
        with transaction():
            a.get()
            a.get()
        with transaction():
            pass
        assert [len(batch) for batch in calls.sent] == [1]

    def test_whole_block_is_one_batch(self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b, c = Counter("a"), DRef("b", ""), DRef("c", "")
        calls = Calls(any_backend, monkeypatch)
        with transaction():
            b.set("blind")
            b.update(lambda text: text + "!")
            a.increment()
            a.increment()
            c.get()
        assert len(calls.sent) == 3  # two names are read, then all is written
        assert len(calls.changing) == 1
        assert (a.get(), b.get()) == (2, "blind!")

    def test_watchers_hear_of_one_change_a_ref(self) -> None:
        ref = Counter("watched")
        with ref.changes(every=True, timeout=10) as stream:
            assert next(stream).value == 0
            with transaction():
                ref.increment()
                ref.increment()
            assert next(stream).value == 2
            ref.increment()
            assert next(stream).value == 3

    def test_copy_of_the_process_moves_with_the_end_not_before(self) -> None:
        ref = Counter("near")
        assert ref.peek() == 0
        with suppress(ZeroDivisionError), transaction():
            ref.increment()
            raise ZeroDivisionError
        assert ref.peek() == 0
        with transaction():
            ref.increment(7)
        assert ref.peek() == 7

    def test_other_threads_are_outside(self) -> None:
        a = Counter("a")
        with transaction():
            a.set(1)
            assert elsewhere(a.increment) == 1
            assert a.get() == 1
        assert a.get() == 1


def _left(backend: Backend, name: str) -> float | None:
    (reply,) = backend.execute([Read(name)])
    return None if reply.left is None else reply.left / 1e6


@pytest.mark.usefixtures("any_backend")
class TestConflict:
    def test_read_that_changed_meanwhile_is_a_conflict_and_nothing_is_written(self) -> None:
        read, written = Counter("read"), Counter("written")

        def block() -> None:
            with transaction():
                written.set(read.get() + 1)
                elsewhere(read.increment)

        with pytest.raises(Conflict, match="'read' was changed by another writer"):
            block()
        assert (read.get(), written.get()) == (1, 0)

    @pytest.mark.parametrize("ending", ["update", "delete"])
    def test_ref_that_is_changed_inside_and_outside_conflicts(self, ending: str) -> None:
        ref = DRef("ref", "")
        ref.set("a")

        def block() -> None:
            with transaction():
                ref.update(lambda text: text + "ours")
                if ending == "delete":
                    ref.delete()
                elsewhere(ref.update, lambda text: text + "theirs")

        with pytest.raises(Conflict, match="'ref'"):
            block()
        assert ref.get() == "atheirs"

    async def test_async_block_conflicts_as_well(self) -> None:
        read, written = Counter("read"), Counter("written")

        async def block() -> None:
            async with transaction():
                await written.aset(await read.aget() + 1)
                elsewhere(read.increment)

        with pytest.raises(Conflict, match="'read' was changed by another writer"):
            await block()
        assert (await read.aget(), await written.aget()) == (1, 0)

    @pytest.mark.parametrize("meanwhile", ["set", "delete", "make"])
    def test_whatever_happens_to_what_was_read_conflicts(self, meanwhile: str) -> None:
        read, written = DRef("read", ""), Counter("written")
        if meanwhile != "make":
            read.set("before")

        def block() -> None:
            with transaction():
                read.get()
                written.increment()
                if meanwhile == "delete":
                    elsewhere(read.delete)
                else:
                    elsewhere(read.set, "before")

        with pytest.raises(Conflict, match="'read'"):
            block()
        assert written.get() == 0

    def test_what_was_only_set_overwrites(self) -> None:
        ref = DRef("ref", "")
        with transaction():
            ref.set("ours")
            elsewhere(ref.set, "theirs")
        assert ref.get() == "ours"

    def test_body_never_sees_values_that_did_not_stand_side_by_side(self) -> None:
        a, b = Counter("a"), Counter("b")
        seen = []

        def move() -> None:
            with transaction():
                a.increment()
                b.decrement()

        def look() -> None:
            with transaction():
                seen.append(a.get())
                elsewhere(move)
                seen.append(b.get())

        with pytest.raises(Conflict, match="'a'"):
            look()
        assert seen == [0]

    def test_conflict_that_the_body_swallows_is_raised_again(self) -> None:
        a, b = Counter("a"), Counter("b")

        def block() -> None:
            with transaction():
                b.set(a.get() + 1)
                elsewhere(a.increment)
                with pytest.raises(Conflict):
                    DRef("c", "").get()
                with pytest.raises(Conflict):
                    b.increment()

        with pytest.raises(Conflict):
            block()
        assert b.get() == 0

    async def test_reads_that_were_under_way_at_once_are_compared_at_the_end(
        self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = Counter("a"), Counter("b")
        asend = any_backend.asend
        both = asyncio.Barrier(2)

        async def together(commands: Any, now: int | None, timeout: float) -> Any:
            await both.wait()
            return await asend(commands, now, timeout)

        async def look() -> None:
            async with transaction():
                monkeypatch.setattr(any_backend, "asend", together)
                await asyncio.gather(a.aget(), b.aget())
                monkeypatch.setattr(any_backend, "asend", asend)
                elsewhere(a.increment)

        with pytest.raises(Conflict, match="'a'"):
            await look()


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


@pytest.mark.usefixtures("any_backend")
class TestWhatCannotBePart:
    def test_ref_of_another_alias_is_refused(self, request: pytest.FixtureRequest) -> None:
        with installed(make("memory", request, alias="other"), "other"):
            there = Counter("there", using="other")
            with transaction():
                with pytest.raises(DRefError, match="using='other' cannot take part"):
                    there.increment()
                with pytest.raises(DRefError, match="using='other' cannot take part"):
                    with transaction(using="other"):
                        pass
            with transaction(using="other"):
                there.increment()
            assert there.get() == 1

    def test_edit_is_refused_and_may_surround(self) -> None:
        ref, other = DRef("ref", [1]), Counter("other")
        with transaction():
            with pytest.raises(DRefError, match=r"edit\(\) takes the ref's lock"):
                with ref.edit():
                    pass
        with ref.edit() as draft:
            with transaction():
                other.increment()
            draft.value.append(other.get())
        assert ref.get() == [1, 1]

    def test_locks_know_nothing_of_it(self) -> None:
        a = Counter("a")
        with transaction():
            with lock("in-transaction", timeout=0) as held:
                a.increment()
                held.check()
        assert a.get() == 1

    async def test_blocking_block_in_a_loop_is_refused(self) -> None:
        with pytest.raises(SynchronousOnlyOperation):
            with transaction():
                pass
        async with transaction():
            with pytest.raises(SynchronousOnlyOperation):
                Counter("a").get()

    async def test_task_that_outlives_the_block_is_told(self) -> None:
        a = Counter("a")
        over = asyncio.Event()

        async def late() -> None:
            await over.wait()
            await a.aincrement()

        async with transaction():
            task = asyncio.create_task(late())
        over.set()
        with pytest.raises(DRefError, match="after its end"):
            await task


class TestCluster:
    def test_refs_of_different_slots_are_refused_by_name(self, request: pytest.FixtureRequest) -> None:
        with installed(make("cluster", request)):
            a, b = Counter("a"), Counter("b")
            with transaction():
                a.increment()
                with pytest.raises(DRefError, match=r"'a' and 'b' are in different slots.*group="):
                    b.increment()
            assert (a.get(), b.get()) == (1, 0)

    def test_refs_of_one_group_change_together(self, request: pytest.FixtureRequest) -> None:
        with installed(make("cluster", request)):
            a, b = Counter("a", group="shop"), DRef("b", "", group="shop")

            @transaction
            def change() -> None:
                a.increment()
                b.update(lambda text: text + "x")

            change()
            change()
            assert (a.get(), b.get()) == (2, "xx")


@pytest.mark.usefixtures("any_backend")
class TestLostReply:
    def test_proof_of_one_name_proves_the_whole_batch(
        self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = Counter("a"), DRef("b", "")
        self._lose(any_backend, monkeypatch, proof=True)
        with transaction():
            a.increment()
            b.set("x")
        assert (a.get(), b.get()) == (1, "x")

    def test_without_proof_the_outcome_is_unknown(self, any_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        a = Counter("a")
        self._lose(any_backend, monkeypatch, proof=False)
        calls = []

        @transaction
        def change() -> None:
            calls.append(1)
            a.increment()

        with pytest.raises(OutcomeUnknown):
            change()
        assert calls == [1]

    def _lose(self, backend: Backend, monkeypatch: pytest.MonkeyPatch, *, proof: bool) -> None:
        send = backend.send

        def losing(commands: Any, now: int | None, timeout: float) -> Any:
            if not proof and isinstance(commands[0], Find):
                commands = [Find(command.name, b"\0" * 8) for command in commands]
            replies = send(commands, now, timeout)
            if any(isinstance(command, MUTATIONS) for command in commands):
                raise ReplyLost("the connection is gone")
            return replies

        monkeypatch.setattr(backend, "send", losing)
