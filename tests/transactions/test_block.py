"""`with transaction()`: several refs in one atomic step, on every back end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from asgiref.sync import sync_to_async

from dref_django import Counter, CounterOverflow, DRef, Flag, NotFound, transaction
from dref_django.backends import Backend
from dref_django.protocol import Read
from tests.transactions.others import Calls, elsewhere


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
