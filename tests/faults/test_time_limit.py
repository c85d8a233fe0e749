"""Every operation ends within TIMEOUT, whatever the network or the server does: with a result or a clear error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dref_django import Counter, DRef, OutcomeUnknown, Unavailable
from tests.faults.labs import Lab

pytestmark = pytest.mark.alone

TIMEOUT = 1.0
SLACK = 0.8
"""Seconds for a shared machine that stands still now and then; a second TIMEOUT on top of the first is found out."""
ENDINGS = (Unavailable, OutcomeUnknown)
LARGE = "x" * 200_000

TROUBLES: dict[str, Callable[[Lab], object]] = {
    "black hole": lambda lab: lab.proxy.blackhole(),
    "requests lost": lambda lab: lab.proxy.blackhole(replies=False),
    "replies lost": lambda lab: lab.proxy.blackhole(requests=False),
    "frozen server": lambda lab: lab.server.pause(),
    "refused": lambda lab: lab.proxy.refuse(),
    "trickle": lambda lab: lab.proxy.trickle(TIMEOUT / 4),
}


def recover(lab: Lab) -> None:
    lab.server.resume()
    lab.proxy.heal()
    lab.proxy.accept()


Timed = tuple[str, Any, float]


def timed(label: str, act: Callable[[], Any]) -> Timed:
    started = time.monotonic()
    try:
        result = act()
    except Exception as error:
        result = error
    return label, result, time.monotonic() - started


async def atimed(label: str, act: Callable[[], Awaitable[Any]]) -> Timed:
    started = time.monotonic()
    try:
        result = await act()
    except Exception as error:
        result = error
    return label, result, time.monotonic() - started


def in_threads(counter: Counter, text: DRef[str]) -> list[Timed]:
    acts: dict[str, Callable[[], Any]] = {
        "get": counter.get,
        "get of a large value": text.get,
        "increment": counter.increment,
        "increment again": counter.increment,
        "set": lambda: text.set(LARGE),
        "update": lambda: text.update(lambda old: f"{old}!"),
        "delete": DRef("no-such-ref", None, using=counter.using).delete,
        "peek": DRef("never-peeked", None, using=counter.using).peek,
        "changes": DRef("never-watched", None, using=counter.using).changes().__enter__,
    }
    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(lambda item: timed(*item), acts.items()))


def on_a_loop(counter: Counter, text: DRef[str], used: bool, trouble: Callable[[], object]) -> list[Timed]:
    acts: dict[str, Callable[[], Awaitable[Any]]] = {
        "aget": counter.aget,
        "aget of a large value": text.aget,
        "aincrement": counter.aincrement,
        "aincrement again": counter.aincrement,
        "aset": lambda: text.aset(LARGE),
        "aupdate": lambda: text.aupdate(lambda old: f"{old}!"),
        "adelete": DRef("no-such-ref", None, using=counter.using).adelete,
        "apeek": DRef("never-peeked", None, using=counter.using).apeek,
        "changes": DRef("never-watched", None, using=counter.using).changes().__aenter__,
    }

    async def main() -> list[Timed]:
        if used:
            await asyncio.gather(counter.aget(), text.aget())
        trouble()
        return await asyncio.gather(*(atimed(label, act) for label, act in acts.items()))

    return asyncio.run(main())


@pytest.mark.parametrize("used", [True, False], ids=["used", "fresh"])
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_operations_end_in_time_and_work_again_afterwards(lab: Lab, trouble: str, way: str, used: bool) -> None:
    with lab.here(proxied=False) as direct:
        Counter("counted", using=direct).set(0)
        DRef("text", "", using=direct).set(LARGE)
    with lab.here(timeout=TIMEOUT, options=lab.small_pool) as alias:
        counter, text = Counter("counted", using=alias), DRef("text", "", using=alias)
        if used:
            counter.get()
            text.get()
        if way == "sync":
            TROUBLES[trouble](lab)
            endings = in_threads(counter, text)
        else:
            endings = on_a_loop(counter, text, used, lambda: TROUBLES[trouble](lab))

        late = [(label, round(seconds, 2), result) for label, result, seconds in endings if seconds > TIMEOUT + SLACK]
        assert not late, f"longer than {TIMEOUT} s: {late}"
        strange = [
            (label, result)
            for label, result, _ in endings
            if isinstance(result, Exception) and not isinstance(result, ENDINGS)
        ]
        assert not strange, strange
        assert any(isinstance(result, ENDINGS) for _, result, _ in endings), "there was no trouble at all"

        recover(lab)
        outcomes = [result for label, result, _ in endings if "increment" in label]
        unknown = sum(isinstance(result, OutcomeUnknown) for result in outcomes)
        acked = sum(isinstance(result, int) for result in outcomes)
        with lab.here(proxied=False) as direct:
            assert acked <= Counter("counted", using=direct).get() <= acked + unknown
        _, result, seconds = timed("get", counter.get)
        assert isinstance(result, int), result
        assert seconds < TIMEOUT + SLACK
