"""Change streams on every back end: a snapshot, then what follows, with no hole that is not announced."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dref_django import Change, Counter, DRef, InvalidName, InvalidValue, NotFound, watch
from dref_django.backends import Backend
from dref_django.mirror import HELD_LIMIT
from dref_django.streams import Stream, get_hub
from tests.processes import wait_until
from tests.scripted import PATIENCE


def take(stream: Stream[Any], count: int) -> list[Any]:
    return [next(stream).value for _ in range(count)]


async def atake(stream: Stream[Any], count: int) -> list[Any]:
    return [(await anext(stream)).value for _ in range(count)]


def until(stream: Stream[Any], value: Any) -> list[Change[Any]]:
    """Everything up to the change that shows the value."""
    found: list[Change[Any]] = []
    while not found or found[-1].value != value:
        found.append(next(stream))
    return found


@pytest.mark.usefixtures("any_backend")
class TestOneRef:
    def test_stream_starts_with_the_value_of_now(self) -> None:
        ref = DRef("greeting", "hello")
        with ref.changes(timeout=PATIENCE) as stream:
            change = next(stream)
            assert (change.name, change.value, change.version, change.deleted) == ("greeting", "hello", 0, True)
        ref.set("hi")
        with ref.changes(timeout=PATIENCE) as stream:
            change = next(stream)
            assert (change.value, change.version, change.deleted, change.gap) == ("hi", ref.version(), False, False)

    def test_every_change_of_another_process_is_told_in_order(self, peer: str) -> None:
        counter = Counter("n", using=peer)
        with Counter("n").changes(every=True, timeout=PATIENCE) as stream:
            assert take(stream, 1) == [0]
            for _ in range(100):
                counter.increment()
            found = [next(stream) for _ in range(100)]
        assert [change.value for change in found] == list(range(1, 101))
        assert not any(change.gap for change in found)
        versions = [change.version for change in found]
        assert versions == sorted(set(versions))

    async def test_async_stream_is_told_the_same(self, peer: str) -> None:
        counter = Counter("n", using=peer)
        async with Counter("n").changes(every=True, timeout=PATIENCE) as stream:
            assert await atake(stream, 1) == [0]
            for _ in range(20):
                await counter.aincrement()
            assert await atake(stream, 20) == list(range(1, 21))

    async def test_async_for_needs_no_with(self) -> None:
        counter = Counter("n")
        found = []
        async for change in counter.changes(timeout=PATIENCE):
            found.append(change.value)
            if change.value == 3:
                break
            await counter.aincrement()
        assert found == [0, 1, 2, 3]

    def test_for_needs_no_with(self) -> None:
        counter = Counter("n")
        for change in counter.changes(timeout=PATIENCE):
            if change.value == 3:
                break
            counter.increment()
        assert counter.get() == 3

    def test_slow_reader_finds_only_the_newest_value(self, peer: str) -> None:
        counter = Counter("n", using=peer)
        with (
            Counter("n").changes(timeout=PATIENCE) as stream,
            Counter("n").changes(every=True, timeout=PATIENCE) as all_,
        ):
            assert take(stream, 1) == take(all_, 1) == [0]
            for _ in range(50):
                counter.increment()
            until(all_, 50)
            change = next(stream)
        assert (change.value, change.gap) == (50, False)

    def test_deletion_is_told(self, peer: str) -> None:
        counter = Counter("n", 10, using=peer)
        counter.set(1)
        with Counter("n", 10).changes(every=True, timeout=PATIENCE) as stream:
            assert take(stream, 1) == [1]
            counter.delete()
            change = next(stream)
            assert (change.value, change.deleted) == (10, True)
            counter.increment()
            assert take(stream, 1) == [11]

    def test_expiry_is_told_as_a_deletion(self, peer: str) -> None:
        counter = Counter("n", using=peer)
        with Counter("n").changes(every=True, timeout=PATIENCE) as stream:
            assert take(stream, 1) == [0]
            counter.set(1, ttl=0.05)
            assert take(stream, 1) == [1]
            change = next(stream)
            assert (change.value, change.deleted, change.gap) == (0, True, False)
            counter.set(2)
            change = next(stream)
            assert (change.value, change.gap) == (2, False)

    def test_large_values_are_told(self, peer: str) -> None:
        ref = DRef("text", "")
        with ref.changes(timeout=PATIENCE) as stream:
            assert take(stream, 1) == [""]
            for size in (7_999, 8_000, 8_001, 1_000_000):
                value = chr(97 + size % 26) * size
                DRef("text", "", using=peer).set(value)
                assert until(stream, value)[-1].gap is False

    def test_changed_field_of_a_large_value_is_told_each_time(self, peer: str) -> None:
        ref = DRef("fields", {f"field{number}": 1000 for number in range(10_000)}, using=peer)
        ref.set(ref.get())
        with DRef[Any]("fields").changes(every=True, timeout=PATIENCE) as stream:
            next(stream)
            for number in range(1001, 1011):
                ref.update(lambda fields, number=number: {**fields, "field5000": number})  # type: ignore[misc]
            found = [next(stream) for _ in range(10)]
        assert [change.value["field5000"] for change in found] == list(range(1001, 1011))
        assert not any(change.gap for change in found)

    def test_value_that_does_not_travel_along_is_read_and_what_was_passed_over_is_a_gap(self, peer: str) -> None:
        ref = DRef("text", "", using=peer)
        with DRef("text", "").changes(every=True, timeout=PATIENCE) as stream:
            next(stream)
            for number in range(10):
                ref.set(str(number) * 100_000)
            found = until(stream, "9" * 100_000)
        numbers = [int(change.value[0]) for change in found]
        assert numbers == sorted(set(numbers))
        passed_over = [number - before > 1 for before, number in zip([-1, *numbers], numbers, strict=False)]
        assert all(change.gap or not missed for change, missed in zip(found, passed_over, strict=True))

    def test_no_hole_between_snapshot_and_changes(self, peer: str) -> None:
        """Streams that open while others write begin somewhere and then miss nothing. Not more is written meanwhile
        than a hub holds back while it waits for a snapshot: of more it would announce a gap."""
        counter = Counter("n", using=peer)
        written = 0
        for _ in range(20):
            together = threading.Barrier(3)

            def write(together: threading.Barrier = together) -> None:
                together.wait(PATIENCE)
                for _ in range(HELD_LIMIT // 2):
                    counter.increment()

            with ThreadPoolExecutor(2) as pool:
                writers = [pool.submit(write) for _ in range(2)]
                written += HELD_LIMIT // 2 * 2
                together.wait(PATIENCE)
                with Counter("n").changes(every=True, timeout=PATIENCE) as stream:
                    found = [next(stream)]
                    while found[-1].value < written:
                        found.append(next(stream))
                for each in writers:
                    each.result()
            assert [change.value for change in found] == list(range(found[0].value, written + 1))
            assert not any(change.gap for change in found)

    def test_many_streams_of_one_ref_hear_the_same(self, peer: str) -> None:
        streams = [Counter("n").changes(every=True, timeout=PATIENCE) for _ in range(20)]
        for stream in streams:
            assert take(stream, 1) == [0]
        for _ in range(3):
            Counter("n", using=peer).increment()
        assert all(take(stream, 3) == [1, 2, 3] for stream in streams)

    def test_values_are_decoded_by_the_reader(self) -> None:
        DRef[Any]("n").set("no number")
        with Counter("n").changes(timeout=PATIENCE) as stream:
            change = next(stream)
            with pytest.raises(InvalidValue):
                _ = change.value
        with DRef[Any]("n").changes(timeout=PATIENCE) as other:
            assert take(other, 1) == ["no number"]

    def test_repr_of_a_change_tells_what_it_is(self) -> None:
        with Counter("n").changes(timeout=PATIENCE) as stream:
            assert repr(next(stream)) == "<Change of 'n', version 0, deleted>"

    def test_ref_without_default_is_told_as_none(self) -> None:
        with DRef[Any]("n").changes(timeout=PATIENCE) as stream:
            assert take(stream, 1) == [None]
        with pytest.raises(NotFound):
            DRef[Any]("n").get()


@pytest.mark.usefixtures("any_backend")
class TestBuffersAndEnds:
    def test_overrun_drops_the_oldest_and_is_a_gap(self, peer: str) -> None:
        counter = Counter("n", using=peer)
        small = Counter("n").changes(every=True, buffer=3, timeout=PATIENCE)
        large = Counter("n").changes(every=True, timeout=PATIENCE)
        assert take(small, 1) == take(large, 1) == [0]
        for _ in range(10):
            counter.increment()
        until(large, 10)
        found = [next(small) for _ in range(3)]
        assert [(change.value, change.gap) for change in found] == [(8, True), (9, False), (10, False)]

    @pytest.mark.parametrize("buffer", [0, -1])
    def test_buffer_holds_at_least_one(self, buffer: int) -> None:
        with pytest.raises(ValueError, match="buffer must be 1 or more"):
            Counter("n").changes(buffer=buffer)

    def test_iteration_ends_after_the_timeout_without_a_change(self) -> None:
        assert [change.value for change in Counter("n").changes(timeout=0.01)] == [0]
        assert [change.value for change in Counter("n").changes(timeout=0)] == [0]

    async def test_async_iteration_ends_after_the_timeout(self) -> None:
        assert [change.value async for change in Counter("n").changes(timeout=0.01)] == [0]

    def test_stream_goes_on_after_a_timeout(self) -> None:
        counter = Counter("n")
        stream = counter.changes(timeout=0)
        assert [change.value for change in stream] == [0]
        counter.increment()
        wait_until(lambda: [change.value for change in stream] == [1], "the change", PATIENCE)

    def test_close_from_another_thread_ends_the_iteration(self) -> None:
        stream = Counter("n").changes()
        assert take(stream, 1) == [0]
        threading.Timer(0.01, stream.close).start()
        assert list(stream) == []

    async def test_close_from_another_task_ends_the_iteration(self) -> None:
        stream = Counter("n").changes()
        await anext(stream)
        asyncio.get_running_loop().call_soon(stream.close)
        assert [change async for change in stream] == []

    def test_closed_stream_stays_closed(self) -> None:
        stream = Counter("n").changes()
        with stream:
            pass
        stream.close()
        assert list(stream) == []

    async def test_cancelled_reader_can_go_on(self) -> None:
        counter = Counter("n")
        async with counter.changes(timeout=PATIENCE) as stream:
            await anext(stream)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(stream)
            await counter.aincrement()
            assert await atake(stream, 1) == [1]

    def test_dropped_stream_ends_its_subscription(self, any_backend: Backend) -> None:
        stream = Counter("n").changes()
        next(stream)
        hub = get_hub(any_backend)
        assert "n" in hub.cells
        del stream
        gc.collect()
        wait_until(lambda: "n" not in hub.cells, "the name to be let go", PATIENCE)

    def test_streams_of_two_loops_and_a_thread_at_once(self, peer: str) -> None:
        ready = threading.Barrier(4)

        async def listen() -> list[int]:
            async with Counter("n").changes(every=True, timeout=PATIENCE) as stream:
                await atake(stream, 1)
                await asyncio.to_thread(ready.wait, PATIENCE)
                return await atake(stream, 10)

        def listen_here() -> list[int]:
            with Counter("n").changes(every=True, timeout=PATIENCE) as stream:
                take(stream, 1)
                ready.wait(PATIENCE)
                return take(stream, 10)

        with ThreadPoolExecutor(3) as pool:
            listening = [pool.submit(lambda: asyncio.run(listen())) for _ in range(2)] + [pool.submit(listen_here)]
            ready.wait(PATIENCE)
            for _ in range(10):
                Counter("n", using=peer).increment()
            assert [each.result(PATIENCE) for each in listening] == [list(range(1, 11))] * 3


@pytest.mark.usefixtures("any_backend")
class TestPrefixes:
    def test_snapshot_holds_every_existing_name_and_no_other(self) -> None:
        for name in ("shop.a", "shop.b", "shop", "shopping", "other.shop.c"):
            Counter(name).set(1)
        with watch("shop.*", timeout=0) as stream:
            assert {change.name for change in stream} == {"shop.a", "shop.b"}
        with watch("*", timeout=0) as stream:
            assert len({change.name for change in stream}) == 5

    def test_creation_change_and_deletion_are_told(self, peer: str) -> None:
        counter, declared = Counter("shop.a", using=peer), Counter("shop.a")
        with watch("shop.*", every=True, timeout=PATIENCE) as stream:
            counter.set(declared.get() + 1)
            counter.increment()
            counter.delete()
            counter.set(5)
            Counter("other.a", using=peer).set(9)
            Counter("shop.b", using=peer).set(7)
            found = [next(stream) for _ in range(5)]
        assert [(change.name, change.value) for change in found if change.name == "shop.a"] == [
            ("shop.a", 1),
            ("shop.a", 2),
            ("shop.a", 0),
            ("shop.a", 5),
        ]
        assert ("shop.b", 7) in [(change.name, change.value) for change in found]
        assert not any(change.gap for change in found)

    def test_expiry_is_told(self, peer: str) -> None:
        with watch("shop.*", timeout=PATIENCE) as stream:
            Counter("shop.a", using=peer).set(1, ttl=0.05)
            found = [next(stream), next(stream)]
        assert [change.deleted for change in found] == [False, True]

    @pytest.mark.parametrize("prefix", ["100%", "a_b", "[x]", "{y}", "größe ", "a\\b", "値", "*?"])
    def test_odd_prefixes_match_to_the_letter(self, peer: str, prefix: str) -> None:
        DRef("100 a/b x y", 0).set(1)
        DRef(prefix + "1", 0).set(1)
        with watch(prefix + "*", timeout=PATIENCE) as stream:
            assert next(stream).name == prefix + "1"
            DRef("aXb", 0, using=peer).set(1)
            DRef(prefix + "2", 0, using=peer).set(1)
            assert next(stream).name == prefix + "2"

    def test_exact_name_is_no_prefix(self) -> None:
        Counter("shop.ab").set(1)
        Counter("shop.a").set(2)
        with watch("shop.a", timeout=0) as stream:
            assert [(change.name, change.value) for change in stream] == [("shop.a", 2)]

    def test_values_are_decoded_by_the_refs_that_are_declared(self) -> None:
        declared = DRef("shop.cart", default=(0, 0), type=tuple[int, int])
        declared.set((1, 2))
        DRef[Any]("shop.free").set([1, 2])
        with watch("shop.*", timeout=0) as stream:
            assert {change.name: change.value for change in stream} == {"shop.cart": (1, 2), "shop.free": [1, 2]}

    def test_many_names_come_in_pages(self) -> None:
        for number in range(1200):
            Counter(f"many.{number}").increment(number + 1)
        with watch("many.*", timeout=0) as stream:
            assert sum(change.value for change in stream) == sum(range(1, 1201))

    def test_bad_patterns_are_refused(self) -> None:
        for pattern in ("", "a\n*", "a\0"):
            with pytest.raises(InvalidName):
                watch(pattern)

    async def test_async_watch(self, peer: str) -> None:
        async with watch("shop.*", timeout=PATIENCE) as stream:
            await Counter("shop.a", using=peer).aset(3)
            assert await atake(stream, 1) == [3]
