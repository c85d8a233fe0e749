"""What a page may change, and what it is told when it may not or cannot."""

from dataclasses import dataclass
from typing import Any

import pytest

from dref_django import Counter, DRef, Flag, HotCounter, Unavailable
from dref_django.live.policy import COMPARE_AND_SET, INCREMENT, SET, Policy
from tests.live.client import Client, Person

pytestmark = pytest.mark.asyncio


class Writable(Policy):
    """What is named `test.open...` may be changed in every way, `test.counter...` only be incremented."""

    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        if action == INCREMENT and ref_name.startswith("test.counter"):
            return True
        return ref_name.startswith(("test.open", "dref.")) or action == "watch"


@pytest.fixture(autouse=True)
def _writable(settings: Any) -> None:
    settings.DREF_POLICY = "tests.live.test_writes.Writable"


@dataclass(frozen=True)
class Mood:
    sunny: int = 0


counter, hot = Counter("test.counter", default=10), HotCounter("test.counter.hot", stripes=2)
mood = DRef("test.open.mood", default=Mood())
flag = Flag("test.open.flag")


async def test_increment_is_applied_once_and_answered_with_the_sum() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("increment", name="test.counter", id=1)
        await client.expect("written", name="test.counter", value=11, id=1)
        await client.say("increment", name="test.counter", amount=-5)
        await client.expect("written", value=6)
    assert await counter.aget() == 6


async def test_counter_in_stripes_is_incremented_without_a_sum() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("increment", name="test.counter.hot", amount=3)
        answer = await client.expect("written", name="test.counter.hot")
        assert "value" not in answer
    assert await hot.aget() == 3


async def test_set_goes_through_the_type_of_the_ref() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("set", name="test.open.mood", value={"sunny": 3}, id="a")
        answer = await client.expect("written", name="test.open.mood", id="a")
        assert (await mood.aget(), await mood.aversion()) == (Mood(3), answer["version"])
        await client.say("set", name="test.open.mood", value={"sunny": "often"})
        await client.expect("error", code="invalid-value", names=["test.open.mood"])
        await client.say("set", name="test.open.anything", value=["as", {"it": "is"}])
        await client.expect("written")
    assert await mood.aget() == Mood(3)
    assert await DRef[Any]("test.open.anything").aget() == ["as", {"it": "is"}]


async def test_compare_and_set_changes_only_the_version_that_the_page_holds() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("compare_and_set", name="test.open.flag", version=0, value=True)
        first = (await client.expect("written"))["version"]
        await client.say("compare_and_set", name="test.open.flag", version=0, value=False)
        await client.expect("error", code="conflict", names=["test.open.flag"])
        await flag.aset(True)
        await client.say("compare_and_set", name="test.open.flag", version=first, value=False)
        await client.expect("error", code="conflict")
        assert await flag.aget() is True
        await client.say("compare_and_set", name="test.open.flag", version=await flag.aversion(), value=False)
        await client.expect("written")
    assert await flag.aget() is False


async def test_own_change_comes_to_the_page_like_any_other() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.open.mood")
        await client.expect("snapshot")
        await client.say("set", name="test.open.mood", value={"sunny": 1})
        kinds = {(await client.hear())["type"], (await client.hear())["type"]}
        assert kinds in ({"written", "snapshot"}, {"written", "splice"})
        assert client.texts["test.open.mood"] == '{"sunny":1}'


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "set", "name": "test.counter", "value": 1}, "forbidden"),
        ({"type": "compare_and_set", "name": "test.counter", "value": 1, "version": 0}, "forbidden"),
        ({"type": "increment", "name": "other"}, "forbidden"),
        ({"type": "set", "name": "dref.election\x1ftest", "value": 1}, "forbidden"),
        ({"type": "increment", "name": "test.counter", "amount": 2**63}, "overflow"),
        ({"type": "increment", "name": "test.open.mood"}, "wrong-kind"),
        ({"type": "set", "name": "test.open.mood", "value": None}, "invalid-value"),
    ],
)
async def test_refused_change_changes_nothing_and_the_next_is_served(message: dict[str, Any], code: str) -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say(message.pop("type"), **message, id=1)
        await client.expect("error", code=code, names=[message["name"]], id=1)
        await client.say("increment", name="test.counter", amount=0)
        await client.expect("written", value=10)


@pytest.mark.usefixtures("default_policy")
async def test_by_default_nobody_may_change_anything() -> None:
    person = Person(permissions={"dref_django.view_ref", "dref_django.change_ref"})
    async with Client(person) as client:
        await client.expect("hello")
        for action, more in ((INCREMENT, {}), (SET, {"value": 1}), (COMPARE_AND_SET, {"value": 1, "version": 0})):
            await client.say(action, name="test.counter", **more)
            await client.expect("error", code="forbidden")


async def test_back_end_that_is_away_is_told_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: Counter, amount: int = 1) -> int:
        raise Unavailable("the server is away")

    async with Client() as client:
        await client.expect("hello")
        with monkeypatch.context() as patch:
            patch.setattr(Counter, "aincrement", away)
            await client.say("increment", name="test.counter")
            await client.expect("error", code="unavailable", message="the server is away")
        await client.say("increment", name="test.counter")
        await client.expect("written", value=11)
