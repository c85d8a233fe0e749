"""What a client is told: snapshots, splices, prefixes, resume, resync."""

import json
import random
from dataclasses import dataclass

import pytest

from dref_django import Counter, DRef, Flag
from dref_django.live.wire import SUBPROTOCOL
from tests.live.client import Client

pytestmark = pytest.mark.asyncio


@dataclass(frozen=True)
class Place:
    city: str
    people: int = 0


async def test_hello_names_the_protocol_and_its_heartbeat() -> None:
    async with Client() as client:
        assert client.subprotocol == SUBPROTOCOL
        await client.expect("hello", protocol=1, heartbeat=20.0)


async def test_watch_answers_with_a_snapshot_then_each_newest_value() -> None:
    visits = Counter("test.visits")
    await visits.aset(41)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.visits", id=7)
        snapshot = await client.expect("snapshot", name="test.visits", text="41")
        assert snapshot["version"] == await visits.aversion()
        await visits.aincrement()
        assert await client.value("test.visits") == 42


async def test_answer_carries_the_id_of_its_question() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", names=["test.a"], id="first")
        await client.expect("watching", names=["test.a"], id="first")


async def test_absent_ref_is_shown_with_its_default_and_as_deleted() -> None:
    flag = Flag("test.flag", default=True)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.flag")
        await client.expect("snapshot", text="true", deleted=True)
        await flag.aset(False)
        message = await client.expect("snapshot", text="false")
        assert "deleted" not in message
        await flag.adelete()
        await client.expect("snapshot", text="true", deleted=True)


async def test_one_field_of_a_large_dict_travels_as_a_small_splice() -> None:
    large = DRef[dict[str, str]]("test.large")
    value = {f"field {index}": f"{index:096}" for index in range(1000)}
    await large.aset(value)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.large")
        assert (await client.expect("snapshot"))["length"] > 100_000
        value["field 500"] = "changed"
        await large.aset(value)
        assert (await client.expect("splice"))["length"] < 300
        assert json.loads(client.texts["test.large"]) == value


async def test_splices_rebuild_every_value_exactly() -> None:
    seed = random.Random(7)
    alphabet = ["a", "é", "漢", "🙂", '"', "\\", "\n", "</script>", "\u2028"]
    ref = DRef[list[str]]("test.texts")
    value = ["".join(seed.choices(alphabet, k=40)) for _ in range(10)]
    await ref.aset(value)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.texts")
        await client.until("test.texts", value)
        for _ in range(50):
            value[seed.randrange(len(value))] = "".join(seed.choices(alphabet, k=seed.randrange(60)))
            await ref.aset(value)
            await client.until("test.texts", value)


async def test_second_client_gets_the_snapshot_where_the_first_gets_a_splice() -> None:
    ref = DRef[dict[str, str]]("test.shared")
    value = {"long": "x" * 200, "short": "a"}
    await ref.aset(value)
    async with Client() as early, Client() as late:
        await early.expect("hello")
        await late.expect("hello")
        await early.watch("test.shared")
        await early.expect("snapshot")
        await ref.aset({**value, "short": "b"})
        await early.expect("splice")
        await late.watch("test.shared")
        await late.expect("snapshot", text=early.texts["test.shared"])
        await ref.aset({**value, "short": "c"})
        await early.expect("splice")
        await late.expect("splice")
        assert early.texts == late.texts


async def test_unwatched_name_is_not_heard_of_again() -> None:
    left, kept = Counter("test.left"), Counter("test.kept")
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.left", "test.kept")
        assert {(await client.expect("snapshot"))["name"] for _ in range(2)} == {"test.left", "test.kept"}
        await client.say("unwatch", names=["test.left", "test.never"])
        await client.expect("unwatched", names=["test.left"])
        await left.aincrement()
        await kept.aincrement()
        await client.expect("snapshot", name="test.kept", text="1")


async def test_prefix_shows_what_is_there_what_comes_and_what_goes() -> None:
    first, second = Counter("test.open.first"), Counter("test.open.second")
    await first.aset(1)
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", prefixes=["test.open."])
        await client.expect("watching", prefixes=["test.open."])
        await client.expect("snapshot", name="test.open.first", text="1")
        await second.aset(2)
        await client.expect("snapshot", name="test.open.second", text="2")
        await first.adelete()
        await client.expect("snapshot", name="test.open.first", deleted=True)


async def test_name_watched_twice_over_is_sent_once() -> None:
    both = DRef[str]("test.open.both")
    await both.aset("x" * 100)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.open.both")
        await client.expect("snapshot")
        await client.say("watch", prefixes=["test.open."])
        await client.expect("watching")
        for end in "abc":
            await both.aset("x" * 100 + end)
            await client.expect("splice", insert=end)
        # One of the two ends: the other goes on where it was.
        await client.say("unwatch", names=["test.open.both"])
        await client.expect("unwatched")
        await both.aset("x" * 100 + "d")
        await client.expect("splice")


async def test_resume_at_the_current_version_sends_no_value() -> None:
    ref = DRef("test.resumed", default=Place("Oslo"))
    await ref.aset(Place("Bergen", 5))
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.resumed")
        await client.expect("snapshot")
    async with Client() as again:
        await again.expect("hello")
        await again.watch("test.resumed", resume=client.positions)
        epoch, version = client.positions["test.resumed"]
        await again.expect("current", name="test.resumed", epoch=epoch, version=version)
        # The next change comes whole: another process may have made the text that the client holds.
        await ref.aset(Place("Bergen", 6))
        await again.expect("snapshot", text='{"city":"Bergen","people":6}')


@pytest.mark.parametrize("position", [["another epoch", 0], ["", 1]], ids=["other epoch", "other version"])
async def test_resume_from_anywhere_else_sends_the_snapshot(position: list[object]) -> None:
    ref = Counter("test.moved")
    await ref.aset(3)
    if position[1] == 0:
        position = [position[0], await ref.aversion()]
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.moved", resume={"test.moved": position})
        await client.expect("snapshot", text="3")


async def test_resume_under_a_prefix_tells_what_was_deleted_meanwhile() -> None:
    kept, gone = Counter("test.open.kept"), Counter("test.open.gone")
    await kept.aset(1)
    await gone.aset(2)
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", prefixes=["test.open."])
        await client.expect("watching")
        await client.until("test.open.kept", 1)
        await client.until("test.open.gone", 2)
    await gone.adelete()
    async with Client() as again:
        await again.expect("hello")
        await again.say("watch", prefixes=["test.open."])
        await again.expect("watching")
        await again.say("watch", resume=client.positions)
        await again.until("test.open.gone", 0)


async def test_resync_sends_the_whole_value_again() -> None:
    ref = DRef[str]("test.text")
    await ref.aset("x" * 100)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.text")
        await client.expect("snapshot")
        await client.say("resync", names=["test.text", "test.never.watched"])
        await client.expect("snapshot", text=json.dumps("x" * 100))
        await ref.aset("x" * 99 + "y")
        await client.expect("splice")


async def test_integer_that_javascript_would_round_travels_as_a_string() -> None:
    big = Counter("test.big")
    await big.aset(2**53 - 1)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.big")
        assert await client.value("test.big") == 2**53 - 1
        await big.aincrement(2)
        assert await client.value("test.big") == str(2**53 + 1)


async def test_stored_value_that_does_not_fit_its_type_is_an_error_and_the_next_is_shown() -> None:
    await DRef[object]("test.typed").aset("no place")
    place = DRef("test.typed", default=Place("Oslo"))
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.typed")
        error = await client.expect("error", code="invalid-value", names=["test.typed"])
        assert "test.typed" in error["message"]
        await place.aset(Place("Oslo", 1))
        await client.expect("snapshot", text='{"city":"Oslo","people":1}')


async def test_value_that_expires_is_shown_as_deleted() -> None:
    ref = DRef("test.brief", default="none")
    await ref.aset("some", ttl=0.05)
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.brief")
        await client.until("test.brief", "none")
