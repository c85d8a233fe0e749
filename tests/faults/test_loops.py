"""Many event loops, `async_to_sync`, cancellation at any point: connections end with their loop, replies never mix."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from dref_django import Counter, DRef, DRefError
from tests.faults.labs import Lab
from tests.processes import wait_until

SEED = 7
CALLS = 1000


def test_a_loop_a_call_leaves_no_more_than_one_connection(lab: Lab) -> None:
    with lab.here(proxied=False) as alias:
        counter = Counter("counted", using=alias)
        before = lab.connections()
        for number in range(1, CALLS + 1):
            assert async_to_sync(counter.aincrement)() == number
            if number % 100 == 0:
                assert lab.connections() <= before + 1 + (lab.kind == "postgres")  # one more notifies there
        wait_until(lambda: lab.connections() <= before + 1 + (lab.kind == "postgres"), "connections to close", 10)
        assert counter.get() == CALLS


def test_two_loops_and_threads_share_a_back_end(lab: Lab) -> None:
    async def add(counter: Counter, times: int) -> None:
        for _ in range(times):
            await asyncio.gather(*(counter.aincrement() for _ in range(5)))

    with lab.here(proxied=False) as alias:
        counter = Counter("counted", using=alias)

        def on_a_loop(_: int) -> None:
            asyncio.run(add(counter, 20))

        def in_a_thread(_: int) -> None:
            for _ in range(100):
                counter.increment()

        with ThreadPoolExecutor(4) as pool:
            works = [pool.submit(work, 0) for work in (on_a_loop, in_a_thread, on_a_loop, in_a_thread)]
            for work in works:
                work.result(60)
        assert counter.get() == 400


def test_a_stream_is_followed_on_several_loops_at_once(lab: Lab) -> None:
    async def follow(counter: Counter, ready: threading.Barrier) -> int:
        async with counter.changes(timeout=20) as changes:
            await asyncio.to_thread(ready.wait, 20)
            async for change in changes:
                if change.value == 50:
                    return 50
        return -1

    with lab.here(proxied=False) as alias, ThreadPoolExecutor(3) as pool:
        counter = Counter("counted", using=alias)
        ready = threading.Barrier(4)
        followers = [pool.submit(lambda: asyncio.run(follow(counter, ready))) for _ in range(3)]
        ready.wait(20)
        for _ in range(50):
            counter.increment()
        assert [each.result(30) for each in followers] == [50, 50, 50]


async def cancelled_after(coroutine: Coroutine[Any, Any, Any], steps: int, seconds: float) -> object:
    """The result, or what was raised, of a task that is cancelled after so many turns of the loop and seconds."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(steps):
        await asyncio.sleep(0)
    if seconds:
        await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()


@pytest.mark.parametrize("pool", ["roomy", "small"])
def test_a_cancelled_operation_never_leaves_its_reply_to_another(lab: Lab, pool: str) -> None:
    dice = random.Random(SEED)
    options = lab.small_pool if pool == "small" else {}

    async def main(alias: str) -> None:
        texts = [DRef(f"text-{number}", "", using=alias) for number in range(4)]
        counter = Counter("counted", using=alias)
        for number, text in enumerate(texts):
            await text.aset(f"{number}" * 1000)
        acked = tried = 0
        for _ in range(250):
            number = dice.randrange(4)
            steps, seconds = dice.randrange(12), dice.choice((0, 0, 0.0002, 0.001))
            tried += 1
            adding, reading, writing, right = await asyncio.gather(
                cancelled_after(counter.aincrement(), steps, seconds),
                cancelled_after(texts[number].aget(), steps, seconds),
                cancelled_after(texts[number].aset(f"{number}" * 1000), steps, seconds),
                texts[(number + 1) % 4].aget(),
            )
            acked += isinstance(adding, int)
            assert not isinstance(adding, DRefError), adding
            assert right == f"{(number + 1) % 4}" * 1000, "this is somebody else's reply"
            assert isinstance(reading, asyncio.CancelledError) or reading == f"{number}" * 1000
            assert writing is None or isinstance(writing, asyncio.CancelledError)
        assert acked <= await counter.aget() <= tried
        for number, text in enumerate(texts):
            assert await text.aget() == f"{number}" * 1000

    with lab.here(proxied=False, timeout=10.0, options=options) as alias:
        asyncio.run(main(alias))


def test_cancelled_watchers_leave_the_hub_in_order(lab: Lab) -> None:
    dice = random.Random(SEED)

    async def first_change(counter: Counter) -> int:
        async with counter.changes(timeout=20) as changes:
            async for change in changes:
                return change.value
        return -1

    async def main(alias: str) -> None:
        counters = [Counter(f"counted-{number}", using=alias) for number in range(5)]
        for _ in range(100):
            counter = dice.choice(counters)
            steps, seconds = dice.randrange(12), dice.choice((0, 0, 0.0005, 0.002))
            outcome = await cancelled_after(first_change(counter), steps, seconds)
            assert isinstance(outcome, int | asyncio.CancelledError), outcome
            outcome = await cancelled_after(counter.apeek(), steps, seconds)
            assert isinstance(outcome, int | asyncio.CancelledError), outcome
        for counter in counters:
            assert await first_change(counter) == 0
            await counter.aincrement()
            assert await counter.apeek() == 1

    with lab.here(proxied=False, heartbeat=60.0) as alias:
        asyncio.run(main(alias))
