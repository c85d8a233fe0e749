"""Answers that get lost on the way: commands on leases may be said again, and nobody is told a loss that was none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from dref_django import Unavailable, backends, lock
from dref_django.inspection import lock_info
from dref_django.protocol import Acquire, Release, Renew
from tests.locks.scripted import ScriptedBackend, once
from tests.locks.test_renewal import until_renewed
from tests.proxy import TcpProxy
from tests.servers import HasUrl


class TestScripted:
    @pytest.mark.parametrize("kind", [Acquire, Renew, Release])
    def test_lost_reply_is_no_loss(self, kind: type, scripted: ScriptedBackend) -> None:
        scripted.lose_replies = once(kind)
        with lock("a", ttl=1) as held:
            until_renewed(held, 2)
            held.check()
        assert lock_info("a") is None

    @pytest.mark.parametrize("kind", [Acquire, Renew, Release])
    def test_lost_request_is_no_loss(self, kind: type, scripted: ScriptedBackend) -> None:
        scripted.lose_requests = once(kind)
        with lock("a", ttl=1) as held:
            until_renewed(held, 2)
            held.check()
        assert lock_info("a") is None

    async def test_async_release_whose_reply_is_lost_is_no_loss(self, scripted: ScriptedBackend) -> None:
        scripted.lose_replies = once(Release)
        async with lock("a"):
            pass
        await lock("a", timeout=0).aacquire()

    def test_token_stays_the_same_when_the_grant_was_lost_on_the_way(self, scripted: ScriptedBackend) -> None:
        scripted.lose_replies = once(Acquire)
        with lock("a") as held:
            found = lock_info("a")
            assert found is not None
            assert found.token == held.token


class TestOutOfReach:
    def test_block_ends_though_the_release_cannot_be_sent(
        self, scripted: ScriptedBackend, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.DREF_BACKEND = {"BACKEND": "tests.locks.scripted.ScriptedBackend", "TIMEOUT": 0.1}
        backend = backends.get_backend()
        assert isinstance(backend, ScriptedBackend)
        with lock("a", "b"):
            backend.lose_requests = lambda commands: True
        assert "could not be released and will run out" in caplog.text
        backend.lose_requests = lambda commands: False

    def test_release_of_a_handle_raises_and_can_be_repeated(self, settings: Settings) -> None:
        settings.DREF_BACKEND = {"BACKEND": "tests.locks.scripted.ScriptedBackend", "TIMEOUT": 0.1}
        backend = backends.get_backend()
        assert isinstance(backend, ScriptedBackend)
        guard = lock("a")
        held = guard.acquire()
        backend.lose_requests = lambda commands: True
        with pytest.raises(Unavailable):
            guard.release(held)
        backend.lose_requests = lambda commands: False
        guard.release(held)
        assert lock_info("a") is None
        backends.reset()

    def test_acquire_that_fails_leaves_nothing_behind(self, settings: Settings) -> None:
        settings.DREF_BACKEND = {"BACKEND": "tests.locks.scripted.ScriptedBackend", "TIMEOUT": 0.1}
        backend = backends.get_backend()
        assert isinstance(backend, ScriptedBackend)
        backend.lose_replies = lambda commands: isinstance(commands[0], Acquire)
        with pytest.raises(Unavailable):
            lock("a").acquire()
        backend.lose_replies = lambda commands: False
        with lock("a", timeout=5):
            pass
        backends.reset()


class TestThroughAProxy:
    @pytest.fixture
    def proxy(self, redis_server: HasUrl, settings: Settings) -> Iterator[TcpProxy]:
        port = int(redis_server.url.rpartition(":")[2].partition("/")[0])
        with TcpProxy("127.0.0.1", port) as proxy:
            settings.DREF_BACKEND = {
                "BACKEND": "redis",
                "KEY_PREFIX": "locks-proxy",
                "OPTIONS": {"URL": proxy.through(redis_server.url)},
            }
            yield proxy
            backends.reset()

    def test_reply_of_acquire_and_release(self, proxy: TcpProxy) -> None:
        with lock("warm"):
            pass
        lost = proxy.drop_replies(matching=b"lock:proxied")
        with lock("proxied") as held:
            assert lost.is_set()
            held.check()
            lost = proxy.drop_replies(matching=b"lock:proxied")
        assert lost.is_set()
        with lock("proxied", timeout=0):
            pass

    async def test_async_reply_of_acquire_and_release(self, proxy: TcpProxy) -> None:
        async with lock("warm"):
            pass
        lost = proxy.drop_replies(matching=b"lock:aproxied")
        async with lock("aproxied"):
            assert lost.is_set()
            lost = proxy.drop_replies(matching=b"lock:aproxied")
        assert lost.is_set()
        async with lock("aproxied", timeout=0):
            pass

    def test_cut_connections_while_holding(self, proxy: TcpProxy) -> None:
        with lock("cut", ttl=1) as held:
            for _ in range(4):
                proxy.cut()
                until_renewed(held)
            held.check()
