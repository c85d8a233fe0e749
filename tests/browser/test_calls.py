"""What a page changes, and the rooms it is in: dref.js by itself, with a websocket that the tests speak for."""

import json

import pytest

from tests.browser.module import Module


def test_changes_resolve_with_what_the_server_answers(module: Module) -> None:
    module.greeted("a")
    module.sent()
    module.call("dref.increment('a')")
    module.call("dref.increment('a', -3)")
    module.call("dref.set('b', { n: [1] })")
    module.call("dref.compareAndSet('b', 7, null)")
    one, two, three, four = module.sent()
    ids = [message.pop("id") for message in (one, two, three, four)]
    assert one == {"type": "increment", "name": "a", "amount": 1}
    assert two == {"type": "increment", "name": "a", "amount": -3}
    assert three == {"type": "set", "name": "b", "value": {"n": [1]}}
    assert four == {"type": "compare_and_set", "name": "b", "version": 7, "value": None}
    module.hear("written", name="b", version=8, id=ids[2])
    module.hear("written", name="a", value=1, id=ids[0])
    module.hear("written", name="a", value="-9007199254740993", id=ids[1])
    module.hear("written", name="b", version=9, id=ids[3])
    assert module.said == [["done", 8], ["done", 1], ["done", "-9007199254740993"], ["done", 9]]


def test_refused_change_rejects_with_the_code_and_is_no_event(module: Module) -> None:
    module.run("document.addEventListener('dref:error', ({ detail }) => said.push(['event', detail.code]))")
    module.greeted("a")
    module.sent()
    module.call("dref.set('a', 1)")
    module.call("dref.set('a', 2)")
    first, second = module.sent()
    module.hear("error", code="forbidden", message="you may not change this", names=["a"], id=first["id"])
    module.hear("written", name="a", version=3, id=second["id"])
    module.hear("error", code="forbidden", message="you may not watch this", names=["a"], prefixes=[])
    assert module.said == [["DRefError", "forbidden"], ["done", 3], ["event", "forbidden"]]


def test_change_under_way_when_the_connection_breaks_is_unknown_and_never_sent_again(module: Module) -> None:
    module.greeted("a")
    module.call("dref.increment('a')")
    module.drop()
    assert module.said == [["DRefError", "outcome-unknown"]]
    module.sockets(2)
    module.greet()
    assert [message["type"] for message in module.sent()] == ["watch"]


def test_change_makes_the_connection_and_waits_for_it_in_order(module: Module) -> None:
    module.call("dref.increment('a')")
    module.call("dref.set('a', 5)")
    module.sockets(1)
    module.drop()  # before it was there: nothing was sent
    module.sockets(2)
    assert module.sent() == []
    module.greet()
    assert [message["type"] for message in module.sent()] == ["increment", "set"]
    assert module.said == []


def test_change_that_found_no_connection_is_given_up_and_not_made_later(module: Module) -> None:
    module.run("void hurried.push('settle')")
    module.call("dref.increment('a')")
    module.wait_for("said.length")
    assert module.said == [["DRefError", "unavailable"]]
    module.greet()
    assert module.sent() == []


def test_change_that_was_sent_waits_for_its_answer_however_long(module: Module) -> None:
    module.greeted("a")
    module.call("dref.increment('a')")
    module.run("void hurried.push('settle')")
    module.call("dref.increment('a')")
    module.run("new Promise((done) => setTimeout(done, 5))")
    assert module.said == []


def test_what_json_cannot_hold_is_refused_at_once(module: Module) -> None:
    module.greeted("a")
    module.sent()
    module.call("dref.set('a', 1n)")
    module.call("dref.increment('a')")
    assert [message["type"] for message in module.sent()] == ["increment"]
    assert module.said == [["TypeError", None]]


def test_page_is_in_its_rooms_again_after_a_reconnection(module: Module) -> None:
    for room in ("tea", "cake", "late"):
        module.call(f"dref.join('{room}')")
    module.sockets(1)
    module.greet()
    tea, cake, late = module.sent()
    assert (tea["type"], tea["rooms"]) == ("join", ["tea"])
    module.hear("joined", rooms=["tea"], id=tea["id"])
    module.hear("joined", rooms=["cake"], id=cake["id"])
    module.call("dref.leave('cake')")
    (left,) = module.sent()
    assert (left["type"], left["rooms"]) == ("leave", ["cake"])
    module.drop()
    module.sockets(2)
    module.greet()
    assert module.sent() == [{"type": "join", "rooms": ["tea"]}, late, left]
    module.hear("left", rooms=[], id=left["id"])
    module.hear("joined", rooms=["late"], id=late["id"])
    assert module.said == [["done", None]] * 4


def test_refused_room_is_not_asked_for_again(module: Module) -> None:
    module.call("dref.join('tea')")
    module.sockets(1)
    module.greet()
    (asked,) = module.sent()
    module.hear("error", code="forbidden", message="you may not join", rooms=["tea"], id=asked["id"])
    module.hear("joined", rooms=[], id=asked["id"])  # the answer to the others of the message, had there been any
    module.drop()
    module.watch("a")
    module.sockets(2)
    module.greet()
    assert module.said == [["DRefError", "forbidden"]]
    assert [message["type"] for message in module.sent()] == ["watch"]


@pytest.mark.parametrize(("code", "again"), [("forbidden", False), ("unavailable", True)])
def test_room_that_cannot_be_rejoined_is_tried_again_unless_it_is_forbidden(
    module: Module, code: str, again: bool
) -> None:
    module.call("dref.join('tea')")
    module.sockets(1)
    module.greet()
    module.hear("joined", rooms=["tea"], id=module.sent()[0]["id"])
    module.drop()
    module.sockets(2)
    module.greet()
    module.sent()
    module.run("void hurried.push('rejoin')")
    module.hear("error", code=code, message="no", rooms=["tea"])
    module.run("new Promise((done) => setTimeout(done, 5))")
    assert module.sent() == ([{"type": "join", "rooms": ["tea"]}] if again else [])
    module.drop()
    module.watch("a")
    module.sockets(3)
    module.greet()
    assert ({"type": "join", "rooms": ["tea"]} in module.sent()) == again


def test_errors_are_of_a_class_that_a_page_can_ask_for(module: Module) -> None:
    made = "new dref.DRefError({ code: 'conflict', message: 'another version' })"
    assert module.run(f"{made} instanceof Error && {made} instanceof dref.DRefError")
    assert json.loads(module.run(f"JSON.stringify([{made}.code, {made}.message])")) == ["conflict", "another version"]
