"""What is refused, with which words, and that others are served on meanwhile."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser

from dref_django import Counter
from tests.live.client import Client, Closed, Person, Refused

pytestmark = pytest.mark.asyncio


@pytest.mark.usefixtures("default_policy")
class TestDefaultPolicy:
    @pytest.mark.parametrize(
        "user",
        [
            None,
            AnonymousUser(),
            Person(is_staff=False),
            Person(is_active=False),
            Person(permissions=set()),
            Person(permissions={"dref_django.change_ref"}),
        ],
        ids=["no user", "anonymous", "not staff", "not active", "no permission", "another permission"],
    )
    async def test_denies(self, user: Any) -> None:
        async with Client(user) as client:
            await client.expect("hello")
            await client.say("watch", names=["test.a", "b"], prefixes=[""], id=1)
            await client.expect("error", code="forbidden", names=["test.a", "b"], prefixes=[""], id=1)
            await client.expect("watching", names=[], prefixes=[], id=1)

    async def test_lets_staff_with_the_permission_watch_everything(self) -> None:
        async with Client(Person()) as client:
            await client.expect("hello")
            await client.say("watch", names=["anything"], prefixes=[""])
            await client.expect("watching", names=["anything"], prefixes=[""])


async def test_policy_decides_name_by_name() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", names=["test.open.a", "test.secret.b", "other"])
        await client.expect("error", code="forbidden", names=["test.secret.b", "other"])
        await client.expect("watching", names=["test.open.a"])


async def test_prefix_is_asked_for_by_itself_so_that_it_gives_no_single_name_away() -> None:
    await Counter("test.secret.number").aset(1)
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", prefixes=["test."])
        await client.expect("error", code="forbidden", prefixes=["test."])


async def test_resume_does_not_open_what_is_not_watched() -> None:
    await Counter("test.secret").aset(1)
    visible = Counter("test.visible")
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.visible", resume={"test.secret": ["", 0]})
        await client.say("resync", names=["test.secret"])
        await client.expect("snapshot", name="test.visible")
        await visible.aincrement()
        await client.expect("snapshot", name="test.visible")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "malformed"),
        ("[" * 20_000, "malformed"),
        ("[]", "malformed"),
        ('"watch"', "malformed"),
        ('{"names": ["test.a"]}', "unknown-type"),
        ('{"type": "delete", "name": "test.a"}', "unknown-type"),
        ('{"type": "set", "name": "test.a"}', "malformed"),
        ('{"type": "set", "name": "test.a", "value": NaN}', "malformed"),
        ('{"type": "set", "name": "\\u0000", "value": 1}', "invalid-name"),
        ('{"type": "increment"}', "malformed"),
        ('{"type": "increment", "name": "test.a", "amount": 1.5}', "malformed"),
        ('{"type": "increment", "name": "test.a", "amount": true}', "malformed"),
        ('{"type": "compare_and_set", "name": "test.a", "value": 1}', "malformed"),
        ('{"type": ["watch"]}', "unknown-type"),
        ('{"type": "watch", "names": "test.a"}', "malformed"),
        ('{"type": "watch", "names": [1]}', "malformed"),
        ('{"type": "watch", "prefixes": {}}', "malformed"),
        ('{"type": "watch", "resume": []}', "malformed"),
        ('{"type": "watch", "resume": {"test.a": [1, "e"]}}', "malformed"),
        ('{"type": "watch", "resume": {"test.a": ["e", 1.5]}}', "malformed"),
        ('{"type": "watch", "resume": {"test.a": ["%s", 1]}}' % ("e" * 500), "malformed"),
        ('{"type": "watch", "id": {}}', "malformed"),
        ('{"type": "pong"}', "malformed"),
        ('{"type": "watch", "names": [""]}', "invalid-name"),
        ('{"type": "watch", "names": ["%s"]}' % ("n" * 201), "invalid-name"),
        ('{"type": "watch", "names": ["test.\\u0000"]}', "invalid-name"),
        ('{"type": "watch", "names": ["\\ud800"]}', "invalid-name"),
        ('{"type": "resync", "names": ["\\u001f\\u001f"]}', "invalid-name"),
    ],
)
async def test_message_that_makes_no_sense_is_answered_and_the_next_is_served(text: str, code: str) -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say_text(text)
        error = await client.expect("error", code=code)
        assert error["message"]
        await client.watch("test.a")
        await client.expect("snapshot")


async def test_answer_to_a_bad_message_carries_its_id() -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", names=[""], id="mine")
        await client.expect("error", code="invalid-name", id="mine")


async def test_oversized_message_is_refused_and_the_socket_closed_while_others_are_served(limits: Any) -> None:
    limits(MAX_MESSAGE_SIZE=1000)
    counter = Counter("test.a")
    async with Client() as other, Client() as client:
        await other.expect("hello")
        await other.watch("test.a")
        await other.expect("snapshot")
        await client.expect("hello")
        await client.say_text(json.dumps({"type": "watch", "names": ["n" * 1000]}))
        await client.expect("error", code="too-large")
        with pytest.raises(Closed) as closed:
            await client.hear()
        assert closed.value.code == 1009
        await counter.aincrement()
        await other.expect("snapshot", text="1")


async def test_subscriptions_beyond_the_limit_are_refused_and_those_before_go_on(limits: Any) -> None:
    limits(MAX_SUBSCRIPTIONS=3)
    counter = Counter("test.0")
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.0", "test.1")
        await client.expect("snapshot")
        await client.expect("snapshot")
        await client.say("watch", names=["test.0", "test.2"], prefixes=["test.open."], id=1)
        await client.expect("error", code="too-many", names=["test.2"], prefixes=["test.open."], id=1)
        await client.say("watch", names=["test.0", "test.2"])
        await client.expect("watching", names=["test.0", "test.2"])
        await client.expect("snapshot", name="test.2")
        await client.say("unwatch", names=["test.2", "test.1"])
        await client.expect("unwatched")
        await client.say("watch", prefixes=["test.open."])
        await client.expect("watching")
        await counter.aincrement()
        await client.expect("snapshot", name="test.0")


async def test_names_under_a_prefix_beyond_the_limit_are_refused_one_by_one(limits: Any) -> None:
    limits(MAX_NAMES=2)
    for index in range(4):
        await Counter(f"test.open.{index}").aset(index)
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", prefixes=["test.open."])
        await client.expect("watching")
        messages = [await client.hear() for _ in range(4)]
        assert [message["type"] for message in messages].count("snapshot") == 2
        assert [message.get("code") for message in messages].count("too-many-names") == 2


@pytest.mark.parametrize("text", ['{"type": "unwatch"}', "nonsense", '{"type": "pong", "ping": 1}'])
async def test_flood_is_cut_off(limits: Any, text: str) -> None:
    limits(RATE=0.1, BURST=5)
    async with Client() as client:
        await client.expect("hello")
        for _ in range(6):
            await client.say_text(text)
        while (await client.hear()).get("code") != "rate":
            pass
        with pytest.raises(Closed) as closed:
            await client.hear()
        assert closed.value.code == 4429


async def test_client_of_another_version_is_told_so() -> None:
    async with Client(subprotocols=("dref.v9",)) as client:
        assert client.subprotocol is None
        await client.expect("error", code="unsupported-protocol")
        with pytest.raises(Closed) as closed:
            await client.hear()
        assert closed.value.code == 4406


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "testserver"),
        ("http://testserver:8000", "testserver"),
        ("http://testserver.evil.example", "testserver"),
        ("null", "testserver"),
        (None, "testserver"),
        ("file://testserver", "testserver"),
        ("http://rebound.example", "rebound.example"),
    ],
)
async def test_page_of_another_origin_is_refused(origin: str | None, host: str) -> None:
    with pytest.raises(Refused):
        async with Client(origin=origin, host=host):
            pass


async def test_trusted_origins_are_let_in(settings: Any, limits: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://*.partner.example"]
    limits(ORIGINS=["https://static.example:8443"])
    for origin in ("https://a.partner.example", "https://static.example:8443", "http://testserver"):
        async with Client(origin=origin) as client:
            await client.expect("hello")
    for origin in ("http://a.partner.example", "https://static.example", "https://partner.example.evil"):
        with pytest.raises(Refused):
            async with Client(origin=origin):
                pass
