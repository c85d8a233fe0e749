"""What cannot be part of a transaction, slots of a cluster, replies that are lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from dref_django import Counter, DRef, DRefError, OutcomeUnknown, lock, transaction
from dref_django.backends import Backend
from dref_django.backends.delivery import ReplyLost
from dref_django.protocol import MUTATIONS, Find
from tests.kinds import installed, make


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
