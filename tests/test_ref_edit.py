"""`edit()`: the pessimistic form of an update."""

from __future__ import annotations

import pytest

from dref_django import Conflict, DRef, InvalidValue, LockTimeout


@pytest.mark.usefixtures("any_backend")
class TestEdit:
    def test_end_of_the_block_writes(self) -> None:
        ref = DRef("cart", {"apples": 1})
        with ref.edit() as draft:
            draft.value["pears"] = 2
            assert ref.get() == {"apples": 1}
        assert ref.get() == {"apples": 1, "pears": 2}

    async def test_end_of_the_async_block_writes(self) -> None:
        ref = DRef("cart", {"apples": 1})
        async with ref.aedit() as draft:
            draft.value = {}
        assert await ref.aget() == {}

    def test_block_that_changes_nothing_writes_nothing(self) -> None:
        ref = DRef("cart", [1])
        ref.set([1])
        version = ref.version()
        with ref.edit() as draft:
            draft.value = [1]
        assert ref.version() == version

    def test_block_that_raises_writes_nothing_and_frees_the_lock(self) -> None:
        ref = DRef("cart", [1])

        def fail() -> None:
            with ref.edit() as draft:
                draft.value.append(2)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert ref.get() == [1]
        with ref.edit(timeout=0) as draft:
            draft.value = [3]
        assert ref.get() == [3]

    def test_set_by_somebody_else_meanwhile_is_a_conflict_and_stays(self, peer: str) -> None:
        ref = DRef("cart", [1])

        def edit() -> None:
            with ref.edit() as draft:
                DRef("cart", [1], using=peer).set([9])
                draft.value.append(2)

        with pytest.raises(Conflict, match="'cart' was changed by another writer"):
            edit()
        assert ref.get() == [9]

    def test_first_edit_of_an_absent_ref_conflicts_with_a_set(self) -> None:
        ref = DRef("cart", [1])

        def edit() -> None:
            with ref.edit() as draft:
                ref.set([1])
                draft.value = [2]

        with pytest.raises(Conflict):
            edit()
        assert ref.get() == [1]

    def test_second_editor_waits_or_gives_up_in_time(self, peer: str) -> None:
        ref = DRef("cart", [1])
        with ref.edit() as draft:
            with pytest.raises(LockTimeout), DRef("cart", [1], using=peer).edit(timeout=0):
                pytest.fail("two bodies at once")
            draft.value = [2]
        assert ref.get() == [2]

    def test_error_of_the_edited_value_is_raised_at_the_end(self) -> None:
        ref = DRef("cart", [1])
        with pytest.raises(InvalidValue, match=r"^cart: "), ref.edit() as draft:
            draft.value = object()  # type: ignore[assignment]
        assert ref.get() == [1]
