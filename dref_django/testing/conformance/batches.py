"""Batches: one atomic step or none, and the memory of what was applied."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dref_django.backends import Backend
from dref_django.protocol import (
    ABSENT,
    INT_MAX,
    RING_SIZE,
    Acquire,
    Add,
    Check,
    Command,
    Delete,
    Expire,
    Find,
    Read,
    Reply,
    Scan,
    ScanLeases,
    Splice,
    Status,
    Write,
)

from .contract import NOW, SECOND, Client, Contract

ABORTED = Reply(Status.ABORTED)


def op(number: int) -> bytes:
    return number.to_bytes(8, "big")


class BatchContract(Contract):
    def test_replies_stand_in_the_order_of_the_commands(self, client: Client, names: list[str]) -> None:
        a, b, c = names
        replies = client.batch([Write(c, b"x"), Add(a, 3), Read(b)])
        assert replies == [
            Reply(Status.APPLIED, None, NOW, None, False),
            Reply(Status.APPLIED, 3, NOW, None, False),
            Reply(Status.APPLIED),
        ]

    def test_reads_of_many_names_travel_together(self, client: Client, name: str) -> None:
        written = {f"{name}/{number}": number for number in range(20)}
        for each, number in written.items():
            client(Write(each, number))
        replies = client.batch([*(Read(each) for each in written), Read(f"{name}/none"), Find(f"{name}/3", op(1))])
        assert [reply.data for reply in replies[:-2]] == list(written.values())
        assert replies[-2:] == [Reply(Status.APPLIED), Reply(Status.NOT_FOUND)]

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_first_failing_command_undoes_the_batch(self, client: Client, names: list[str], place: int) -> None:
        a, b, c = names
        version = client(Write(a, INT_MAX)).version
        client(Write(b, b"old"))
        client(Write(c, 5))
        commands: list[Command] = [Write(b, b"new"), Add(c, 1)]
        commands.insert(place, Add(a, 1))
        replies = client.batch(commands)
        assert replies.pop(place) == Reply(Status.OVERFLOW, INT_MAX, version, None, True)
        assert replies == [ABORTED, ABORTED]
        assert [client.data(each) for each in names] == [INT_MAX, b"old", 5]
        assert [client(Read(each)).version for each in names] == [NOW, NOW, NOW]

    def test_failing_command_leaves_no_trace_of_what_it_would_have_made(self, client: Client, names: list[str]) -> None:
        a, b, c = names
        client(Write(a, b"bytes"))
        assert client.batch([Write(b, 1), Add(c, 1), Add(a, 1)])[:2] == [ABORTED, ABORTED]
        assert client.batch([Read(b), Read(c)]) == [Reply(Status.APPLIED)] * 2

    def test_only_the_first_of_two_failing_commands_has_its_own_status(self, client: Client, names: list[str]) -> None:
        a, b, c = names
        client(Write(b, b"bytes"))
        replies = client.batch([Write(a, 1), Add(b, 1), Check(c, 5)])
        assert replies == [ABORTED, Reply(Status.WRONG_KIND, b"bytes", NOW, None, True), ABORTED]

    @pytest.mark.parametrize(
        ("failing", "status"),
        [
            (lambda name: Check(name, 7), Status.CONFLICT),
            (lambda name: Write(name, b"", ABSENT), Status.CONFLICT),
            (lambda name: Write(name, Splice(9, 9, b"x"), NOW), Status.WRONG_KIND),
            (lambda name: Add(name, 1), Status.WRONG_KIND),
            (lambda name: Delete(name, 7), Status.CONFLICT),
        ],
        ids=["check", "write", "splice", "add", "delete"],
    )
    def test_every_kind_of_failure_aborts(
        self, client: Client, names: list[str], failing: object, status: Status
    ) -> None:
        assert callable(failing)
        a, b, _ = names
        client(Write(b, b"value"))
        replies = client.batch([Write(a, 1), failing(b)])
        assert replies == [ABORTED, Reply(status, b"value", NOW, None, True)]
        assert client(Read(a)) == Reply(Status.APPLIED)

    def test_expire_of_nothing_aborts(self, client: Client, names: list[str]) -> None:
        a, b, _ = names
        assert client.batch([Write(a, 1), Expire(b, SECOND)]) == [ABORTED, Reply(Status.CONFLICT)]
        assert client.data(a) is None

    def test_checked_reads_and_writes_are_one_step(self, client: Client, names: list[str]) -> None:
        a, b, c = names
        version = client(Write(a, 10)).version
        applied = client.batch([Check(a, version), Check(c, ABSENT), Write(b, 20)])
        assert [reply.status for reply in applied] == [Status.APPLIED] * 3
        client(Add(a, 1))
        refused = client.batch([Check(a, version), Write(b, 30)])
        assert refused == [Reply(Status.CONFLICT, 11, version + 1, None, True), ABORTED]
        assert client.data(b) == 20

    def test_aborted_batch_leaves_no_deadline_and_no_op_id(self, client: Client, names: list[str]) -> None:
        a, b, _ = names
        version = client(Write(a, b"x")).version
        client.batch([Expire(a, SECOND, op(1)), Write(b, 1, 7, op=op(2))])
        assert client(Read(a)) == Reply(Status.APPLIED, b"x", version, None, True)
        assert client.batch([Find(a, op(1)), Find(b, op(2))]) == [Reply(Status.NOT_FOUND)] * 2

    @pytest.mark.parametrize(
        "commands",
        [
            [Write("n", 1), Add("n", 1)],
            [Read("n"), Delete("n")],
            [Find("n", b"12345678"), Write("n", 1)],
            [Acquire("n", "o", SECOND), Read("n")],
            [Scan(), Read("n")],
            [ScanLeases(), ScanLeases()],
        ],
    )
    def test_commands_that_do_not_stand_together_are_refused(self, client: Client, commands: list[Command]) -> None:
        with pytest.raises(ValueError, match=r"batch"):
            client.batch(commands)

    def test_concurrent_batches_are_each_one_step(self, backend: Backend, names: list[str]) -> None:
        """Amounts move between two counters; whoever looks within a batch finds none of them on the way."""
        a, b, c = names
        backend.execute([Write(a, 1000)])
        sums: list[int] = []
        barrier = threading.Barrier(4)

        def move(amount: int) -> None:
            barrier.wait(10)
            for _ in range(25):
                replies = backend.execute([Add(a, -amount), Add(b, amount), Add(c, 1)])
                sums.append(_total(replies[:2]))
                sums.append(_total(backend.execute([Add(c, 1), Read(a), Read(b)])[1:]))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(move, amount) for amount in (1, 2, 3, 4)]:
                done.result()
        assert set(sums) == {1000}
        assert backend.execute([Read(c)])[0].data == 200

    def test_concurrent_conditional_writes_have_one_winner_a_version(self, backend: Backend, name: str) -> None:
        wins: list[int] = []
        backend.execute([Write(name, 0)])

        def write(_: int) -> None:
            (seen,) = backend.execute([Read(name)])
            while len(wins) < 60:
                assert isinstance(seen.data, int)
                (reply,) = backend.execute([Write(name, seen.data + 1, seen.version)])
                if reply.status is Status.APPLIED:
                    wins.append(reply.version)
                    (reply,) = backend.execute([Read(name)])
                seen = reply

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert len(set(wins)) == len(wins)
        assert backend.execute([Read(name)])[0].data == len(wins)


def _total(replies: list[Reply]) -> int:
    return sum(reply.data for reply in replies if isinstance(reply.data, int))


class OpIdContract(Contract):
    """The proof of a mutation whose reply was lost."""

    def test_every_kind_of_mutation_is_found_with_version_and_result(self, client: Client, name: str) -> None:
        client(Write(name, 5, op=op(1)))
        client(Add(name, -7, op=op(2)))
        client(Expire(name, SECOND, op=op(3)))
        client(Write(name, b"x", op=op(4)))
        client(Delete(name, op=op(5)))
        found = client.batch([Find(name, op(number)) for number in range(1, 6)])
        results = [0, -2, 1, 1, 1]
        assert found == [Reply(Status.APPLIED, each, NOW + place, None, True) for place, each in enumerate(results)]

    def test_great_sums_are_found_exactly(self, client: Client, name: str) -> None:
        client(Add(name, INT_MAX, op=op(1)))
        assert client(Find(name, op(1))).data == INT_MAX

    def test_the_last_eight_are_remembered(self, client: Client, name: str) -> None:
        for number in range(RING_SIZE + 1):
            client(Add(name, 1, op=op(number)))
        found = client.batch([Find(name, op(number)) for number in range(RING_SIZE + 1)])
        assert [reply.data for reply in found] == [None, *range(2, RING_SIZE + 2)]
        assert found[0] == Reply(Status.NOT_FOUND)

    def test_mutations_without_op_id_push_none_out(self, client: Client, name: str) -> None:
        client(Add(name, 1, op=op(1)))
        for _ in range(RING_SIZE + 1):
            client(Add(name, 1))
        assert client(Find(name, op(1))).status is Status.APPLIED

    def test_op_id_outlives_delete_expiry_and_a_new_value(self, client: Client, name: str) -> None:
        client(Write(name, b"x", ttl=SECOND, op=op(1)))
        assert client(Find(name, op(1)), now=NOW + SECOND).status is Status.APPLIED
        client(Write(name, b"y", op=op(2)), now=NOW + SECOND)
        client(Delete(name, op=op(3)), now=NOW + SECOND)
        found = client.batch([Find(name, op(number)) for number in (1, 2, 3)], now=NOW + SECOND)
        assert [reply.status for reply in found] == [Status.APPLIED] * 3

    def test_refused_mutation_leaves_none(self, client: Client, name: str) -> None:
        client(Write(name, b"x"))
        client(Write(name, b"y", ABSENT, op=op(1)))
        client(Add(name, 1, op=op(2)))
        assert client.batch([Find(name, op(1)), Find(name, op(2))]) == [Reply(Status.NOT_FOUND)] * 2

    def test_delete_of_nothing_leaves_none(self, client: Client, name: str) -> None:
        client(Delete(name, op=op(1)))
        assert client(Find(name, op(1))) == Reply(Status.NOT_FOUND)

    def test_op_ids_are_bytes_of_any_value(self, client: Client, name: str) -> None:
        for each in (b"\0" * 8, b"\xff" * 8, b"\r\n:,\\'\"\0"):
            client(Add(name, 1, op=each))
            assert client(Find(name, each)).status is Status.APPLIED
        assert client(Find(name, b"\0" * 7 + b"\1")).status is Status.NOT_FOUND
