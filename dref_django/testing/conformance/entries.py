"""Reading, writing, counting, deleting: every command on one entry, its reply and its refusals."""

from __future__ import annotations

from typing import Final

import pytest

from dref_django.protocol import (
    ABSENT,
    GRAVE,
    INT_MAX,
    INT_MIN,
    KEEP,
    Add,
    Check,
    Data,
    Delete,
    Expire,
    Read,
    Reply,
    Splice,
    Status,
    Write,
)

from .contract import NOW, SECOND, Client, Contract

EVERY_BYTE: Final = bytes(range(256))
VALUES: Final[dict[str, Data]] = {
    "empty": b"",
    "zero byte": b"\0",
    "every byte": EVERY_BYTE,
    "digits": b"17",
    "7,999 bytes": EVERY_BYTE * 31 + b"x" * 63,
    "8,000 bytes": EVERY_BYTE * 31 + b"x" * 64,
    "8,001 bytes": EVERY_BYTE * 31 + b"x" * 65,
    "1 MiB": EVERY_BYTE * 4096,
    "zero": 0,
    "minus one": -1,
    "2**53 + 1": 2**53 + 1,
    "least integer": INT_MIN,
    "greatest integer": INT_MAX,
}


class EntryContract(Contract):
    def test_absent_name_reads_as_nothing_at_version_zero(self, client: Client, name: str) -> None:
        assert client(Read(name)) == Reply(Status.APPLIED)

    @pytest.mark.parametrize("data", VALUES.values(), ids=VALUES)
    def test_value_comes_back_as_it_was_written(self, client: Client, name: str, data: Data) -> None:
        assert client(Write(name, data)) == Reply(Status.APPLIED, None, NOW, None, False)
        assert client(Read(name)) == Reply(Status.APPLIED, data, NOW, None, True)
        assert type(client.data(name)) is type(data)

    def test_write_replaces_value_and_kind(self, client: Client, name: str) -> None:
        client(Write(name, b"text"))
        assert client(Write(name, 5)).existed
        assert client.data(name) == 5
        client(Write(name, b""))
        assert client.data(name) == b""

    # --- versions -----------------------------------------------------------------------------------------------

    def test_version_is_the_time_or_one_more_than_the_last(self, client: Client, name: str) -> None:
        assert client(Write(name, 1), now=NOW).version == NOW
        assert client(Write(name, 2), now=NOW).version == NOW + 1
        assert client(Add(name, 1), now=NOW + SECOND).version == NOW + SECOND
        assert client(Expire(name, SECOND), now=NOW).version == NOW + SECOND + 1
        assert client(Delete(name), now=NOW).version == NOW + SECOND + 2

    def test_version_rises_across_delete_and_a_clock_that_steps_back(self, client: Client, name: str) -> None:
        client(Write(name, b"old"), now=NOW)
        deleted = client(Delete(name), now=NOW + SECOND).version
        assert client(Read(name), now=NOW) == Reply(Status.APPLIED, None, deleted)
        assert client(Write(name, b"new"), now=NOW - GRAVE // 2).version == deleted + 1

    def test_version_rises_across_expiry_and_a_clock_that_steps_back(self, client: Client, name: str) -> None:
        written = client(Write(name, b"old", ttl=SECOND), now=NOW).version
        assert client(Read(name), now=NOW + SECOND) == Reply(Status.APPLIED, None, written + 1)
        assert client(Delete(name), now=NOW + SECOND) == Reply(Status.APPLIED, None, written + 1)
        again = client(Write(name, b"new"), now=NOW + SECOND).version
        assert again > written + 1
        assert client(Write(name, b"newer"), now=NOW - GRAVE // 2).version == again + 1

    def test_version_rises_within_the_grave_of_an_expired_entry(self, client: Client, name: str) -> None:
        client(Write(name, b"old", ttl=SECOND), now=NOW + 10 * SECOND)
        last = NOW + 10 * SECOND
        assert client(Write(name, b"new"), now=last + GRAVE // 2).version == last + GRAVE // 2

    def test_clock_of_the_server_makes_versions_that_are_exact_in_floats(self, client: Client, name: str) -> None:
        first = client(Write(name, 1), now=None).version
        second = client(Write(name, 1), now=None).version
        assert 1_700_000_000_000_000 < first < second < 2**53

    # --- conditions ---------------------------------------------------------------------------------------------

    def test_write_expecting_a_version_needs_that_version(self, client: Client, name: str) -> None:
        version = client(Write(name, b"one")).version
        refused = Reply(Status.CONFLICT, b"one", version, None, True)
        for expect in (version - 1, version + 1, ABSENT):
            assert client(Write(name, b"two", expect)) == refused
        assert client.data(name) == b"one"
        assert client(Write(name, b"two", version)) == Reply(Status.APPLIED, None, version + 1, None, True)
        assert client.data(name) == b"two"

    def test_write_expecting_absence_needs_absence(self, client: Client, name: str) -> None:
        assert client(Write(name, 1, ABSENT)).status is Status.APPLIED
        assert client(Write(name, 2, ABSENT)) == Reply(Status.CONFLICT, 1, NOW, None, True)
        deleted = client(Delete(name)).version
        assert client(Write(name, 3, deleted)) == Reply(Status.CONFLICT, None, deleted)
        assert client(Write(name, 3, ABSENT)).version == deleted + 1

    def test_write_expecting_absence_succeeds_after_expiry(self, client: Client, name: str) -> None:
        client(Write(name, 1, ttl=SECOND))
        refused = client(Write(name, 2, ABSENT), now=NOW + SECOND - 1)
        assert refused == Reply(Status.CONFLICT, 1, NOW, 1, True)
        assert client(Write(name, 2, ABSENT), now=NOW + SECOND).status is Status.APPLIED

    def test_check_alone_answers_and_changes_nothing(self, client: Client, name: str) -> None:
        assert client(Check(name, ABSENT)).status is Status.APPLIED
        version = client(Write(name, b"x", ttl=SECOND)).version
        assert client(Check(name, version)) == Reply(Status.APPLIED, None, version, SECOND, True)
        assert client(Check(name, ABSENT)) == Reply(Status.CONFLICT, b"x", version, SECOND, True)
        assert client(Read(name)).version == version

    def test_read_of_a_known_version_travels_without_data(self, client: Client, name: str) -> None:
        assert client(Read(name, 0)) == Reply(Status.UNCHANGED)
        version = client(Write(name, b"x", ttl=SECOND)).version
        assert client(Read(name, version)) == Reply(Status.UNCHANGED, None, version, SECOND, True)
        assert client(Read(name, version - 1)) == Reply(Status.APPLIED, b"x", version, SECOND, True)
        assert client(Read(name, version), now=NOW + SECOND) == Reply(Status.APPLIED, None, version + 1)
        deleted = client(Delete(name)).version
        assert client(Read(name, deleted)) == Reply(Status.UNCHANGED, None, deleted)

    # --- time to live -------------------------------------------------------------------------------------------

    def test_value_is_gone_when_its_time_is_over_to_the_microsecond(self, client: Client, name: str) -> None:
        assert client(Write(name, b"x", ttl=1500)) == Reply(Status.APPLIED, None, NOW, 1500, False)
        assert client(Read(name), now=NOW + 1499) == Reply(Status.APPLIED, b"x", NOW, 1, True)
        assert client(Read(name), now=NOW + 1500) == Reply(Status.APPLIED, None, NOW + 1)

    def test_write_without_ttl_clears_it_and_keep_keeps_it(self, client: Client, name: str) -> None:
        client(Write(name, 1, ttl=SECOND), now=NOW)
        assert client(Write(name, 2, ttl=KEEP), now=NOW + 1000).left == SECOND - 1000
        assert client(Read(name), now=NOW + 2000).left == SECOND - 2000
        assert client(Write(name, 3), now=NOW + 3000).left is None
        assert client(Write(name, 4, ttl=KEEP), now=NOW + 4000).left is None
        assert client(Read(name), now=NOW + GRAVE).data == 4

    def test_add_keeps_the_deadline(self, client: Client, name: str) -> None:
        client(Write(name, 1, ttl=SECOND), now=NOW)
        assert client(Add(name, 1), now=NOW + 1000).left == SECOND - 1000
        assert client(Add(name, 1), now=NOW + SECOND) == Reply(Status.APPLIED, 1, NOW + SECOND, None, False)

    def test_keep_does_not_revive_an_expired_deadline(self, client: Client, name: str) -> None:
        client(Write(name, 1, ttl=SECOND), now=NOW)
        assert client(Write(name, 2, ttl=KEEP), now=NOW + SECOND).left is None
        assert client.data(name, now=NOW + GRAVE) == 2

    def test_expire_sets_and_clears_the_deadline(self, client: Client, name: str) -> None:
        client(Write(name, b"x"), now=NOW)
        assert client(Expire(name, SECOND), now=NOW) == Reply(Status.APPLIED, None, NOW + 1, SECOND, True)
        assert client(Read(name), now=NOW) == Reply(Status.APPLIED, b"x", NOW + 1, SECOND, True)
        assert client(Expire(name, None), now=NOW) == Reply(Status.APPLIED, None, NOW + 2, None, True)
        assert client.data(name, now=NOW + SECOND) == b"x"

    def test_expire_of_nothing_is_a_conflict(self, client: Client, name: str) -> None:
        assert client(Expire(name, SECOND)) == Reply(Status.CONFLICT)
        client(Write(name, 1, ttl=SECOND))
        assert client(Expire(name, None), now=NOW + SECOND) == Reply(Status.CONFLICT, None, NOW + 1)

    # --- counting -----------------------------------------------------------------------------------------------

    def test_add_answers_with_the_sum(self, client: Client, name: str) -> None:
        assert client(Add(name, 5)) == Reply(Status.APPLIED, 5, NOW, None, False)
        assert client(Add(name, -7)) == Reply(Status.APPLIED, -2, NOW + 1, None, True)
        assert client.data(name) == -2

    def test_add_to_an_absent_one_starts_from_initial(self, client: Client, name: str) -> None:
        assert client(Add(name, 5, 100)).data == 105
        assert client(Add(name, 5, 100)).data == 110
        client(Delete(name))
        assert client(Add(name, -1, 7)).data == 6

    @pytest.mark.parametrize(
        ("start", "amount"), [(INT_MAX - 1, 1), (INT_MIN + 1, -1), (INT_MIN, INT_MAX), (-1, INT_MIN + 1)]
    )
    def test_add_is_exact_at_both_ends_of_64_bits(self, client: Client, name: str, start: int, amount: int) -> None:
        client(Write(name, start))
        assert client(Add(name, amount)).data == start + amount
        assert client.data(name) == start + amount

    @pytest.mark.parametrize(("start", "amount"), [(INT_MAX, 1), (INT_MIN, -1), (INT_MAX, INT_MAX), (INT_MIN, INT_MIN)])
    def test_add_beyond_64_bits_changes_nothing(self, client: Client, name: str, start: int, amount: int) -> None:
        version = client(Write(name, start)).version
        assert client(Add(name, amount)) == Reply(Status.OVERFLOW, start, version, None, True)
        assert client(Read(name)) == Reply(Status.APPLIED, start, version, None, True)

    def test_add_beyond_64_bits_from_initial_creates_nothing(self, client: Client, name: str) -> None:
        assert client(Add(name, 1, INT_MAX)) == Reply(Status.OVERFLOW)
        assert client(Add(name, INT_MIN, INT_MAX)).data == -1

    def test_add_to_bytes_is_refused_with_the_value(self, client: Client, name: str) -> None:
        client(Write(name, b"17"))
        assert client(Add(name, 1)) == Reply(Status.WRONG_KIND, b"17", NOW, None, True)
        assert client.data(name) == b"17"

    # --- splices ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("splice", "after"),
        [
            (Splice(0, 0, b"<"), b"<0123456789"),
            (Splice(10, 10, b">"), b"0123456789>"),
            (Splice(3, 5, b"\0\xff\r\n"), b"012\0\xff\r\n56789"),
            (Splice(0, 10, b""), b""),
            (Splice(4, 4, b""), b"0123456789"),
            (Splice(9, 10, b"x" * 9000), b"012345678" + b"x" * 9000),
        ],
    )
    def test_splice_replaces_a_part(self, client: Client, name: str, splice: Splice, after: bytes) -> None:
        version = client(Write(name, b"0123456789", ttl=SECOND)).version
        assert client(Write(name, splice, version, KEEP)) == Reply(Status.APPLIED, None, version + 1, SECOND, True)
        assert client(Read(name)) == Reply(Status.APPLIED, after, version + 1, SECOND, True)

    @pytest.mark.parametrize("splice", [Splice(0, 4, b""), Splice(4, 4, b"x"), Splice(2, 1, b"x"), Splice(-1, 2, b"x")])
    def test_splice_that_does_not_fit_changes_nothing(self, client: Client, name: str, splice: Splice) -> None:
        version = client(Write(name, b"abc")).version
        assert client(Write(name, splice, version)) == Reply(Status.WRONG_KIND, b"abc", version, None, True)
        assert client.data(name) == b"abc"

    def test_splice_of_another_version_is_a_conflict(self, client: Client, name: str) -> None:
        version = client(Write(name, b"abc")).version
        assert client(Write(name, Splice(0, 1, b"x"), version - 1)) == Reply(
            Status.CONFLICT, b"abc", version, None, True
        )

    def test_splice_of_an_integer_is_refused(self, client: Client, name: str) -> None:
        version = client(Write(name, 12345)).version
        assert client(Write(name, Splice(0, 1, b"9"), version)).status is Status.WRONG_KIND
        assert client.data(name) == 12345

    # --- deleting -----------------------------------------------------------------------------------------------

    def test_delete_says_whether_there_was_a_value(self, client: Client, name: str) -> None:
        assert client(Delete(name)) == Reply(Status.APPLIED)
        client(Write(name, b"x"))
        assert client(Delete(name)) == Reply(Status.APPLIED, None, NOW + 1, None, True)
        assert client(Delete(name)) == Reply(Status.APPLIED, None, NOW + 1)
        assert client.data(name) is None

    def test_delete_expecting_a_version_needs_that_version(self, client: Client, name: str) -> None:
        version = client(Write(name, b"x")).version
        assert client(Delete(name, version - 1)) == Reply(Status.CONFLICT, b"x", version, None, True)
        assert client(Delete(name, ABSENT)) == Reply(Status.CONFLICT, b"x", version, None, True)
        assert client(Delete(name, version)).existed
        assert client(Delete(name, ABSENT)) == Reply(Status.APPLIED, None, version + 1)

    def test_delete_leaves_other_names_alone(self, client: Client, names: list[str]) -> None:
        first, second, _ = names
        client(Write(first, 1))
        client(Write(second, 2))
        client(Delete(first))
        assert client.data(second) == 2
