"""Rights that change while a client watches."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client as HttpClient

from dref_django import Counter
from dref_django.live.consumers import DRefConsumer
from dref_django.live.policy import Policy
from tests.live.client import Client, Person

pytestmark = pytest.mark.asyncio


class FromASet(Policy):
    """Asynchronous, and changed by the tests."""

    names: set[str] = set()

    async def allows(self, user: Any, ref_name: str, action: str) -> bool:
        await asyncio.sleep(0)
        if ref_name == "test.raises":
            raise RuntimeError("the policy's own fault")
        return ref_name in self.names


@pytest.fixture
def names(settings: Any) -> set[str]:
    settings.DREF_POLICY = "tests.live.test_rights.FromASet"
    FromASet.names = {"test.a", "test.b"}
    return FromASet.names


async def test_policy_is_asked_again_while_the_client_watches(names: set[str], limits: Any) -> None:
    limits(RECHECK=0.05)
    lost, kept = Counter("test.a"), Counter("test.b")
    async with Client() as client:
        await client.expect("hello")
        await client.watch("test.a", "test.b")
        await client.expect("snapshot")
        await client.expect("snapshot")
        names.remove("test.a")
        await client.expect("error", code="forbidden", names=["test.a"])
        await lost.aincrement()
        await kept.aincrement()
        await client.expect("snapshot", name="test.b", text="1")


async def test_policy_that_raises_denies_that_name_only(names: set[str], caplog: pytest.LogCaptureFixture) -> None:
    async with Client() as client:
        await client.expect("hello")
        await client.say("watch", names=["test.raises", "test.a"])
        await client.expect("error", code="forbidden", names=["test.raises"])
        await client.expect("watching", names=["test.a"])
    assert "the policy's own fault" in caplog.text


class Reloaded(Person):
    """A user that middleware other than Django's put into the scope; `_meta` reads it again as a model's does."""

    class _meta:  # noqa: N801
        class default_manager:  # noqa: N801
            @classmethod
            def filter(cls, **_: object) -> Any:
                raise ConnectionError("the database is away")


async def test_client_whose_user_cannot_be_read_again_is_dropped(
    limits: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits(RECHECK=0.05)
    person = Person()
    async with Client(person) as client:
        await client.expect("hello")
        person.pk = 1
        person.__class__ = Reloaded
        await client.expect("error", code="unavailable")
    assert "the database is away" in caplog.text


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("default_policy")
class TestSessions:
    @pytest.fixture
    async def http(self) -> HttpClient:
        """The browser of a staff member with the permission."""
        return await sync_to_async(self._log_in)()

    def _log_in(self) -> HttpClient:
        user = get_user_model().objects.create_user("staff", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_ref"))
        http = HttpClient()
        http.force_login(user)
        return http

    def _socket(self, http: HttpClient) -> Client:
        name = django_settings.SESSION_COOKIE_NAME
        return Client(
            cookie=f"{name}={http.cookies[name].value}", application=AuthMiddlewareStack(DRefConsumer.as_asgi())
        )

    async def test_permission_comes_from_the_session(self, http: HttpClient) -> None:
        async with self._socket(http) as client:
            await client.expect("hello")
            await client.watch("anything")
            await client.expect("snapshot")

    async def test_logging_out_ends_the_rights_at_once(self, http: HttpClient) -> None:
        async with self._socket(http) as client:
            await client.expect("hello")
            await client.watch("anything")
            await client.expect("snapshot")
            await sync_to_async(http.logout)()
            await client.expect("error", code="forbidden", names=["anything"])

    async def test_lost_permission_ends_the_rights_with_the_next_recheck(self, http: HttpClient, limits: Any) -> None:
        limits(RECHECK=0.1)
        async with self._socket(http) as client:
            await client.expect("hello")
            await client.watch("anything")
            await client.expect("snapshot")
            await get_user_model().objects.filter(username="staff").aupdate(is_staff=False)
            await client.expect("error", code="forbidden", names=["anything"])

    async def test_session_that_ended_elsewhere_ends_the_rights_with_the_next_recheck(
        self, http: HttpClient, limits: Any
    ) -> None:
        limits(RECHECK=0.1)
        async with self._socket(http) as client:
            await client.expect("hello")
            await client.watch("anything")
            await client.expect("snapshot")
            await sync_to_async(http.session.flush)()
            await client.expect("error", code="forbidden", names=["anything"])

    async def test_new_password_ends_the_rights_with_the_next_recheck(self, http: HttpClient, limits: Any) -> None:
        limits(RECHECK=0.1)
        async with self._socket(http) as client:
            await client.expect("hello")
            await client.watch("anything")
            await client.expect("snapshot")
            user = await get_user_model().objects.aget(username="staff")
            user.set_password("another")
            await user.asave()
            await client.expect("error", code="forbidden", names=["anything"])
