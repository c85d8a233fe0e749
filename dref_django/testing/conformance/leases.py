"""Leases: who holds one, who is next, and that a token never comes twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dref_django.backends import Backend
from dref_django.protocol import (
    GRAVE,
    RESERVATION,
    Acquire,
    Break,
    Inspect,
    LeaseInfo,
    Release,
    Renew,
    Reply,
    Status,
)

from .contract import NOW, SECOND, Client, Contract

TTL = 30 * SECOND
WAIT = 12 * SECOND


class LeaseContract(Contract):
    def test_free_lease_is_granted_with_a_token(self, client: Client, name: str) -> None:
        assert client(Acquire(name, "n/1", TTL)) == Reply(Status.APPLIED, left=TTL, token=NOW)

    def test_held_lease_is_refused_with_the_time_it_may_take(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/1", TTL))
        refused = client(Acquire(name, "n/2", TTL), now=NOW + SECOND)
        assert (refused.status, refused.left) == (Status.HELD, TTL - SECOND)

    def test_acquiring_again_answers_with_the_same_token_and_renews(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        again = client(Acquire(name, "n/1", TTL), now=NOW + 20 * SECOND)
        assert again == Reply(Status.APPLIED, left=TTL, token=token)
        assert client(Acquire(name, "n/2", TTL), now=NOW + 40 * SECOND).status is Status.HELD

    def test_lease_runs_out_to_the_microsecond(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/1", TTL))
        assert client(Acquire(name, "n/2", TTL), now=NOW + TTL - 1).status is Status.HELD
        assert client(Acquire(name, "n/2", TTL), now=NOW + TTL).status is Status.APPLIED

    def test_tokens_rise_across_release_break_and_expiry(self, client: Client, name: str) -> None:
        tokens = [client(Acquire(name, "n/1", TTL)).token]
        client(Release(name, "n/1"))
        tokens.append(client(Acquire(name, "n/2", TTL)).token)
        client(Break(name))
        tokens.append(client(Acquire(name, "n/3", TTL)).token)
        tokens.append(client(Acquire(name, "n/4", TTL), now=NOW + TTL).token)
        assert tokens == [NOW, NOW + 1, NOW + 2, NOW + TTL]

    def test_tokens_rise_for_as_long_as_a_free_lease_is_remembered(self, client: Client, name: str) -> None:
        first = client(Acquire(name, "n/1", TTL), now=NOW).token
        client(Release(name, "n/1"), now=NOW)
        assert client(Acquire(name, "n/2", TTL), now=NOW + GRAVE - 1).token > first

    # --- renewing -----------------------------------------------------------------------------------------------

    def test_renewal_sets_the_deadline(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert client(Renew(name, "n/1", token, TTL), now=NOW + 10 * SECOND) == Reply(
            Status.APPLIED, left=TTL, token=token
        )
        assert client(Renew(name, "n/1", token, SECOND), now=NOW + 11 * SECOND).left == SECOND
        assert client(Acquire(name, "n/2", TTL), now=NOW + 12 * SECOND).status is Status.APPLIED

    def test_renewal_needs_owner_token_and_time(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert client(Renew(name, "n/2", token, TTL)).status is Status.LOST
        assert client(Renew(name, "n/1", token - 1, TTL)).status is Status.LOST
        assert client(Renew(name, "n/1", token, TTL), now=NOW + TTL).status is Status.LOST
        assert client(Renew(f"{name}.never", "n/1", token, TTL)).status is Status.LOST

    def test_many_renewals_travel_together_each_for_itself(self, client: Client, name: str) -> None:
        names = [f"{name}.{number}" for number in range(10)]
        tokens = [reply.token for reply in client.batch([Acquire(each, "n/1", TTL) for each in names])]
        client(Break(names[3]))
        renewals = [Renew(each, "n/1", token, TTL) for each, token in zip(names, tokens, strict=True)]
        replies = client.batch(renewals, now=NOW + SECOND)
        assert [reply.status for reply in replies] == [Status.APPLIED] * 3 + [Status.LOST] + [Status.APPLIED] * 6

    # --- releasing ----------------------------------------------------------------------------------------------

    def test_release_is_idempotent_and_says_whether_it_was_held(self, client: Client, name: str) -> None:
        assert not client(Release(name, "n/1")).existed
        token = client(Acquire(name, "n/1", TTL)).token
        assert client(Release(name, "n/1", token)) == Reply(Status.APPLIED, existed=True, token=token)
        assert client(Release(name, "n/1", token)) == Reply(Status.APPLIED, token=token)

    def test_release_checks_owner_and_token(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert not client(Release(name, "n/2", token)).existed
        assert not client(Release(name, "n/1", token - 1)).existed
        assert client(Acquire(name, "n/2", TTL)).status is Status.HELD
        assert client(Release(name, "n/1", 0)).existed

    def test_release_of_a_lease_that_ran_out_frees_nothing(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert not client(Release(name, "n/1", token), now=NOW + TTL).existed
        client(Acquire(name, "n/2", TTL), now=NOW + TTL)
        assert not client(Release(name, "n/1", token), now=NOW + TTL).existed
        assert client(Inspect(name), now=NOW + TTL).lease is not None

    def test_what_was_given_back_is_free_when_the_clock_is_set_back(self, client: Client, name: str) -> None:
        given_back = Release(name, "n/1")
        for end in (given_back, Break(name)):
            token = client(Acquire(name, "n/1", TTL), now=NOW).token
            assert client(end, now=NOW + SECOND).existed
            assert client(Inspect(name), now=NOW - GRAVE).lease is None
            assert not client(given_back, now=NOW - GRAVE).existed
            again = client(Acquire(name, "n/2", TTL), now=NOW - GRAVE)
            assert (again.status, again.left) == (Status.APPLIED, TTL)
            assert again.token > token, "tokens rise though the clock does not"
            client(Release(name, "n/2"), now=NOW - GRAVE)

    def test_waiter_is_served_when_the_clock_is_set_back(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL), now=NOW).token
        client(Acquire(name, "n/2", TTL, WAIT), now=NOW)
        client(Release(name, "n/1"), now=NOW + SECOND)
        served = client(Acquire(name, "n/2", TTL, WAIT), now=NOW - GRAVE)
        assert served.status is Status.APPLIED
        assert served.token > token

    def test_keep_leaves_it_taken_by_nobody_for_that_long(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert client(Release(name, "n/1", token, keep=SECOND)).existed
        refused = client(Acquire(name, "n/1", TTL))
        assert (refused.status, refused.left) == (Status.HELD, SECOND)
        kept = client(Inspect(name)).lease
        assert kept is not None
        assert (kept.owner, kept.left) == ("", SECOND)
        assert client(Renew(name, "n/1", token, TTL)).status is Status.LOST
        assert client(Acquire(name, "n/2", TTL), now=NOW + SECOND).token > token

    # --- waiting ------------------------------------------------------------------------------------------------

    def test_every_waiter_is_served_in_order_where_that_is_promised(self, client: Client, name: str) -> None:
        owners = ["n/1", "n/2", "n/3"]
        client(Acquire(name, "n/0", TTL))
        for owner in owners:
            assert client(Acquire(name, owner, TTL, WAIT)).status is Status.HELD
        client(Release(name, "n/0"))
        served: list[str] = []
        while len(served) < len(owners):
            assert client(Acquire(name, "n/9", TTL)).status is Status.HELD
            waiting = [owner for owner in reversed(owners) if owner not in served]
            (taken,) = [each for each in waiting if client(Acquire(name, each, TTL, WAIT)).status is Status.APPLIED]
            client(Release(name, taken))
            served.append(taken)
        assert sorted(served) == owners
        assert served == owners or not client.backend.fifo_waiters
        assert client(Acquire(name, "n/9", TTL)).status is Status.APPLIED

    def test_asking_again_keeps_the_place(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/0", TTL))
        for owner in ("n/1", "n/2", "n/1"):
            client(Acquire(name, owner, TTL, WAIT))
        info = client(Inspect(name)).lease
        assert info is not None
        assert info.waiters == ("n/1", "n/2")

    def test_waiter_that_gives_up_leaves_the_queue(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/0", TTL))
        client(Acquire(name, "n/1", TTL, WAIT))
        client(Acquire(name, "n/2", TTL, WAIT))
        assert not client(Release(name, "n/1")).existed
        client(Release(name, "n/0"))
        assert client(Acquire(name, "n/2", TTL, WAIT)).status is Status.APPLIED

    def test_waiter_that_died_is_passed_over(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/0", TTL), now=NOW)
        client(Acquire(name, "n/1", TTL, SECOND), now=NOW)
        client(Acquire(name, "n/2", TTL, WAIT), now=NOW)
        client(Release(name, "n/0"), now=NOW + 2 * SECOND)
        assert client(Acquire(name, "n/2", TTL, WAIT), now=NOW + 2 * SECOND).status is Status.APPLIED

    def test_woken_waiter_has_the_lease_reserved_for_a_while(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/0", TTL), now=NOW)
        client(Acquire(name, "n/1", TTL, WAIT), now=NOW)
        client(Release(name, "n/0"), now=NOW)
        refused = client(Acquire(name, "n/9", TTL), now=NOW + RESERVATION - 1)
        assert (refused.status, refused.left) == (Status.HELD, 1)
        assert client(Acquire(name, "n/9", TTL), now=NOW + RESERVATION).status is Status.APPLIED

    def test_try_without_wait_does_not_queue(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/0", TTL))
        client(Acquire(name, "n/1", TTL))
        info = client(Inspect(name)).lease
        assert info is not None
        assert info.waiters == ()

    # --- looking and breaking -----------------------------------------------------------------------------------

    def test_inspect_tells_everything(self, client: Client, name: str) -> None:
        assert client(Inspect(name)).status is Status.NOT_FOUND
        token = client(Acquire(name, "n/1", TTL, meta='{"host": "värd"}')).token
        client(Acquire(name, "n/2", TTL, WAIT))
        reply = client(Inspect(name), now=NOW + SECOND)
        assert reply.status is Status.APPLIED
        assert reply.lease == LeaseInfo(name, "n/1", token, NOW, TTL - SECOND, '{"host": "värd"}', ("n/2",))
        client(Release(name, "n/2"))
        client(Release(name, "n/1"))
        assert client(Inspect(name)).status is Status.NOT_FOUND

    def test_break_frees_the_lease(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert client(Break(name)) == Reply(Status.APPLIED, existed=True, token=token)
        assert client(Renew(name, "n/1", token, TTL)).status is Status.LOST
        assert not client(Release(name, "n/1", token)).existed
        assert client(Acquire(name, "n/2", TTL)).token == token + 1

    def test_break_with_a_token_frees_only_that_holding(self, client: Client, name: str) -> None:
        token = client(Acquire(name, "n/1", TTL)).token
        assert not client(Break(name, token - 1)).existed
        assert client(Renew(name, "n/1", token, TTL)).status is Status.APPLIED
        assert client(Break(name, token)).existed
        assert not client(Break(name, token)).existed

    def test_break_hands_the_lease_to_the_next_waiter(self, client: Client, name: str) -> None:
        client(Acquire(name, "n/1", TTL))
        client(Acquire(name, "n/2", TTL, WAIT))
        client(Break(name))
        assert client(Acquire(name, "n/1", TTL)).status is Status.HELD
        assert client(Acquire(name, "n/2", TTL, WAIT)).status is Status.APPLIED

    def test_scan_shows_held_kept_and_awaited_leases_in_pages(self, client: Client, name: str) -> None:
        for letter in "abcd":
            client(Acquire(f"{name}.{letter}", "n/1", TTL))
        client(Release(f"{name}.b", "n/1"))
        client(Release(f"{name}.c", "n/1", keep=TTL))
        client(Acquire(f"{name}.d", "n/2", TTL, 2 * TTL))
        for limit in (1, 2, 100):
            rows = client.scan_leases(f"{name}.", limit=limit)
            assert [(row.name[-1], row.owner) for row in rows] == [("a", "n/1"), ("c", ""), ("d", "n/1")]
        (awaited,) = client.scan_leases(f"{name}.", now=NOW + TTL)
        assert (awaited.name[-1], awaited.owner, awaited.left, awaited.waiters) == ("d", "", 0, ("n/2",))

    def test_one_of_many_takes_a_free_lease(self, backend: Backend, name: str) -> None:
        def take(number: int) -> Reply:
            return backend.execute([Acquire(name, f"n/{number}", TTL)])[0]

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(take, range(8)))
        assert sorted(reply.status for reply in replies) == [Status.APPLIED] + [Status.HELD] * 7
