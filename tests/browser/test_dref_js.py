"""dref.js by itself, in a real browser, with a websocket that the tests speak for."""

import json
from typing import Any

import pytest

from dref_django.live import limits, render
from tests.browser.module import Module


def test_watches_are_asked_for_together_over_one_websocket(module: Module) -> None:
    module.greeted("a", "b", "shop.*")
    assert module.run("sockets[0].protocol") == "dref.v1"
    assert str(module.run("sockets[0].url")).endswith("/dref/ws/")
    assert module.sent() == [{"type": "watch", "names": ["a", "b"], "prefixes": ["shop."], "resume": {}}]


def test_snapshot_and_splices_reach_those_who_watch(module: Module) -> None:
    module.greeted("a", "a*")
    module.snapshot("a", '{"n":1,"city":"Oslo"}')
    module.hear("splice", name="a", version=3, base=1, start=5, end=6, insert="22", size=22)
    module.snapshot("another", "0")
    one, two = {"n": 1, "city": "Oslo"}, {"n": 22, "city": "Oslo"}
    assert module.said == [["a", one], ["a*", one], ["a", two], ["a*", two], ["a*", 0]]
    assert module.run("said.at(-1)[2]") == {"name": "another", "version": 1, "epoch": "e", "deleted": False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": 2, "start": 1, "end": 2, "insert": "x", "size": 6},
        {"base": 1, "start": 1, "end": 2, "insert": "x", "size": 7},
        {"base": 1, "start": 1, "end": 9, "insert": "x", "size": 2},
        {"base": 1, "start": 0, "end": 1, "insert": "x", "size": 6},
    ],
    ids=["another base", "another size", "beyond the end", "not JSON"],
)
def test_splice_that_does_not_fit_is_not_applied_but_asks_for_the_whole(module: Module, wrong: dict[str, Any]) -> None:
    module.greeted("a")
    module.snapshot("a", '"text"')
    module.sent()
    module.hear("splice", name="a", version=3, **wrong)
    assert module.sent() == [{"type": "resync", "names": ["a"]}]
    module.snapshot("a", '"whole"', version=3)
    assert module.said == [["a", "text"], ["a", "whole"]]


def test_later_watcher_is_told_at_once_and_costs_no_message(module: Module) -> None:
    module.greeted("a")
    module.snapshot("a", "1")
    module.sent()
    module.watch("a", "late")
    assert module.said == [["a", 1], ["late", 1]]
    assert module.sent() == []


def test_last_watcher_to_go_unwatches(module: Module) -> None:
    module.greeted("a")
    module.watch("a", "second")
    module.sent()
    module.run("stopsecond()")
    assert module.sent() == []
    module.run("dref.watch('b', () => 0)()")  # ends before it was asked for
    assert module.sent() == []
    module.watch("c", "third")
    assert module.sent() == [{"type": "watch", "names": ["c"], "prefixes": [], "resume": {}}]
    module.run("stopthird()")
    assert module.sent() == [{"type": "unwatch", "names": ["c"], "prefixes": []}]


def test_reconnection_resumes_from_what_is_held(module: Module) -> None:
    module.greeted("a", "shop.*")
    module.snapshot("a", "1", version=7)
    module.snapshot("shop.x", "2", version=8)
    module.drop()
    module.sockets(2)
    assert module.sent() == []
    module.greet()
    assert module.sent() == [
        {"type": "watch", "names": ["a"], "prefixes": ["shop."], "resume": {"a": ["e", 7]}},
        {"type": "watch", "resume": {"shop.x": ["e", 8]}},
    ]
    module.hear("current", name="a", epoch="e", version=7)
    module.hear("splice", name="a", version=9, base=7, start=0, end=1, insert="5", size=1)
    assert module.said[-1] == ["a", 5]


def test_tries_grow_apart_with_jitter_and_start_over_after_a_connection_that_lasted(module: Module) -> None:
    module.watch("a")
    steps = [0.2, 0.5, 1, 2, 5, 10, 20, 30, 30]
    for tries in range(len(steps)):
        module.sockets(tries + 1)
        module.drop()
    delays = module.run("delays")
    assert all(step / 2 <= delay / 1000 <= step for step, delay in zip(steps, delays, strict=True)), delays
    module.sockets(len(steps) + 1)
    module.greet()
    module.pass_(11)
    module.drop()
    assert module.run("delays.at(-1)") <= 200


def test_server_that_accepts_and_then_closes_is_not_tried_ever_faster(module: Module) -> None:
    module.watch("a")
    for tries, step in enumerate([0.2, 0.5, 1, 2, 5, 10]):
        module.sockets(tries + 1)
        module.greet()
        module.hear("watching", names=["a"], prefixes=[])
        module.pass_(9)
        module.drop()
        assert module.run("delays.at(-1)") >= step / 2 * 1000


def test_watching_more_does_not_cut_the_wait_for_the_next_try_short(module: Module) -> None:
    module.greeted("a")
    module.run("void (window.hurried = [])")
    module.drop()
    module.watch("b")
    module.call("dref.increment('c')")
    assert module.run("Promise.resolve().then(() => sockets.length)") == 1


def test_client_that_asked_too_much_waits_longer(module: Module) -> None:
    module.greeted("a")
    module.drop(4429)
    assert module.run("delays.at(-1)") >= 5000


def test_silent_connection_is_given_up(module: Module) -> None:
    module.watch("a")
    module.sockets(1)
    module.hear("hello", protocol=1, heartbeat=0.02)
    module.sockets(2)
    assert module.run("sockets[0].closed")


def test_ping_is_answered_and_tells_staleness(module: Module) -> None:
    module.greeted("a")
    module.sent()
    module.hear("ping", ping=12, stale=True)
    assert module.sent() == [{"type": "pong", "ping": 12}]
    assert module.run("document.documentElement.dataset.drefStatus") == "stale"
    module.hear("ping", ping=13)
    assert module.run("dref.status.stale") is False
    assert module.run("document.documentElement.dataset.drefStatus") == "connected"


def test_callback_that_throws_does_not_keep_the_others_from_hearing(module: Module) -> None:
    module.run("void dref.watch('a', () => { throw new Error('mine'); })")
    module.greeted("a")
    module.snapshot("a", "1")
    assert module.said == [["a", 1]]


def test_many_names_are_asked_for_in_messages_that_the_server_takes(module: Module) -> None:
    names = [f"{index:04}" + "é" * 196 for index in range(1000)]
    module.run(f"void {json.dumps(names)}.forEach((name) => dref.watch(name, () => 0))")
    module.sockets(1)
    module.greet()
    for name in names:
        module.snapshot(name, "1", version=2**53 - 1)
    module.sent()
    module.drop()
    module.sockets(2)
    module.greet()
    texts = module.run("sockets.at(-1).sent")
    assert max(map(len, texts)) < limits.MAX_MESSAGE_SIZE
    assert len(texts) < limits.BURST
    messages = [json.loads(text) for text in texts]
    assert [name for message in messages for name in message["names"]] == names
    assert sum(len(message["resume"]) for message in messages) == len(names)


VALUES: list[Any] = [
    None,
    "",
    True,
    False,
    0,
    -1,
    1234567,
    3.0,
    1.5,
    1234.5,
    "text",
    "12345678901234567890",
    [1, {"a": None}],
    {},
]
OPTIONS = [{}, {"format": "number"}, {"on": "open", "off": "closed", "empty": "none"}]


def test_page_and_server_write_a_value_alike(module: Module) -> None:
    module.run("document.documentElement.lang = 'en'")
    for options in OPTIONS:
        shown = module.run(f"{json.dumps(VALUES)}.map((value) => dref.display(value, {json.dumps(options)}))")
        assert shown == [render.display(value, **options) for value in VALUES]
