"""Presence on pages: joined and left with the connection, watched like a value, where the policy lets them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dref_django import Presence, Unavailable, backends, background
from dref_django.hub import Raw
from dref_django.live.policy import JOIN, PRESENCE, Policy
from dref_django.live.rooms import Roster
from tests.live.client import TIMEOUT, Client, Person

pytestmark = pytest.mark.asyncio

ROOM = "dref.presence:test.room"


class Known(Person):
    """A user that is read again with every recheck."""

    class _meta:  # noqa: N801
        class default_manager:  # noqa: N801
            @classmethod
            def filter(cls, *, pk: int) -> Any:
                return SimpleNamespace(first=lambda: Known(pk=pk))


class Rooms(Policy):
    """Everybody may be in and see `test....`; who has a key is in `test.lobby` by itself."""

    open = True

    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        return self.open and action in (JOIN, PRESENCE) and ref_name.startswith("test.")

    async def rooms(self, user: Any) -> list[str]:
        return ["test.lobby", "other"] if user.pk else []

    def member(self, user: Any, room_name: str) -> tuple[str, dict[str, Any]]:
        if room_name == "test.fails":
            raise RuntimeError("the policy's own fault")
        return ("", {}) if user.pk is None else (f"user-{user.pk}", {"name": "Alice"})


@pytest.fixture(autouse=True)
def policy(settings: Any, monkeypatch: pytest.MonkeyPatch) -> type[Rooms]:
    settings.DREF_POLICY = "tests.live.test_rooms.Rooms"
    monkeypatch.setattr(Rooms, "open", True)
    return Rooms


async def empty(room: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        async for change in Presence(room).changes():
            if not change.members:
                return


async def test_page_is_in_the_room_until_it_leaves() -> None:
    async with Client(Known(pk=7)) as client:
        await client.expect("hello")
        await client.expect("error", code="forbidden", rooms=["other"])
        await client.expect("joined", rooms=["test.lobby"])
        await client.say("join", rooms=["test.room", "secret"], id=1)
        await client.expect("error", code="forbidden", rooms=["secret"], id=1)
        await client.expect("joined", rooms=["test.room"], id=1)
        assert await Presence("test.room").alist() == {"user-7": {"name": "Alice"}}
        await client.say("leave", rooms=["test.room", "secret"], id=2)
        await client.expect("left", rooms=["test.room"], id=2)
        await empty("test.room")
        assert await Presence("test.lobby").acount() == 1
    await empty("test.lobby")


async def test_two_pages_of_one_user_are_one_member_and_strangers_are_one_each() -> None:
    room = Presence("test.room")
    async with Client(Known(pk=7)) as first, Client(Known(pk=7)) as second, Client() as third, Client() as fourth:
        for client in (first, second, third, fourth):
            await client.say("join", rooms=["test.room"])
            while (await client.hear()).get("rooms") != ["test.room"]:
                pass
        members = await room.alist()
        assert len(members) == 3
        assert "user-7" in members
        await first.say("leave", rooms=["test.room"])
        await first.expect("left")
        assert await room.acount() == 3


async def test_members_are_watched_like_a_value() -> None:
    async with Client() as client, Client() as other:
        await client.expect("hello")
        await client.watch(ROOM)
        assert await client.value(ROOM) == {"count": 0, "members": {}}
        await other.say("join", rooms=["test.room"])
        await Presence("test.room").ajoin("bob", {"name": "Bob"})
        while (value := await client.value(ROOM))["count"] != 2:
            pass
        assert value["members"]["bob"] == {"name": "Bob"}
    await Presence("test.room").aleave("bob")


async def test_second_page_is_told_at_once_what_the_first_one_knows_and_resumes_it() -> None:
    await Presence("test.room").ajoin("bob")
    async with Client() as first:
        await first.expect("hello")
        await first.watch(ROOM)
        await first.value(ROOM)
        async with Client() as second:
            await second.expect("hello")
            await second.watch(ROOM)
            assert (await second.value(ROOM))["count"] == 1
        async with Client() as third:
            await third.expect("hello")
            await third.watch(ROOM, resume={ROOM: first.positions[ROOM]})
            await third.expect("current", name=ROOM)


async def test_page_that_may_not_see_the_members_may_not_watch_them() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", names=["dref.presence:secret"])
        await client.expect("error", code="forbidden", names=["dref.presence:secret"])


async def test_lost_right_ends_being_there_and_seeing_who_is(policy: type[Rooms], limits: Any) -> None:
    limits(RECHECK=0.05)
    async with Client() as client:
        await client.expect("hello")
        await client.watch(ROOM)
        await client.value(ROOM)
        await client.say("join", rooms=["test.room"])
        while (await client.hear())["type"] != "joined":  # the value that shows it may come first
            pass
        policy.open = False
        heard: list[dict[str, Any]] = []
        while len(heard) < 2:
            message = await client.hear()
            if message["type"] == "error":
                heard.append(message)
        assert [message.get("names", message.get("rooms")) for message in heard] == [[ROOM], ["test.room"]]
        await empty("test.room")


async def test_other_user_is_another_member(limits: Any) -> None:
    limits(RECHECK=0.05)
    person = Known(pk=None)
    async with Client(person) as client:
        await client.expect("hello")
        await client.say("join", rooms=["test.room"])
        await client.expect("joined")
        person.pk = 8
        async with asyncio.timeout(TIMEOUT):
            async for change in Presence("test.room").changes():
                if list(change.members) == ["user-8"]:
                    break


async def test_join_that_fails_is_an_error_and_the_page_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(self: Presence, member: str, info: Any) -> None:
        raise Unavailable("the server is away")

    async with Client() as client:
        await client.expect("hello")
        with monkeypatch.context() as patch:
            patch.setattr(Presence, "ajoin", away)
            await client.say("join", rooms=["test.room"])
            await client.expect("error", code="unavailable", rooms=["test.room"])
        await client.say("join", rooms=["test.fails", "test.room"])
        await client.expect("error", code="failed")
        assert "the policy's own fault" in caplog.text
        await empty("test.room")
        await client.say("join", rooms=["test.room"])
        await client.expect("joined", rooms=["test.room"])


async def test_rooms_count_as_subscriptions(limits: Any) -> None:
    limits(MAX_SUBSCRIPTIONS=2)
    async with Client() as client:
        await client.expect("hello")
        await client.watch(ROOM)
        await client.value(ROOM)
        await client.say("join", rooms=["test.a", "test.b"])
        await client.expect("error", code="too-many", rooms=["test.a", "test.b"])
        await client.say("join", rooms=["test.a"])
        await client.expect("joined")


async def test_by_default_staff_sees_who_is_there_and_nobody_joins(settings: Any) -> None:
    del settings.DREF_POLICY
    async with Client(Person()) as client:
        await client.expect("hello")
        await client.watch(ROOM)
        await client.value(ROOM)
        await client.say("join", rooms=["test.room"])
        await client.expect("error", code="forbidden")


class Tap:
    """Lets go of the room as soon as it has heard of it: the stream then ends before anything is cancelled."""

    def __init__(self) -> None:
        self.roster = Roster(ROOM, backends.get_backend())
        self.heard: list[Raw] = []
        self.ended = False

    def push(self, raw: Raw) -> None:
        self.heard.append(raw)
        self.roster.close()

    def end(self) -> None:
        self.ended = True


async def test_last_page_that_lets_go_of_a_room_ends_nothing_else() -> None:
    """`end` says that the back end is out of use, and would cut off every page of the process for good."""
    tap = Tap()
    tap.roster.open(tap)
    async with asyncio.timeout(TIMEOUT):
        while not tap.heard:
            await asyncio.wrap_future(background.submit(asyncio.sleep(0)))
        for _ in range(3):
            await asyncio.wrap_future(background.submit(asyncio.sleep(0)))
    assert not tap.ended
