"""How an empty node begins, and which change of members comes next: decisions, without a network."""

from __future__ import annotations

from random import Random

import pytest

from dref_django.backends.raft.core import AddLearner, Members, PeerStatus, Promote, Remove, Role, Status
from dref_django.backends.raft.founding import Decision, News, Step, decide, first_members
from dref_django.backends.raft.upkeep import FLOOR, next_change

ABC = frozenset("abc")
NOBODY: frozenset[str] = frozenset()


class TestFounding:
    def test_lone_node_founds_alone_when_nobody_else_is_expected(self) -> None:
        assert decide("a", 1, 5, NOBODY, {}) == Decision(Step.PROMISE, frozenset("a"))
        assert decide("a", 1, 5, frozenset("a"), {}) == Decision(Step.FOUND, frozenset("a"))

    def test_too_few_nodes_wait_and_say_for_how_many(self) -> None:
        decision = decide("a", 3, 5, NOBODY, {"b": News(False, frozenset("ab"))})
        assert (decision.step, decision.why) == (Step.WAIT, "for 1 more of the 3 nodes that found the cluster")

    def test_nodes_that_do_not_see_each_other_promise_nothing(self) -> None:
        others = {"b": News(False, ABC), "c": News(False, frozenset("ac"))}
        assert decide("a", 3, 5, NOBODY, others).step is Step.WAIT

    def test_cluster_is_founded_once_all_founders_have_promised_the_same(self) -> None:
        promised = News(False, ABC, ABC, 5)
        assert decide("a", 3, 5, ABC, {"b": promised, "c": News(False, ABC, NOBODY, 5)}).step is Step.WAIT
        assert decide("a", 3, 5, ABC, {"b": promised, "c": promised}) == Decision(Step.FOUND, ABC)

    def test_node_that_meets_a_state_joins_whatever_it_promised(self) -> None:
        others = {"b": News(True), "c": News(False, ABC, ABC, 5)}
        assert decide("a", 3, 5, NOBODY, others).step is Step.JOIN
        assert decide("a", 3, 5, ABC, others).step is Step.JOIN

    def test_promise_of_others_is_taken_up_rather_than_another_one_made(self) -> None:
        others = {"b": News(False, ABC, ABC, 5), "c": News(False, ABC), "0": News(False, ABC)}
        assert decide("a", 3, 5, NOBODY, others) == Decision(Step.PROMISE, ABC)

    def test_of_more_founders_than_may_vote_the_first_do_and_the_others_learn(self) -> None:
        assert first_members(frozenset("edcba"), 3) == Members(ABC, frozenset("de"))
        assert first_members(ABC, 5) == Members(ABC)

    def test_founders_that_do_not_agree_on_who_votes_wait_and_say_so(self) -> None:
        others = {"b": News(False, ABC, ABC, 1), "c": News(False, ABC, ABC, 2)}
        decision = decide("a", 3, 2, ABC, others)
        assert (decision.step, decision.why) == (
            Step.WAIT,
            "but VOTERS is 1 at b and 2 here: give all nodes the same",
        )
        others["b"] = News(False, ABC, ABC, 2)
        assert decide("a", 3, 2, ABC, others).step is Step.FOUND

    def test_voters_that_are_more_than_founders_need_not_agree(self) -> None:
        others = {node: News(False, ABC, ABC, 3) for node in "bc"}
        assert decide("a", 3, 5, ABC, others).step is Step.FOUND

    def test_surplus_node_waits_for_the_others(self) -> None:
        others = {node: News(False, frozenset("abcd")) for node in "abc"}
        assert decide("d", 3, 5, NOBODY, others).step is Step.WAIT

    def test_torn_promises_are_told(self) -> None:
        decision = decide("a", 2, 5, frozenset("ab"), {"b": News(False, ABC, frozenset("bc"), 5)})
        assert decision.step is Step.WAIT
        assert "delete its DATA_DIR" in decision.why

    @pytest.mark.parametrize("seed", range(200))
    def test_no_order_of_meetings_founds_two_clusters_with_a_common_node(self, seed: int) -> None:
        """Nodes meet, promise, found and crash in any order, and hear old news of each other."""
        dice = Random(seed)
        nodes = "abcde"[: dice.choice((3, 4, 5))]
        promised: dict[str, frozenset[str]] = dict.fromkeys(nodes, NOBODY)
        founded: dict[str, frozenset[str]] = {}
        heard: dict[str, dict[str, News]] = {node: {} for node in nodes}
        for _ in range(200):
            me, other = dice.sample(nodes, 2)
            heard[me][other] = News(other in founded, frozenset((other, *heard[other])), promised[other], 5)
            if dice.random() < 0.1:
                heard[me].pop(dice.choice(nodes), None)
            if me in founded:
                continue
            decision = decide(me, 3, 5, promised[me], heard[me])
            if decision.step is Step.PROMISE:
                assert not promised[me]
                promised[me] = decision.nodes
            elif decision.step is Step.FOUND:
                founded[me] = decision.nodes
        for one in founded.values():
            for other_set in founded.values():
                assert one == other_set or not one & other_set

    def test_news_survive_the_wire_and_nonsense_is_refused(self) -> None:
        news = News(False, ABC, frozenset("ab"), 5)
        assert News.decode(news.encode()) == news
        for garbage in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\x01"):
            with pytest.raises(ValueError, match=r"."):
                News.decode(garbage)


def peer(*, silent: int = 0, caught_up: bool = True) -> PeerStatus:
    return PeerStatus("replicate", 1, 2, 0, silent, caught_up)


def leader(voters: str, learners: str = "", pending: bool = False, **peers: PeerStatus) -> Status:
    members = Members(frozenset(voters), frozenset(learners))
    everybody = {node: peers.get(node, peer()) for node in voters + learners if node != "a"}
    return Status("a", Role.LEADER, 1, "a", 1, 1, 1, 1, 0, members, pending, None, everybody)


class TestUpkeep:
    def next(self, status: Status, reachable: str, insisting: str = "") -> object:
        return next_change(status, set(reachable), voters=5, silent_ticks=100, insisting=set(insisting))

    def test_newcomer_becomes_a_learner_and_then_a_voter(self) -> None:
        assert self.next(leader("abc"), "bcd") == AddLearner("d")
        assert self.next(leader("abc", "d", d=peer(caught_up=False)), "bcd") is None
        assert self.next(leader("abc", "d"), "bcd") == Promote("d")

    def test_no_more_voters_than_allowed(self) -> None:
        assert self.next(leader("abcde", "f"), "bcdef") is None

    def test_one_change_at_a_time(self) -> None:
        assert self.next(leader("abc", pending=True), "bcd") is None

    def test_dead_voter_goes_only_while_enough_stay(self) -> None:
        dead = peer(silent=100)
        assert self.next(leader("abcd", d=dead), "bc") == Remove("d")
        assert self.next(leader("abcd", d=dead), "bcd") is None  # it is back
        assert self.next(leader("abcd", d=peer(silent=99)), "bc") is None
        assert FLOOR == 3
        assert self.next(leader("abc", c=dead), "b") is None

    def test_dead_voter_is_replaced_where_no_more_may_vote_and_nobody_may_go(self) -> None:
        dead = peer(silent=100)
        status = leader("abc", "d", c=dead)
        change = next_change(status, {"b", "d"}, voters=3, silent_ticks=100)
        assert change == Promote("d")
        status = leader("abcd", c=dead)
        assert next_change(status, {"b", "d"}, voters=3, silent_ticks=100) == Remove("c")

    def test_learner_that_insists_is_the_first_to_vote(self) -> None:
        status = leader("abcd", "ef")
        assert self.next(status, "bcdef") == Promote("e")
        assert self.next(status, "bcdef", insisting="f") == Promote("f")
        assert self.next(leader("abcd", "ef", f=peer(caught_up=False)), "bcdef", insisting="f") == Promote("e")

    def test_node_that_insists_takes_the_place_of_one_that_does_not(self) -> None:
        assert self.next(leader("abcde", "f"), "bcdef", insisting="f") == Promote("f")
        assert self.next(leader("abcdef"), "bcdef", insisting="bf") == Remove("c")
        assert self.next(leader("abdef", "c"), "bcdef", insisting="bf") is None

    def test_leader_is_the_last_to_make_room(self) -> None:
        assert self.next(leader("abcde", "f"), "bcdef", insisting="bcdef") == Promote("f")
        assert self.next(leader("abcdef"), "bcdef", insisting="bcdef") == Remove("a")
        assert self.next(leader("abcde", "f"), "bcdef", insisting="abcdef") is None, "all insist: first come"

    def test_who_is_silent_makes_no_room_as_nobody_knows_whether_it_insists(self) -> None:
        assert self.next(leader("abcde", "f"), "cdef", insisting="acdef") is None

    def test_more_voters_than_allowed_stay_where_nobody_insists(self) -> None:
        assert self.next(leader("abcdef"), "bcdef") is None

    def test_dead_learner_always_goes(self) -> None:
        assert self.next(leader("abc", "d", d=peer(silent=100)), "bc") == Remove("d")

    def test_only_a_leader_proposes(self) -> None:
        assert self.next(leader("abc")._replace(role=Role.FOLLOWER), "bcd") is None
