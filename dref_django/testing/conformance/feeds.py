"""Feeds: a subscription holds from the moment it returns, notices continue each other, waiters are woken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dref_django import background
from dref_django.backends import Backend
from dref_django.naming import GROUP_SEPARATOR
from dref_django.protocol import (
    Acquire,
    Add,
    Break,
    Data,
    Delete,
    Expire,
    Notice,
    Patch,
    Read,
    Release,
    Splice,
    Status,
    Wake,
    Write,
)

from .contract import NOW, SECOND, Client, Contract, listening
from .entries import VALUES
from .listener import Listener, replay
from .scans import ODD


class FeedContract(Contract):
    def test_what_is_written_after_subscribing_is_noticed(self, client: Client, listener: Listener, name: str) -> None:
        for number in range(10):
            each = f"{name}.{number}"
            listener.subscribe(each)
            version = client(Write(each, number)).version
            assert listener.wait_for_version(each, version) == [Notice(each, version, 0, Patch.FULL, number)]

    def test_every_change_is_told_with_what_came_before_it(self, client: Client, listener: Listener, name: str) -> None:
        listener.subscribe(name)
        client(Write(name, b"0123456789" * 5, ttl=SECOND))
        client(Write(name, Splice(5, 7, b"x"), NOW, None))
        client(Expire(name, SECOND))
        client(Write(name, 7))
        client(Add(name, 1))
        client(Expire(name, SECOND))
        last = client(Delete(name)).version
        notices = listener.wait_for_version(name, last)
        assert [(notice.base, notice.version) for notice in notices] == [
            (0, NOW),
            *((NOW + step, NOW + step + 1) for step in range(6)),
        ]
        assert [notice.left for notice in notices] == [SECOND, None, SECOND, None, None, SECOND, None]
        assert notices[-1].patch is Patch.GONE
        assert replay(None, 0, notices[:4], _never) == 7
        assert replay(None, 0, notices, _never) is None

    @pytest.mark.parametrize("data", VALUES.values(), ids=VALUES)
    def test_notice_leads_to_the_value_or_hints_at_it(
        self, client: Client, listener: Listener, name: str, data: Data
    ) -> None:
        listener.subscribe(name)
        version = client(Write(name, data)).version
        (notice,) = listener.wait_for_version(name, version)
        assert replay(None, 0, [notice], lambda: client.data(name)) == data
        if isinstance(data, int):
            assert notice.patch is Patch.FULL

    def test_splice_of_a_large_value_travels_as_a_splice(self, client: Client, listener: Listener, name: str) -> None:
        old = VALUES["1 MiB"]
        assert isinstance(old, bytes)
        version = client(Write(name, old)).version
        listener.subscribe(name)
        spliced = client(Write(name, Splice(500_000, 500_003, b"new!"), version)).version
        notice = listener.wait_for_version(name, spliced)[-1]
        assert notice == Notice(name, spliced, version, Patch.SPLICE, None, Splice(500_000, 500_003, b"new!"))
        notice = listener.wait_for_version(name, client(Expire(name, SECOND)).version)[-1]
        assert replay(old, spliced, [notice], _never) == old

    def test_write_after_expiry_continues_from_the_expiry(self, client: Client, listener: Listener, name: str) -> None:
        version = client(Write(name, 1, ttl=SECOND)).version
        listener.subscribe(name)
        after = client(Write(name, 2), now=NOW + SECOND).version
        assert listener.wait_for_version(name, after)[-1].base == version + 1

    def test_what_changes_nothing_is_not_told(self, client: Client, listener: Listener, names: list[str]) -> None:
        a, b, c = names
        listener.subscribe(*names)
        client(Delete(a))
        client(Write(b, b"x"))
        client.batch([Write(a, 1), Write(c, 1), Add(b, 1)])
        client(Write(b, b"y", 7))
        client(Read(b))
        last = client(Write(c, b"last")).version
        listener.wait_for_version(c, last)
        version = client(Delete(b)).version
        assert [notice.patch for notice in listener.wait_for_version(b, version)] == [Patch.FULL, Patch.GONE]
        assert listener.of(a) == []
        assert [notice.version for notice in listener.of(c)] == [last]

    def test_batch_is_told_name_by_name(self, client: Client, listener: Listener, names: list[str]) -> None:
        listener.subscribe(*names)
        replies = client.batch([Write(each, place) for place, each in enumerate(names)])
        for place, (each, reply) in enumerate(zip(names, replies, strict=True)):
            assert listener.wait_for_version(each, reply.version) == [Notice(each, reply.version, 0, Patch.FULL, place)]

    @pytest.mark.parametrize("ending", ODD.values(), ids=ODD)
    def test_odd_names_and_prefixes_are_heard_to_the_letter(
        self, client: Client, listener: Listener, name: str, ending: str
    ) -> None:
        exact, prefix = f"{name}.n{ending}", f"{name}.p{ending}"
        listener.subscribe(exact, prefixes=[prefix])
        for other in (f"{exact}x", f"{name}.n", f"{name}.p", f"{name}.p0{ending}", prefix[:-1] + "~", exact[:-1]):
            if other != exact and not other.startswith(prefix):
                client(Write(other, 0))
        for each in (exact, prefix, f"{prefix}x", f"{prefix}{ending}"):
            listener.wait_for_version(each, client(Write(each, 1)).version)
        assert {notice.data for notice in listener.notices} == {1}

    def test_empty_prefix_hears_everything(self, client: Client, listener: Listener, name: str) -> None:
        listener.subscribe(prefixes=[""])
        for each in (name, f"~{name}", f"{name}{GROUP_SEPARATOR}member"):
            listener.wait_for_version(each, client(Write(each, 1)).version)

    def test_name_that_is_also_under_a_prefix_is_told_at_least_once_and_goes_on_without_it(
        self, client: Client, listener: Listener, name: str
    ) -> None:
        listener.subscribe(name, prefixes=[name])
        listener.wait_for_version(name, client(Write(name, 1)).version)
        listener.unsubscribe(prefixes=[name])
        listener.wait_for_version(name, client(Write(name, 2)).version)

    def test_unsubscribed_name_can_be_subscribed_again(self, client: Client, listener: Listener, name: str) -> None:
        for number in range(3):
            listener.subscribe(name)
            listener.wait_for_version(name, client(Write(name, number)).version)
            listener.unsubscribe(name)

    def test_every_feed_hears_every_change(self, client: Client, listener: Listener, peer: Backend, name: str) -> None:
        listener.subscribe(name)
        with listening(peer) as other:
            other.subscribe(name)
            version = client(Write(name, b"x")).version
            assert listener.wait_for_version(name, version) == other.wait_for_version(name, version)
            assert listener.epochs == other.epochs

    def test_feed_delivers_on_the_background_loop(self, client: Client, listener: Listener, name: str) -> None:
        listener.subscribe(name)
        listener.wait_for_version(name, client(Write(name, 1)).version)
        assert len(listener.threads) == 1
        assert threading.get_ident() not in listener.threads

    def test_concurrent_writers_are_told_without_a_hole(self, backend: Backend, listener: Listener, name: str) -> None:
        listener.subscribe(name)

        def write(_: int) -> None:
            for _ in range(50):
                backend.execute([Add(name, 1)])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        (last,) = backend.execute([Read(name)])
        notices = listener.wait_for_version(name, last.version, base=0)
        assert replay(None, 0, notices, _never) == last.data == 200
        assert [notice.data for notice in notices] == list(range(1, 201))

    def test_read_after_subscribing_and_notices_leave_no_hole(
        self, backend: Backend, listener: Listener, name: str
    ) -> None:
        """A snapshot that is read once the subscription is confirmed, then what follows, is everything."""
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                backend.execute([Add(name, 1)])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                listener.subscribe(name)
                (snapshot,) = backend.execute([Read(name)])
                (later,) = backend.execute([Add(name, 0)])
                notices = listener.wait_for_version(name, later.version, base=snapshot.version)
                assert replay(snapshot.data, snapshot.version, notices, _never) == later.data
                listener.unsubscribe(name)
                listener.notices.clear()
        finally:
            done.set()
            writer.join()


class WakeContract(Contract):
    """Wakes go to the process whose `node_id` begins the waiter's name."""

    @pytest.fixture
    def owner(self, backend: Backend) -> Callable[[int], str]:
        return lambda number: f"{backend.node_id()}/{number}"

    def test_release_wakes_the_next_waiter(
        self, client: Client, listener: Listener, name: str, owner: Callable[[int], str]
    ) -> None:
        client(Acquire(name, "other/1", SECOND))
        client(Acquire(name, owner(1), SECOND, 10 * SECOND))
        client(Release(name, "other/1"))
        listener.wait_for_wake(Wake(name, owner(1)))
        assert client(Acquire(name, owner(1), SECOND, SECOND)).status is Status.APPLIED

    def test_waiter_that_gives_up_its_turn_passes_the_wake_on(
        self, client: Client, listener: Listener, name: str, owner: Callable[[int], str]
    ) -> None:
        client(Acquire(name, "other/1", SECOND))
        client(Acquire(name, owner(1), SECOND, 10 * SECOND))
        client(Acquire(name, owner(2), SECOND, 10 * SECOND))
        client(Release(name, "other/1"))
        client(Release(name, owner(1)))
        listener.wait_for_wake(Wake(name, owner(2)))

    def test_break_wakes_the_holder_and_the_next_waiter(
        self, client: Client, listener: Listener, name: str, owner: Callable[[int], str]
    ) -> None:
        client(Acquire(name, owner(1), SECOND))
        client(Acquire(name, owner(2), SECOND, 10 * SECOND))
        client(Break(name))
        listener.wait_for_wake(Wake(name, owner(1)))
        listener.wait_for_wake(Wake(name, owner(2)))

    def test_newcomer_at_a_free_lease_wakes_who_is_first(
        self, client: Client, listener: Listener, name: str, owner: Callable[[int], str]
    ) -> None:
        """The lease ran out unnoticed: whoever asks next tells the first waiter."""
        client(Acquire(name, "other/1", SECOND), now=NOW)
        client(Acquire(name, owner(1), SECOND, 10 * SECOND), now=NOW)
        refused = client(Acquire(name, "other/2", SECOND, SECOND), now=NOW + SECOND)
        assert refused.status is Status.HELD
        listener.wait_for_wake(Wake(name, owner(1)))

    def test_wakes_need_no_subscription_and_reach_the_process_of_the_waiter(
        self, client: Client, peer: Backend, name: str
    ) -> None:
        with listening(peer) as listener:
            waiter = f"{peer.node_id()}/1"
            client(Acquire(name, "other/1", SECOND))
            peer.execute([Acquire(name, waiter, SECOND, 10 * SECOND)], now=NOW)
            client(Release(name, "other/1"))
            listener.wait_for_wake(Wake(name, waiter))


class LoopContract(Contract):
    """The asynchronous twin belongs to whatever loop runs it."""

    def test_loops_one_after_the_other(self, backend: Backend, name: str) -> None:
        async def add() -> Data | None:
            (reply,) = await backend.aexecute([Add(name, 1)])
            return reply.data

        assert [asyncio.run(add()) for _ in range(20)] == list(range(1, 21))

    def test_two_loops_at_once(self, backend: Backend, name: str) -> None:
        async def add_many() -> None:
            for _ in range(25):
                await asyncio.gather(*(backend.aexecute([Add(name, 1)]) for _ in range(4)))

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(lambda: asyncio.run(add_many())) for _ in range(2)]:
                done.result()
        assert backend.execute([Read(name)])[0].data == 200

    def test_background_loop_may_call_too(self, backend: Backend, name: str) -> None:
        (reply,) = background.submit(backend.aexecute([Add(name, 1)])).result(10)
        assert reply.data == 1

    def test_cancelled_call_leaves_the_back_end_usable(self, backend: Backend, name: str) -> None:
        async def cancel_some() -> None:
            for _ in range(10):
                calls = [asyncio.ensure_future(backend.aexecute([Add(name, 1)])) for _ in range(3)]
                await asyncio.sleep(0)
                for call in calls[:2]:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            replies = [await backend.aexecute([Read(f"{name}.{number}")]) for number in range(10)]
            assert [reply.version for (reply,) in replies] == [0] * 10

        asyncio.run(cancel_some())
        (reply,) = backend.execute([Read(name)])
        assert isinstance(reply.data, int)
        assert 10 <= reply.data <= 30


def _never() -> Data | None:
    raise AssertionError("a value this small, or a splice, travels with its notice")
