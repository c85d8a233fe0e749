"""The checker is held to known verdicts, to brute force over every order, and to histories that are right by making."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizability import (
    CheckTimedOut,
    Operation,
    Recorder,
    Ref,
    Register,
    check,
    dump,
    load,
    parse_jepsen,
)
from tests.linearizability.corpus import verify
from tests.linearizability.models import IMPOSSIBLE, Model

STALE_LOG = """\
INFO  jepsen.util - 0\t:invoke\t:write\t1
INFO  jepsen.util - 0\t:ok\t:write\t1
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:ok\t:read\tnil
"""
TIMED_OUT_LOG = """\
INFO  jepsen.util - 0\t:invoke\t:write\t1
INFO  jepsen.util - 0\t:info\t:write\t:timed-out
INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]
INFO  jepsen.util - 1\t:fail\t:cas\t[1 2]
INFO  jepsen.util - 1\t:invoke\t:cas\t[1 3]
INFO  jepsen.util - 1\t:ok\t:cas\t[1 3]
INFO  jepsen.util - 2\t:invoke\t:read\tnil
INFO  jepsen.util - 2\t:fail\t:read\t:timed-out
INFO  jepsen.util - 3\t:invoke\t:write\t4
"""


class OutcomeUnknown(Exception):
    pass


class Unavailable(Exception):
    pass


def done(op: str, *args: object, result: object = None, at: tuple[int, int], client: int = 0) -> Operation:
    return Operation(client, op, args, result, *at)


def unknown(op: str, *args: object, at: int) -> Operation:
    return Operation(99, op, args, called=at)


def is_linearization(model: Model, history: list[Operation], order: tuple[Operation, ...]) -> bool:
    """Each returned operation once, each unknown one at most once, allowed by real time and by the model."""
    given, used = Counter(map(repr, history)), Counter(map(repr, order))
    if any(given[text] < count for text, count in used.items()):
        return False
    if any(used[repr(operation)] < given[repr(operation)] for operation in history if operation.returned is not None):
        return False
    latest_call = -1
    state: Hashable = model.initial
    for operation in order:
        if operation.returned is not None and operation.returned < latest_call:
            return False
        latest_call = max(latest_call, operation.called)
        state = model.step(state, operation)
        if state is IMPOSSIBLE:
            return False
    return True


def brute_force(model: Model, history: list[Operation]) -> bool:
    returned = [operation for operation in history if operation.returned is not None]
    open_ended = [operation for operation in history if operation.returned is None]
    for count in range(len(open_ended) + 1):
        for chosen in itertools.combinations(open_ended, count):
            if any(is_linearization(model, history, order) for order in itertools.permutations([*returned, *chosen])):
                return True
    return False


def random_operation(rng: random.Random, values: int) -> tuple[str, tuple[int | None, ...]]:
    match rng.choice(["read", "read", "write", "write", "cas", "add", "delete"]):
        case "read":
            return "read", ()
        case "write":
            return "write", (rng.randrange(values),)
        case "cas":
            return "cas", (rng.choice([None, *range(values)]), rng.randrange(values))
        case "add":
            return "add", (rng.randrange(3),)
    return "delete", ()


def truthful_result(state: Hashable, op: str, args: tuple[int | None, ...]) -> tuple[object, Hashable]:
    """Result and next state of a ref, written apart from the model."""
    if op == "read":
        return state, state
    if op == "write":
        return None, args[0]
    if op == "cas":
        return (True, args[1]) if state == args[0] else (False, state)
    if op == "delete":
        return state is not None, None
    assert isinstance(state, int | None)
    total = (state or 0) + (args[0] or 0)
    return total, total


def executed(seed: int, count: int, *, overlap: int, values: int = 4, unknown_share: float = 0.1) -> list[Operation]:
    """A history of operations that took effect one by one, 10 apart, each somewhere inside its interval."""
    rng = random.Random(seed)
    state: Hashable = None
    history = []
    for number in range(count):
        op, args = random_operation(rng, values)
        at = 10 * number
        called, returned = max(0, at - rng.randrange(overlap)), at + rng.randrange(overlap)
        if rng.random() < unknown_share:
            if rng.random() < 0.5:
                _, state = truthful_result(state, op, args)
            history.append(Operation(number, op, args, None, called, None))
            continue
        result, state = truthful_result(state, op, args)
        if op == "delete" and rng.random() < 0.5:
            result = None
        history.append(Operation(number, op, args, result, called, returned))
    rng.shuffle(history)
    return history


def with_lie(history: list[Operation], rng: random.Random) -> list[Operation]:
    index = rng.randrange(len(history))
    told = history[index]
    lie = rng.randrange(4) if told.op in ("read", "add") else rng.random() < 0.5
    lied = replace(told, result=None if told.op == "write" else lie)
    return [*history[:index], lied, *history[index + 1 :]]


def test_stale_read_is_caught_and_explained() -> None:
    history = [
        done("write", 1, at=(0, 10)),
        done("write", 2, at=(20, 30)),
        done("read", result=1, at=(40, 50), client=7),
    ]
    found = check(Register(), history)
    assert not found.ok
    assert found.failed_key == ""
    assert found.linearizations[""] == (history[0], history[1])
    assert "longest order found has 2 of the 3" in found.explanation
    assert "client 7: read() -> 1 [40..50]" in found.explanation


def test_read_during_a_write_may_see_either_value() -> None:
    for seen in (None, 1):
        assert check(Register(), [done("write", 1, at=(0, 10)), done("read", result=seen, at=(5, 6))]).ok


def test_reads_that_go_back_during_one_write_are_caught() -> None:
    reads = [done("read", result=1, at=(2, 3)), done("read", result=None, at=(4, 5))]
    assert not check(Register(), [done("write", 1, at=(0, 10)), *reads]).ok


def test_lost_update_is_caught() -> None:
    adds = [done("add", 1, result=1, at=(0, 10), client=1), done("add", 1, result=1, at=(5, 15), client=2)]
    assert not check(Ref(), adds).ok
    swaps = [done("cas", None, 1, result=True, at=(0, 10)), done("cas", None, 2, result=True, at=(5, 15))]
    assert not check(Ref(), swaps).ok


def test_unknown_write_may_apply_late_or_never_but_not_twice_nor_before_its_call() -> None:
    write = unknown("write", 1, at=10)
    unread = done("read", result=None, at=(20, 30))
    later = done("read", result=1, at=(40, 50))
    other = done("write", 2, at=(60, 70))
    again = done("read", result=1, at=(80, 90))
    assert check(Register(), [write, unread]).ok
    assert check(Register(), [write, unread, later]).ok
    assert not check(Register(), [write, later, other, again]).ok
    assert not check(Register(), [write, done("read", result=1, at=(0, 9))]).ok


def test_unknown_overwrite_of_the_same_value_can_hide_a_write() -> None:
    history = [
        done("write", 1, at=(0, 1)),
        unknown("write", 1, at=2),
        done("write", 5, at=(10, 20)),
        done("cas", 1, 2, result=True, at=(12, 13)),
        done("read", result=2, at=(30, 40)),
    ]
    found = check(Register(), history)
    assert found.ok, found.explanation
    assert is_linearization(Register(), history, found.linearizations[""])


def test_reaching_a_state_with_more_unknown_operations_does_not_stand_for_reaching_it_with_fewer() -> None:
    history = [
        unknown("add", 2, at=0),
        unknown("write", 2, at=1),
        unknown("add", 0, at=2),
        done("read", result=4, at=(0, 9)),
    ]
    assert check(Ref(), history).ok


def test_failed_cas_with_matching_value_is_caught() -> None:
    history = [done("write", 1, at=(0, 10)), done("cas", 1, 2, result=False, at=(20, 30))]
    assert not check(Register(), history).ok


def test_ref_is_absent_after_delete_and_counts_from_zero() -> None:
    history = [
        done("write", 5, at=(0, 1)),
        done("delete", result=True, at=(2, 3)),
        done("read", result=None, at=(4, 5)),
        done("delete", result=False, at=(6, 7)),
        done("add", 3, result=3, at=(8, 9)),
        done("cas", 3, None, result=True, at=(10, 11)),
        done("delete", at=(12, 13)),
    ]
    assert check(Ref(), history).ok
    assert not check(Ref(), [*history, done("add", 1, result=4, at=(14, 15))]).ok


def test_true_is_not_one_and_structured_values_compare_by_content() -> None:
    assert not check(Ref(), [done("write", True, at=(0, 1)), done("read", result=1, at=(2, 3))]).ok
    assert check(
        Ref(), [done("write", {"a": 1, "b": [2]}, at=(0, 1)), done("read", result={"b": [2], "a": 1}, at=(2, 3))]
    ).ok


def test_unknown_operation_name_and_reversed_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="Register has no operation 'add'"):
        check(Register(), [done("add", 1, result=1, at=(0, 1))])
    with pytest.raises(ValueError, match="returned before it was called"):
        check(Register(), [done("read", at=(2, 1))])


def test_keys_are_checked_apart_and_the_failing_one_is_named() -> None:
    good = Operation(1, "write", (1,), None, 0, 1, key="a")
    bad = Operation(1, "read", (), 1, 2, 3, key="b")
    found = check(Register(), [good, bad])
    assert (found.ok, found.failed_key) == (False, "b")
    assert found.explanation.startswith("key 'b': not linearizable")


def test_no_verdict_in_time_raises() -> None:
    powers_of_two = [unknown("add", 1 << bit, at=0) for bit in range(30)]
    with pytest.raises(CheckTimedOut):
        check(Ref(), [*powers_of_two, done("read", result=-1, at=(0, 1000))], timeout=0.2)


def test_agrees_with_brute_force_on_tiny_histories() -> None:
    verdicts: Counter[bool] = Counter()
    for seed in range(2500):
        rng = random.Random(seed)
        history = executed(seed, rng.randrange(2, 6), overlap=40, values=2, unknown_share=0.25)
        if rng.random() < 0.7:
            history = with_lie(history, rng)
        found = check(Ref(), history)
        assert found.ok is brute_force(Ref(), history), "\n".join(map(str, history))
        if found.ok:
            assert is_linearization(Ref(), history, found.linearizations[""])
        verdicts[found.ok] += 1
    assert min(verdicts[True], verdicts[False]) > 500, verdicts


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    overlap=st.integers(1, 80),
    unknown_share=st.sampled_from([0, 0.1, 0.4]),
)
def test_history_of_a_sequential_execution_is_accepted(
    seed: int, count: int, overlap: int, unknown_share: float
) -> None:
    history = executed(seed, count, overlap=overlap, unknown_share=unknown_share)
    found = check(Ref(), history)
    assert found.ok, found.explanation
    assert is_linearization(Ref(), history, found.linearizations.get("", ()))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_agrees_with_brute_force_on_drawn_histories(data: st.DataObject) -> None:
    reads = [("read", (), value) for value in (None, 0, 1)]
    writes = [("write", (0,), None), ("write", (1,), None), ("delete", (), None)]
    swaps = [("cas", (0, 1), True), ("cas", (0, 1), False), ("cas", (1, 0), True)]
    arbitrary = st.sampled_from([*reads, *writes, *swaps])
    history = []
    for client in range(data.draw(st.integers(0, 5))):
        op, args, result = data.draw(arbitrary)
        called = data.draw(st.integers(0, 8))
        returned = data.draw(st.none() | st.integers(called, 9))
        history.append(Operation(client, op, args, result, called, returned))
    found = check(Ref(), history)
    assert found.ok is brute_force(Ref(), history)


def on_keys(keys: int, count: int, *, open_at_once: int) -> list[Operation]:
    history: list[Operation] = []
    for key in range(keys):
        executions = executed(key, count, overlap=10 * open_at_once, values=50, unknown_share=0.01)
        history += [replace(operation, key=f"k{key}") for operation in executions]
    return history


def test_five_thousand_operations_of_sixty_four_clients_are_checked_within_seconds() -> None:
    history = on_keys(10, 500, open_at_once=6)
    assert check(Ref(), history, timeout=10).ok
    assert not check(Ref(), [*history, Operation(0, "read", (), -1, 2000, 2010, key="k9")], timeout=10).ok


def test_jepsen_log_is_parsed_with_timeouts_as_unknown() -> None:
    assert parse_jepsen(TIMED_OUT_LOG) == [
        Operation(0, "write", (1,), None, 0, None),
        Operation(1, "cas", (1, 2), False, 2, 3),
        Operation(1, "cas", (1, 3), True, 4, 5),
        Operation(3, "write", (4,), None, 8, None),
    ]
    with pytest.raises(ValueError, match="line 1 is not a Jepsen operation"):
        parse_jepsen("INFO something else")


def test_corpus_is_verified_against_its_verdicts(tmp_path: Path) -> None:
    for name, log in {"a.log": STALE_LOG, "b.log": TIMED_OUT_LOG, "c.log": STALE_LOG, "d.log": ""}.items():
        (tmp_path / name).write_text(log)
    (tmp_path / "verdicts.tsv").write_text("a.log\tnot-linearizable\nb.log\tlinearizable\nc.log\tlinearizable\n")
    found = verify(tmp_path)
    assert (found.agreed, found.differing, found.without_verdict) == (("a.log", "b.log"), ("c.log",), ("d.log",))


def test_recorder_tells_returned_unknown_and_rejected_calls_apart() -> None:
    recorder = Recorder()
    with recorder.call(1, "add", (2,), key="n") as call:
        call.result = 2
    with suppress(OutcomeUnknown), recorder.call(1, "write", (3,)):
        raise OutcomeUnknown
    with suppress(Unavailable), recorder.call(1, "write", (4,)):
        raise Unavailable
    returned, lost = recorder.history()
    assert (returned.op, returned.args, returned.result, returned.key) == ("add", (2,), 2, "n")
    assert returned.returned is not None
    assert returned.called <= returned.returned
    assert (lost.op, lost.args, lost.returned) == ("write", (3,), None)


def test_threads_and_tasks_record_side_by_side() -> None:
    recorder, lock, total = Recorder(), threading.Lock(), itertools.count(1)

    def add(client: int) -> None:
        for _ in range(50):
            with recorder.call(client, "add", (1,)) as call, lock:
                call.result = next(total)

    async def add_from_task(client: int) -> None:
        with recorder.call(client, "add", (1,)) as call:
            await asyncio.sleep(0)
            with lock:
                call.result = next(total)

    async def tasks() -> None:
        await asyncio.gather(*(add_from_task(client) for client in range(8, 16)))

    threads = [threading.Thread(target=add, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    history = recorder.history()
    assert len(history) == 8 * 50 + 8
    assert check(Ref(), history).ok


def test_streams_of_several_processes_merge_and_a_torn_call_stays_unknown(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    ticks = itertools.count(0, 10)
    with first.open("w") as one, second.open("w") as two:
        here, there = Recorder(one, clock=lambda: next(ticks)), Recorder(two, clock=lambda: next(ticks))
        with here.call("p1", "write", ([1],)), there.call("p2", "read") as read:
            read.result = [1]
        with suppress(Unavailable), there.call("p2", "write", (9,)):
            raise Unavailable
        with suppress(OutcomeUnknown), there.call("p2", "delete"):
            raise OutcomeUnknown
    with second.open("a") as torn:
        torn.write(json.dumps({"call": 7, "at": 999})[:-4])
    merged = load(first, second)
    assert merged == [
        Operation("p1", "write", ([1],), None, 0, 30),
        Operation("p2", "read", (), [1], 10, 20),
        Operation("p2", "delete", (), None, 60, None),
    ]
    assert check(Ref(), merged).ok


def test_dumped_history_loads_unchanged(tmp_path: Path) -> None:
    history = sorted(executed(3, 40, overlap=50), key=lambda operation: operation.called)
    dump(history, tmp_path / "history.jsonl")
    loaded = load(tmp_path / "history.jsonl")
    assert sorted(map(str, loaded)) == sorted(map(str, history))


def test_the_checker_agrees_with_every_verdict_on_real_etcd_histories() -> None:
    found = verify(Path(__file__).parent / "data" / "etcd-histories")
    assert found.differing == ()
    assert len(found.agreed) == 102
    assert found.without_verdict == ("etcd_095.log",)
