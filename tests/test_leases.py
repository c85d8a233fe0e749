"""Leases under random stories: one holder, rising tokens, first come first served, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dref_django.protocol import RESERVATION, Acquire, Break, Inspect, Release, Renew, Reply, Status, Wake
from dref_django.store import Store

NOW = 1_790_000_000_000_000
TTL = 30_000_000
WAIT = 12_000_000
OWNERS = ("n/1", "n/2", "n/3")

moves = st.lists(
    st.tuples(
        st.sampled_from(("acquire", "acquire", "release", "renew", "break", "keep")),
        st.sampled_from(OWNERS),
        st.sampled_from((0, 1, 1000, RESERVATION, WAIT, TTL)),
    ),
    max_size=60,
)


class Holders:
    """What the clients believe, each after its last successful answer."""

    def __init__(self) -> None:
        self.store = Store()
        self.now = NOW
        self.tokens: dict[str, int] = {}
        self.until: dict[str, int] = {}
        self.last = 0

    def ask(self, command: Acquire | Release | Renew | Break | Inspect) -> tuple[Reply, list[Wake]]:
        replies, events = self.store.apply([command], self.now)
        return replies[0], [event for event in events if isinstance(event, Wake)]

    def move(self, what: str, owner: str, step: int) -> None:
        self.now += step
        token = self.tokens.get(owner, 0)
        match what:
            case "acquire":
                reply, _ = self.ask(Acquire("l", owner, TTL, WAIT))
                if reply.status is Status.APPLIED:
                    assert reply.token > self.last or reply.token == self.tokens.get(owner)
                    self.last = max(self.last, reply.token)
                    self.tokens[owner], self.until[owner] = reply.token, self.now + TTL
            case "renew":
                reply, _ = self.ask(Renew("l", owner, token, TTL))
                if reply.status is Status.APPLIED:
                    self.until[owner] = self.now + TTL
                else:
                    self.until[owner] = self.now
            case "release" | "keep":
                self.ask(Release("l", owner, token, 1000 if what == "keep" else 0))
                self.until[owner] = self.now
            case "break":
                self.ask(Break("l"))
                self.until = dict.fromkeys(self.until, self.now)


@given(moves)
def test_never_two_holders_at_once(story: list[tuple[str, str, int]]) -> None:
    holders = Holders()
    for what, owner, step in story:
        holders.move(what, owner, step)
        believing = [owner for owner, until in holders.until.items() if until > holders.now]
        assert len(believing) <= 1
        reply, _ = holders.ask(Inspect("l"))
        if believing:
            assert reply.lease is not None
            assert reply.lease.owner == believing[0]


@given(moves)
def test_who_keeps_asking_gets_the_lease_in_the_end(story: list[tuple[str, str, int]]) -> None:
    holders = Holders()
    for what, owner, step in story:
        holders.move(what, owner, step)
    for _ in range(10):
        reply, _ = holders.ask(Acquire("l", "late/1", TTL, WAIT))
        if reply.status is Status.APPLIED:
            return
        assert reply.left is not None
        assert reply.left > 0
        holders.now += min(reply.left, WAIT - 1)
    raise AssertionError("the lease never came")


@given(st.permutations(["n/1", "n/2", "n/3", "n/4"]), st.sets(st.sampled_from(["n/2", "n/3"])))
def test_the_living_are_served_in_the_order_in_which_they_came(order: list[str], dead: set[str]) -> None:
    holders = Holders()
    holders.ask(Acquire("l", "first/1", TTL))
    for owner in order:
        holders.ask(Acquire("l", owner, TTL, 1000 if owner in dead else TTL))
    holders.now += 1000
    served: list[str] = []
    holder = "first/1"
    while True:
        _, wakes = holders.ask(Release("l", holder))
        if not wakes:
            break
        (wake,) = wakes
        holder = wake.owner
        assert holders.ask(Acquire("l", holder, TTL, WAIT))[0].status is Status.APPLIED
        served.append(holder)
    assert served == [owner for owner in order if owner not in dead]


def test_woken_waiter_that_does_not_come_is_passed_over() -> None:
    holders = Holders()
    holders.ask(Acquire("l", "n/0", TTL))
    holders.ask(Acquire("l", "n/1", TTL, TTL))
    holders.ask(Acquire("l", "n/2", TTL, TTL))
    _, wakes = holders.ask(Release("l", "n/0"))
    assert wakes == [Wake("l", "n/1")]
    holders.now += RESERVATION
    assert holders.ask(Acquire("l", "n/2", TTL, WAIT))[0].status is Status.APPLIED
