"""Servers that restart, connections that end or go silent, clocks that step."""

from __future__ import annotations

import time

import pytest
import redis

from dref_django.backends.redis.keys import Keys
from tests.lock_faults.conftest import Gap, OwnServer, Site
from tests.locks.test_entering import until_awaited
from tests.processes import wait_until
from tests.proxy import TcpProxy
from tests.servers import HasUrl, PostgresServer, RedisServer


class TestSilence:
    def test_lock_counts_as_lost_before_the_server_grants_it_again(self, gap: Gap) -> None:
        cut_off, other = gap.site.holder(**gap.through), gap.site.holder()
        cut_off.acquire("h", "a", ttl=2)
        other.wait_for("o", "a", ttl=2)
        until_awaited("a")
        gap.proxy.blackhole()
        silent_at = time.monotonic()
        lost = cut_off.expect("lost", "h", timeout=10)
        granted = other.expect("acquired", "o", timeout=10)
        assert lost["trusted_until"] < granted["at"]
        assert lost["trusted_until"] - silent_at <= 2
        cut_off.tell("check", "h")
        assert not cut_off.expect("checked", "h")["held"]

    @pytest.mark.parametrize("gap", ["redis", "nodes"], indirect=True)
    def test_silence_shorter_than_the_window_loses_nothing(self, gap: Gap) -> None:
        """What was swallowed is sent again on another connection; the one session of postgres would end with it."""
        holder = gap.site.holder(**gap.through)
        began = holder.acquire("h", "a", ttl=3)["at"]
        gap.proxy.blackhole()
        wait_until(lambda: time.monotonic() > began + 1.5, "a renewal to get lost", 5)
        gap.proxy.heal()
        wait_until(lambda: time.monotonic() > began + 4, "the lease to be over without a renewal", 10)
        holder.tell("check", "h")
        assert holder.expect("checked", "h")["held"]

    def test_waiter_outlives_a_connection_that_is_cut(self, gap: Gap) -> None:
        holder, waiter = gap.site.holder(), gap.site.holder(**gap.through)
        holder.acquire("h", "a", ttl=30)
        waiter.wait_for("w", "a")
        until_awaited("a")
        gap.proxy.cut()
        holder.tell("release", "h")
        assert waiter.expect("acquired", "w", timeout=8)

    def test_waiters_that_hear_no_wake_up_are_served_by_their_own_look(
        self, redis_site: Site, redis_proxy: TcpProxy, redis_server: HasUrl
    ) -> None:
        """The listener's connection hears nothing; commands go through."""
        holder, waiter = redis_site.holder(), redis_site.holder(URL=redis_proxy.through(redis_server.url))
        holder.acquire("h", "a", ttl=30)
        waiter.wait_for("w", "a")
        until_awaited("a")
        with redis.Redis.from_url(redis_server.url) as client:
            channels = Keys(redis_site.setting["KEY_PREFIX"], 0).wakes
            wait_until(lambda: bool(client.pubsub_channels(f"{channels}*")), "the listener", 10)
            client.client_kill_filter(_type="pubsub", skipme=True)
            redis_proxy.refuse()  # nor does a new listener come through
            holder.tell("release", "h")
            released = holder.expect("released", "h")["at"]
            redis_proxy.accept()
        served = waiter.expect("acquired", "w")
        assert served["at"] - released < 8  # 5 s, and a slow machine


class TestServer:
    @pytest.mark.parametrize("own_server", ["redis", "nodes"], indirect=True)
    def test_restart_within_the_window_loses_nothing(self, own_server: OwnServer) -> None:
        server, site = own_server
        holder = site.holder()
        began = holder.acquire("h", "a", ttl=6)["at"]
        server.kill()
        server.start()
        wait_until(lambda: time.monotonic() > began + 6.5, "the first lease to be over", 10)
        holder.tell("check", "h")
        assert holder.expect("checked", "h")["held"]

    def test_waiter_outlives_a_restart(self, own_server: OwnServer) -> None:
        """On postgres the holder's lease ends with the server, and its release says so."""
        server, site = own_server
        holder, waiter = site.holder(), site.holder()
        holder.acquire("h", "a", ttl=30)
        waiter.wait_for("w", "a", ttl=30)
        until_awaited("a")
        server.kill()
        server.start()
        holder.tell("release", "h")
        holder.expect("failed" if isinstance(server, PostgresServer) else "released", "h")
        waiter.expect("acquired", "w", timeout=10)

    def test_tokens_rise_over_crashes(self, own_server: OwnServer) -> None:
        server, site = own_server
        tokens = []
        holder = site.holder()
        for number in range(3):
            key = f"h{number}"
            tokens.append(holder.acquire(key, "a", ttl=30)["token"])
            holder.tell("release", key)
            holder.expect("released", key)
            server.kill()
            server.start()
        assert tokens == sorted(set(tokens))

    def test_server_that_forgot_everything_is_a_loud_loss_and_tokens_rise_all_the_same(
        self, own_redis: tuple[RedisServer, Site]
    ) -> None:
        server, site = own_redis
        holder, other = site.holder(), site.holder()
        first = holder.acquire("h", "a", ttl=2)
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        holder.expect("lost", "h", timeout=5)
        assert other.acquire("o", "a")["token"] > first["token"]


class TestConnections:
    def test_killed_by_the_server(self, redis_site: Site, redis_server: HasUrl) -> None:
        holder = redis_site.holder()
        began = holder.acquire("h", "a", ttl=1)["at"]
        with redis.Redis.from_url(redis_server.url) as client:
            while time.monotonic() < began + 3:
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub", skipme=True)
                time.sleep(0.1)
        holder.tell("check", "h")
        assert holder.expect("checked", "h")["held"]

    @pytest.mark.parametrize("gap", ["nodes"], indirect=True)
    def test_cut_again_and_again(self, gap: Gap) -> None:
        holder = gap.site.holder(**gap.through)
        began = holder.acquire("h", "a", ttl=1)["at"]
        while time.monotonic() < began + 3:
            gap.proxy.cut()
            time.sleep(0.1)
        holder.tell("check", "h")
        assert holder.expect("checked", "h")["held"]


class TestClock:
    @pytest.mark.parametrize("step", [3600, -3600])
    def test_of_one_host_that_steps_by_an_hour_changes_nothing(self, site: Site, step: float) -> None:
        odd, even = site.holder(), site.holder()
        first = odd.acquire("o", "a", ttl=1)
        odd.tell("step", "", seconds=step)
        odd.expect("stepped")
        even.wait_for("e", "a", ttl=1)
        until_awaited("a")
        wait_until(lambda: time.monotonic() > first["at"] + 2, "two leases", 5)
        odd.tell("check", "o")
        assert odd.expect("checked", "o")["held"]
        assert not even.has_said("acquired", "e")
        odd.tell("release", "o")
        second = even.expect("acquired", "e", timeout=6)
        assert first["token"] < second["token"] < first["token"] + 60_000_000
        odd.wait_for("again", "a", ttl=1)
        even.tell("release", "e")
        assert odd.expect("acquired", "again", timeout=6)["token"] > second["token"]
