"""Semaphores and read/write locks: bounds, order, what a crash leaves, and both ways to call them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from django.db import transaction

from dref_django import LockLost, LockTimeout, ReadWriteLock, Semaphore
from dref_django.backends import Backend
from dref_django.inspection import break_lock, lock_info, locks
from dref_django.locks import Lock
from dref_django.protocol import Acquire, Inspect, ScanLeases
from tests.children import PATIENCE, Child
from tests.processes import wait_until

InThread: TypeAlias = Callable[..., concurrent.futures.Future[Any]]


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        yield pool.submit


def waiters(backend: Backend, lease: str) -> int:
    (reply,) = backend.execute([Inspect(lease)])
    return 0 if reply.lease is None else len(reply.lease.waiters)


def until_waiting(backend: Backend, lease: str, count: int) -> None:
    wait_until(lambda: waiters(backend, lease) == count, f"{count} waiting for {lease!r}", PATIENCE)


def nothing_is_left(backend: Backend) -> None:
    """What is given back in the background included."""

    def free() -> bool:
        (reply,) = backend.execute([ScanLeases()])
        return not reply.page

    wait_until(free, "all leases to be free", PATIENCE)


class Gauge:
    """How many are inside at once, and the most there ever were."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.inside = self.most = 0

    def __enter__(self) -> None:
        with self._mutex:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self.inside -= 1


class TestSemaphore:
    def test_as_many_as_there_are_permits_and_no_more(self, any_backend: Backend) -> None:
        pool = Semaphore("pool", 3, timeout=0)
        with pool, pool, pool:
            with pytest.raises(LockTimeout, match="none of its 3 permits"):
                pool.acquire()
        with pool:
            pass
        nothing_is_left(any_backend)

    def test_never_more_at_once_however_many_come(self, any_backend: Backend, peer: str, in_thread: InThread) -> None:
        gauge = Gauge()
        here, there = Semaphore("pool", 3, timeout=None), Semaphore("pool", 3, timeout=None, using=peer)

        def work(pool: Semaphore) -> None:
            for _ in range(4):
                with pool, gauge:
                    pass

        for job in [in_thread(work, pool) for pool in (here, there) for _ in range(6)]:
            job.result(PATIENCE)
        assert 1 <= gauge.most <= 3
        nothing_is_left(any_backend)

    def test_a_release_wakes_the_waiter(self, any_backend: Backend, peer: str, in_thread: InThread) -> None:
        held = Semaphore("pool", 1).acquire()
        waiter = in_thread(Semaphore("pool", 1, using=peer, timeout=PATIENCE).acquire)
        until_waiting(any_backend, "semaphore:pool\x1f0", 1)
        Semaphore("pool", 1).release(held)
        assert waiter.result(2).token > held.token  # well before any recheck

    def test_all_waiters_are_served_in_the_order_of_their_coming_where_waiters_are_fifo(
        self, any_backend: Backend, in_thread: InThread
    ) -> None:
        pool = Semaphore("pool", 2, timeout=PATIENCE)
        held = [pool.acquire(), pool.acquire()]
        served: list[int] = []
        mutex = threading.Lock()

        def wait(number: int) -> None:
            with pool, mutex:
                served.append(number)

        jobs = []
        for number in range(4):
            jobs.append(in_thread(wait, number))
            if number:
                until_waiting(any_backend, "semaphore:pool", number)
            else:
                until_waiting(any_backend, "semaphore:pool\x1f0", 1)
        pool.release(held[0])
        for job in jobs:
            job.result(PATIENCE)
        assert (served if any_backend.fifo_waiters else sorted(served)) == [0, 1, 2, 3]
        pool.release(held[1])

    def test_who_waits_is_not_overtaken_by_who_comes_later(self, any_backend: Backend, in_thread: InThread) -> None:
        pool = Semaphore("pool", 2)
        held = [pool.acquire(), pool.acquire()]
        waiter = in_thread(pool.acquire, PATIENCE)
        until_waiting(any_backend, "semaphore:pool\x1f0", 1)
        pool.release(held[0])
        late = in_thread(pool.acquire, 0.5)
        first = waiter.result(PATIENCE)
        with pytest.raises(LockTimeout):
            late.result(PATIENCE)
        for one in (first, held[1]):
            pool.release(one)
        nothing_is_left(any_backend)

    def test_a_free_permit_is_not_taken_past_the_head_of_the_queue_but_by_who_will_not_wait(
        self, any_backend: Backend
    ) -> None:
        """As in the moment between becoming the head and asking for the permits."""
        pool = Semaphore("pool", 2)
        any_backend.execute([Acquire("semaphore:pool", "the-head", 30_000_000)])
        with pytest.raises(LockTimeout):
            pool.acquire(timeout=0.05)
        pool.release(pool.acquire(timeout=0))

    def test_a_wait_that_times_out_leaves_no_place_behind(self, any_backend: Backend, in_thread: InThread) -> None:
        pool = Semaphore("pool", 2)
        held = [pool.acquire(), pool.acquire()]
        for timeout in (0, 0.05):
            with pytest.raises(LockTimeout):
                pool.acquire(timeout)
        assert not waiters(any_backend, "semaphore:pool\x1f0")
        assert lock_info("pool", kind="semaphore") is None
        for one in held:
            pool.release(one)

    async def test_a_cancelled_wait_leaves_no_place_behind(self, any_backend: Backend) -> None:
        pool = Semaphore("pool", 1)
        async with pool:
            task = asyncio.create_task(pool.aacquire(PATIENCE))
            await asyncio.to_thread(until_waiting, any_backend, "semaphore:pool\x1f0", 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(nothing_is_left, any_backend)

    async def test_async_holders_and_waiters(self, any_backend: Backend) -> None:
        pool = Semaphore("pool", 2, timeout=PATIENCE)
        gauge = Gauge()

        both = asyncio.Barrier(2)

        async def work() -> None:
            async with pool:
                with gauge:
                    await both.wait()

        await asyncio.gather(*(work() for _ in range(8)))
        assert gauge.most == 2

    def test_a_permit_that_is_broken_is_told_as_a_loss(self, any_backend: Backend) -> None:
        pool = Semaphore("pool", 2, ttl=1)
        held = pool.acquire()
        assert break_lock(held.lease.partition(":")[2], kind="semaphore")
        assert held.lost.wait(PATIENCE)
        with pytest.raises(LockLost, match="semaphore 'pool'"):
            pool.release(held)

    def test_a_permit_kept_until_the_commit_is_adopted_in_a_loop(
        self, any_backend: Backend, transactional_db: None
    ) -> None:
        pool = Semaphore("pool", 1, timeout=0)
        with transaction.atomic():
            for _ in range(3):
                with pool:
                    pass
            with pytest.raises(LockTimeout):
                pool.acquire()
        with pool:
            pass

    def test_as_a_decorator_that_skips(self, any_backend: Backend) -> None:
        pool = Semaphore("pool", 1, timeout=0, otherwise="skip")
        results: list[object] = []

        @pool
        def inner() -> str:
            return "ran"

        @pool
        def outer() -> str:
            results.append(inner())
            return "ran"

        results.append(outer())
        assert results == [None, "ran"]

    @pytest.mark.parametrize("permits", [0, -1, 1001, True, 2.0, "3"])
    def test_a_number_of_permits_that_makes_no_sense_is_refused(self, permits: Any) -> None:
        with pytest.raises(ValueError, match="permits is a number from 1 to 1000"):
            Semaphore("pool", permits)


HOLDER = """
held = LOCK.acquire(timeout=20)
say("holds", held.token)
for order in orders():
    pass
"""


def holder(lock: str, backend: Backend) -> Child:
    return Child(HOLDER.replace("LOCK", lock), backend)


class TestDeath:
    """Holders and waiters in processes of their own, killed."""

    def test_a_permit_comes_free_with_the_lease_of_its_holder(self, served_backend: Backend) -> None:
        with holder('Semaphore("pool", 1, ttl=1)', served_backend) as child:
            child.hears("holds")
            child.kill()
            with Semaphore("pool", 1, timeout=PATIENCE):
                pass

    def test_a_killed_head_of_the_queue_is_passed_over(self, served_backend: Backend, in_thread: InThread) -> None:
        pool = Semaphore("pool", 2)
        held = [pool.acquire(), pool.acquire()]
        with holder('Semaphore("pool", 2, ttl=1)', served_backend) as head:
            until_waiting(served_backend, "semaphore:pool\x1f0", 1)
            waiter = in_thread(pool.acquire, PATIENCE)
            until_waiting(served_backend, "semaphore:pool", 1)
            head.kill()
            pool.release(held[1])
            pool.release(waiter.result(PATIENCE))
        pool.release(held[0])

    @pytest.mark.parametrize("side", ["read", "write"])
    def test_a_killed_reader_or_writer_holds_nobody_back(self, served_backend: Backend, side: str) -> None:
        with holder(f'ReadWriteLock("prices", ttl=1).{side}()', served_backend) as child:
            child.hears("holds")
            child.kill()
            with ReadWriteLock("prices").write(timeout=PATIENCE):
                pass

    def test_a_killed_writer_that_waited_for_readers_holds_nobody_back(self, served_backend: Backend) -> None:
        prices = ReadWriteLock("prices")
        with prices.read() as reader, holder('ReadWriteLock("prices", ttl=1).write()', served_backend) as child:
            until_waiting(served_backend, reader.lease, 1)
            child.kill()
            with prices.read(timeout=PATIENCE):
                pass


class TestReadWriteLock:
    def test_readers_share_and_keep_the_writer_out(self, any_backend: Backend, peer: str) -> None:
        here, there = ReadWriteLock("prices"), ReadWriteLock("prices", using=peer)
        with here.read() as one, there.read() as two:
            assert one.lease != two.lease
            for timeout in (0, 0.05):
                with pytest.raises(LockTimeout, match="readers"):
                    there.write(timeout=timeout).acquire()
        with there.write(timeout=0):
            pass
        nothing_is_left(any_backend)

    def test_a_writer_keeps_everybody_out(self, any_backend: Backend, peer: str) -> None:
        here, there = ReadWriteLock("prices"), ReadWriteLock("prices", using=peer)
        with here.write():
            for other in (there.read(timeout=0), there.write(timeout=0), here.read(timeout=0.05)):
                with pytest.raises(LockTimeout):
                    other.acquire()
        with there.read(timeout=0):
            pass
        nothing_is_left(any_backend)

    def test_the_last_reader_that_leaves_wakes_the_writer(
        self, any_backend: Backend, peer: str, in_thread: InThread
    ) -> None:
        read = ReadWriteLock("prices").read()
        readers = [read.acquire(), read.acquire()]
        write = ReadWriteLock("prices", using=peer).write(timeout=PATIENCE)
        writer = in_thread(write.acquire)
        for reader in readers:
            until_waiting(any_backend, reader.lease, 1)
            assert not writer.done()
            read.release(reader)
        write.release(writer.result(2))
        nothing_is_left(any_backend)

    def test_readers_that_come_after_a_waiting_writer_wait_behind_it(
        self, any_backend: Backend, in_thread: InThread
    ) -> None:
        prices = ReadWriteLock("prices")
        order: list[str] = []

        def enter(lock: Lock, name: str) -> None:
            with lock:
                order.append(name)

        early = prices.read().acquire()
        writer = in_thread(enter, prices.write(timeout=PATIENCE), "writer")
        until_waiting(any_backend, early.lease, 1)
        reader = in_thread(enter, prices.read(timeout=PATIENCE), "reader")
        until_waiting(any_backend, "rwlock:prices", 1)
        prices.read().release(early)
        for job in (writer, reader):
            job.result(PATIENCE)
        assert order == ["writer", "reader"]

    def test_nobody_reads_while_another_writes(self, any_backend: Backend, peer: str, in_thread: InThread) -> None:
        locks = [ReadWriteLock("prices"), ReadWriteLock("prices", using=peer)]
        writing, reading = Gauge(), Gauge()
        clashes: list[str] = []

        def write(lock: ReadWriteLock) -> None:
            for _ in range(4):
                with lock.write(timeout=None), writing:
                    if writing.inside > 1 or reading.inside:
                        clashes.append("writer")

        def read(lock: ReadWriteLock) -> None:
            for _ in range(8):
                with lock.read(timeout=None), reading:
                    if writing.inside:
                        clashes.append("reader")

        jobs = [in_thread(work, lock) for lock in locks for work in (write, read, read)]
        for job in jobs:
            job.result(PATIENCE)
        assert not clashes
        nothing_is_left(any_backend)

    def test_tokens_of_writers_rise(self, any_backend: Backend, peer: str) -> None:
        locks = [ReadWriteLock("prices"), ReadWriteLock("prices", using=peer)] * 2
        tokens = []
        for lock in locks:
            with lock.read():
                pass
            with lock.write() as held:
                tokens.append(held.token)
        assert tokens == sorted(set(tokens))

    def test_few_names_are_left_behind_on_the_server(self, any_backend: Backend) -> None:
        prices = ReadWriteLock("prices")
        seats = set()
        for _ in range(30):
            with prices.read() as one, prices.read() as two:
                seats |= {one.lease, two.lease}
        assert len(seats) == 2

    async def test_async_readers_and_writers(self, any_backend: Backend) -> None:
        prices = ReadWriteLock("prices")
        async with prices.read(), prices.read():
            with pytest.raises(LockTimeout):
                await prices.write(timeout=0).aacquire()
        async with prices.write():
            with pytest.raises(LockTimeout):
                await prices.read(timeout=0).aacquire()

    async def test_a_cancelled_writer_leaves_the_gate_open(self, any_backend: Backend) -> None:
        prices = ReadWriteLock("prices")
        async with prices.read() as reader:
            task = asyncio.create_task(prices.write(timeout=PATIENCE).aacquire())
            await asyncio.to_thread(until_waiting, any_backend, reader.lease, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with prices.read(timeout=PATIENCE):
                pass
        await asyncio.to_thread(nothing_is_left, any_backend)

    def test_inside_a_transaction_a_reader_is_covered_by_the_kept_write_lock(
        self, any_backend: Backend, transactional_db: None
    ) -> None:
        prices = ReadWriteLock("prices")
        with transaction.atomic():
            with prices.write(timeout=0) as writer:
                pass
            with prices.read(timeout=0) as reader:
                assert reader is writer
        with prices.write(timeout=0):
            pass

    def test_inside_a_transaction_a_kept_read_lock_is_no_write_lock(
        self, any_backend: Backend, transactional_db: None
    ) -> None:
        prices = ReadWriteLock("prices")
        with transaction.atomic():
            with prices.read(timeout=0):
                pass
            with prices.read(timeout=0):
                pass
            with pytest.raises(LockTimeout):
                prices.write(timeout=0).acquire()
        nothing_is_left(any_backend)

    def test_a_lost_reader_holds_no_writer_back(self, any_backend: Backend, peer: str) -> None:
        read = ReadWriteLock("prices", ttl=1).read()
        reader = read.acquire()
        assert break_lock(reader.lease.partition(":")[2], kind="rwlock")
        with ReadWriteLock("prices", using=peer).write(timeout=1):
            assert reader.lost.wait(PATIENCE)
        with pytest.raises(LockLost, match="rwlock 'prices'"):
            read.release(reader)

    def test_who_holds_it_can_be_listed(self, any_backend: Backend) -> None:
        with ReadWriteLock("prices").read():
            (info,) = locks("prices", kind="rwlock")
        assert info.held
        assert info.pid
