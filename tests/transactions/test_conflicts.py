"""What was read inside a transaction has to stand at its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dref_django import Conflict, Counter, DRef, transaction
from dref_django.backends import Backend
from tests.transactions.others import elsewhere


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
