"""Leases that an advisory lock of the process's session backs: what the database shows, what ends with a session."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from dref_django.backends.postgres import PostgresBackend, advisory, locks
from dref_django.backends.postgres.session import Refused
from dref_django.backends.postgres.shared import Call
from dref_django.backends.postgres.statements import LEASES
from dref_django.exceptions import Unavailable
from dref_django.protocol import Acquire, Break, Inspect, LeaseInfo, Release, Renew, Reply, ScanLeases, Status
from tests.children import Child
from tests.postgres.conftest import Database, MakeBackend
from tests.processes import wait_until
from tests.proxy import TcpProxy

TTL = 30_000_000


def ask(backend: PostgresBackend, command: Acquire | Renew | Release | Break | Inspect | ScanLeases) -> Reply:
    return backend.execute([command])[0]


def take(backend: PostgresBackend, name: str, number: int = 1, *, ttl: int = TTL) -> Reply:
    return ask(backend, Acquire(name, f"{backend.node_id()}/{number}", ttl))


def owner(backend: PostgresBackend, number: int = 1) -> str:
    return f"{backend.node_id()}/{number}"


class Losses:
    """What the back end says of leases that ended by themselves."""

    def __init__(self, backend: PostgresBackend) -> None:
        self.leases: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        self.told = threading.Event()
        backend.on_loss = self._hear

    def _hear(self, leases: Sequence[tuple[str, str]], reason: str) -> None:
        self.leases += leases
        self.reasons.append(reason)
        self.told.set()


def key_of(backend: PostgresBackend, name: str) -> int:
    material = f"dref_lock\n{backend.params.key_prefix}\n{name}".encode()
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big", signed=True)


def sessions_with(database: Database, key: int) -> list[int]:
    """Process ids of the sessions that hold this advisory lock."""
    rows = database.sql(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND (classid::bigint << 32 | objid::bigint) = %s",
        key,
    )
    return [pid for (pid,) in rows]


def terminate(database: Database, backend: PostgresBackend, name: str) -> None:
    (pid,) = sessions_with(database, key_of(backend, name))
    assert database.sql("SELECT pg_terminate_backend(%s, 5000)", pid) == [(True,)]


class TestWhatTheDatabaseShows:
    @pytest.mark.parametrize("name", ["plain", "größe", "値段 🎉", "{a}/'b'", "x" * 200])
    def test_held_lease_holds_the_advisory_lock_on_its_key(
        self, backend: PostgresBackend, database: Database, name: str
    ) -> None:
        token = take(backend, name).token
        assert len(sessions_with(database, key_of(backend, name))) == 1
        ask(backend, Release(name, owner(backend), token))
        assert sessions_with(database, key_of(backend, name)) == []

    def test_key_is_the_same_in_sql(self, backend: PostgresBackend, database: Database) -> None:
        assert database.sql("SELECT dref_key('shop', 'lock:größe')") == [
            (int.from_bytes(advisory.key(b"shop", "lock:größe"), "big", signed=True),)
        ]

    def test_lease_that_is_not_granted_holds_nothing(self, make_backend: MakeBackend, database: Database) -> None:
        holder, other = make_backend(), make_backend()
        take(holder, "a")
        before = sessions_with(database, key_of(holder, "a"))
        assert ask(other, Acquire("a", owner(other), TTL, TTL)).status is Status.HELD
        assert sessions_with(database, key_of(holder, "a")) == before

    def test_one_session_serves_all_threads_and_loops(self, backend: PostgresBackend, database: Database) -> None:
        before = database.sessions()
        threads = [threading.Thread(target=take, args=(backend, f"n{number}", number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert database.sessions() == before + 1
        holders = {pid for number in range(16) for pid in sessions_with(database, key_of(backend, f"n{number}"))}
        assert len(holders) == 1

    def test_holding_a_lease_twice_in_one_process_is_refused(self, backend: PostgresBackend) -> None:
        take(backend, "a", 1)
        assert take(backend, "a", 2).status is Status.HELD

    def test_broken_and_expired_leases_leave_no_advisory_lock_behind(
        self, make_backend: MakeBackend, database: Database
    ) -> None:
        backend, other = make_backend(), make_backend()
        broken, expired = take(backend, "broken"), take(backend, "expired", ttl=1000)
        ask(other, Break("broken"))
        assert ask(backend, Renew("broken", owner(backend), broken.token, TTL)).status is Status.LOST
        wait_until(lambda: ask(other, Inspect("expired")).status is Status.NOT_FOUND, "the lease to run out", 5)
        assert not ask(backend, Release("expired", owner(backend), expired.token)).existed
        assert sessions_with(database, key_of(backend, "broken")) == []
        assert sessions_with(database, key_of(backend, "expired")) == []

    def test_expired_lease_changes_hands_within_the_process(self, backend: PostgresBackend, database: Database) -> None:
        first = take(backend, "a", 1, ttl=1000)
        wait_until(lambda: take(backend, "a", 2).status is Status.APPLIED, "the lease to run out", 5)
        assert not ask(backend, Release("a", owner(backend, 1), first.token)).existed
        assert len(sessions_with(database, key_of(backend, "a"))) == 1, "the second holder's is not given back"
        assert ask(backend, Release("a", owner(backend, 2))).existed
        assert sessions_with(database, key_of(backend, "a")) == []


class TestEndOfTheSession:
    def test_is_a_loss_at_once(self, make_backend: MakeBackend, database: Database) -> None:
        backend, other = make_backend(), make_backend()
        losses = Losses(backend)
        token = take(backend, "a").token
        take(other, "elsewhere")  # its session is there already
        terminate(database, backend, "a")
        assert losses.told.wait(1)
        assert losses.leases == [("a", owner(backend))]
        assert "administrator command" in losses.reasons[0]
        second = take(other, "a")
        assert second.status is Status.APPLIED
        assert second.token > token
        assert ask(backend, Renew("a", owner(backend), token, TTL)).status is Status.LOST
        assert not ask(backend, Release("a", owner(backend), token)).existed

    def test_renewal_on_another_session_is_refused_even_when_nobody_else_came(
        self, backend: PostgresBackend, database: Database
    ) -> None:
        losses = Losses(backend)
        token = take(backend, "a").token
        terminate(database, backend, "a")
        assert losses.told.wait(1)
        assert ask(backend, Renew("a", owner(backend), token, TTL)).status is Status.LOST
        assert take(backend, "a", 2).token > token

    def test_another_session_renews_nothing_of_a_live_one(self, make_backend: MakeBackend, database: Database) -> None:
        backend, other = make_backend(), make_backend()
        token = take(backend, "a").token
        assert ask(other, Renew("a", owner(backend), token, TTL)).status is Status.LOST
        assert ask(backend, Renew("a", owner(backend), token, TTL)).status is Status.APPLIED
        terminate(database, backend, "a")
        assert take(other, "a").status is Status.APPLIED

    def test_process_that_connects_again_does_not_wait_for_its_own_old_leases(
        self, through: TcpProxy, make_backend: MakeBackend
    ) -> None:
        """The server has seen nothing of the end of the old session."""
        backend = make_backend(timeout=1.0)
        token = take(backend, "a", 1).token
        through.blackhole(replies=False)
        backend.close()
        through.blackhole(requests=False, replies=False)
        assert take(backend, "a", 2).token > token

    def test_who_held_a_lease_has_heard_of_its_loss_before_it_is_granted_again(self, backend: PostgresBackend) -> None:
        happened: list[str] = []

        def hear(leases: Sequence[tuple[str, str]], reason: str) -> None:
            threading.Event().wait(0.3)  # time for a grant, if it were possible
            happened.append("told")

        backend.on_loss = hear
        take(backend, "a", 1)
        backend.close()
        assert take(backend, "a", 2).status is Status.APPLIED
        happened.append("granted")
        assert happened == ["told", "granted"]

    def test_dead_holder_is_not_shown(self, make_backend: MakeBackend, database: Database) -> None:
        backend, other = make_backend(), make_backend()
        losses = Losses(backend)
        take(backend, "a")
        take(backend, "b")
        ask(other, Acquire("b", owner(other), TTL, TTL))
        assert [row.name for row in ask(other, ScanLeases()).page] == ["a", "b"]
        terminate(database, backend, "a")
        assert losses.told.wait(1)
        assert ask(other, Inspect("a")).status is Status.NOT_FOUND
        awaited = ask(other, Inspect("b")).lease
        (row,) = ask(other, ScanLeases()).page
        assert isinstance(row, LeaseInfo)
        assert awaited is not None
        assert (awaited.owner, awaited.waiters) == (row.owner, row.waiters) == ("", (owner(other),))

    def test_backend_that_is_closed_gives_all_up(self, make_backend: MakeBackend) -> None:
        backend, other = make_backend(), make_backend()
        losses = Losses(backend)
        take(backend, "a")
        backend.close()
        assert losses.told.wait(5)
        wait_until(lambda: take(other, "a").status is Status.APPLIED, "the server to see the end", 5)

    def test_killed_process_holds_nothing_a_moment_later(self, backend: PostgresBackend) -> None:
        program = "held = lock('a', ttl=30).acquire()\nsay('holds')\nfor _ in orders(): pass"
        with Child(program, backend) as child:
            child.hears("holds")
            assert take(backend, "lock:a").status is Status.HELD
            child.kill()
            killed = time.monotonic()
            wait_until(lambda: take(backend, "lock:a").status is Status.APPLIED, "the dead process's lock", 5)
            assert time.monotonic() - killed < 2

    def test_server_ends_the_session_of_a_process_that_says_nothing(
        self, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(advisory, "IDLE_SLACK", 200)
        losses = Losses(backend)
        take(backend, "a", ttl=1_000_000)
        began = time.monotonic()
        assert losses.told.wait(10)
        assert time.monotonic() - began > 1
        assert "idle-session timeout" in losses.reasons[0]


class TestKeyThatSomebodyElseHas:
    """The lease is the truth; an advisory lock that somebody else has costs the proof of life and nothing more."""

    @pytest.fixture
    def stranger(self, database: Database) -> Iterator[psycopg.Connection]:
        with psycopg.connect(database.url, autocommit=True) as connection:
            yield connection

    @pytest.mark.parametrize("known", [False, True])
    def test_lease_whose_key_is_taken_is_a_lease_all_the_same(
        self, make_backend: MakeBackend, stranger: psycopg.Connection, known: bool
    ) -> None:
        backend, other = make_backend(), make_backend()
        if known:
            ask(backend, Release("a", owner(backend), take(backend, "a").token))
        stranger.execute("SELECT pg_advisory_lock(%s)", [key_of(backend, "a")])
        token = take(backend, "a").token
        assert take(other, "a").status is Status.HELD
        stranger.execute("SELECT pg_advisory_unlock(%s)", [key_of(backend, "a")])
        assert take(other, "a").status is Status.HELD, "nobody's session backs it, so none has ended"
        assert ask(backend, Release("a", owner(backend), token)).existed
        assert take(other, "a").status is Status.APPLIED

    def test_renewal_finds_the_key_free_again(
        self, make_backend: MakeBackend, stranger: psycopg.Connection, database: Database
    ) -> None:
        backend, other = make_backend(), make_backend()
        losses = Losses(backend)
        stranger.execute("SELECT pg_advisory_lock(%s)", [key_of(backend, "a")])
        token = take(backend, "a").token
        stranger.execute("SELECT pg_advisory_unlock(%s)", [key_of(backend, "a")])
        for _ in range(2):
            assert ask(backend, Renew("a", owner(backend), token, TTL)).status is Status.APPLIED
        terminate(database, backend, "a")
        assert losses.told.wait(1)
        assert take(other, "a").status is Status.APPLIED

    def test_broken_lease_is_had_at_once_though_its_holder_does_not_react(self, make_backend: MakeBackend) -> None:
        frozen, other = make_backend(), make_backend()
        token = take(frozen, "a").token
        assert ask(other, Break("a")).existed
        assert take(other, "a").token > token
        assert ask(frozen, Renew("a", owner(frozen), token, TTL)).status is Status.LOST
        assert ask(other, Inspect("a")).lease is not None

    def test_processes_with_lease_rows_and_with_sessions_exclude_each_other(
        self, make_backend: MakeBackend, database: Database
    ) -> None:
        session, row = make_backend(), make_backend(LOCKS="lease")
        losses = Losses(session)
        take(session, "a")
        take(row, "b")
        assert take(row, "a").status is Status.HELD
        assert take(session, "b").status is Status.HELD
        terminate(database, session, "a")
        assert losses.told.wait(1)
        assert take(row, "a").status is Status.APPLIED
        assert take(session, "b").status is Status.HELD


class TestFailures:
    @pytest.fixture
    def doom(self, database: Database) -> Iterator[str]:
        """Leases of this name cannot be committed: the statement fails after all that it does."""
        database.sql("CREATE FUNCTION doom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'doomed'; END $$")
        database.sql(
            "CREATE CONSTRAINT TRIGGER doom AFTER INSERT OR UPDATE ON dref_lease DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW WHEN (NEW.name = 'doomed') EXECUTE FUNCTION doom()"
        )
        yield "doomed"
        database.sql("DROP TRIGGER doom ON dref_lease")
        database.sql("DROP FUNCTION doom")

    def test_acquisition_that_fails_leaves_no_advisory_lock(
        self, backend: PostgresBackend, database: Database, doom: str
    ) -> None:
        for _ in range(2):
            with pytest.raises(Exception, match="doomed"):
                take(backend, doom)
        take(backend, "other")  # its reply comes after that of the clean-up
        assert sessions_with(database, key_of(backend, doom)) == []
        assert len(sessions_with(database, key_of(backend, "other"))) == 1

    def test_failure_while_others_are_held_is_cleaned_up_after_them(
        self, backend: PostgresBackend, database: Database, doom: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(advisory, "TICK", 0.05)
        token = take(backend, "other").token
        with pytest.raises(Exception, match="doomed"):
            take(backend, doom)
        assert len(sessions_with(database, key_of(backend, "other"))) == 1
        ask(backend, Release("other", owner(backend), token))
        wait_until(lambda: sessions_with(database, key_of(backend, doom)) == [], "the clean-up", 5)

    def test_row_that_is_locked_by_somebody_else_does_not_hold_up_the_session(
        self, make_backend: MakeBackend, database: Database
    ) -> None:
        backend = make_backend(timeout=1.0)
        token = take(backend, "a").token
        with psycopg.connect(database.url) as stranger:
            stranger.execute("SELECT FROM dref_lease WHERE name = 'a' FOR UPDATE")
            with pytest.raises(Unavailable, match="'a'"):
                ask(backend, Release("a", owner(backend), token))
            assert take(backend, "b").status is Status.APPLIED
        assert ask(backend, Release("a", owner(backend), token)).existed
        assert sessions_with(database, key_of(backend, "a")) == []

    @pytest.mark.parametrize("way", ["sync", "async"])
    def test_row_that_was_locked_for_a_while_is_asked_for_again(
        self, backend: PostgresBackend, database: Database, way: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusals: list[bool] = []
        may_ask_again = locks._may_ask_again

        def noted(refused: Refused, end: float) -> bool:
            refusals.append(may_ask_again(refused, end))
            return refusals[-1]

        monkeypatch.setattr(locks, "_may_ask_again", noted)
        ask(backend, Release("a", owner(backend), take(backend, "a").token))
        acquire = Acquire("a", owner(backend), TTL)
        with psycopg.connect(database.url) as stranger, ThreadPoolExecutor(1) as pool:
            stranger.execute("SELECT FROM dref_lease WHERE name = 'a' FOR UPDATE")
            if way == "sync":
                taken = pool.submit(ask, backend, acquire)
            else:
                taken = pool.submit(lambda: asyncio.run(backend.aexecute([acquire]))[0])
            wait_until(lambda: len(refusals) > 1, "two refusals", 10)
            assert take(backend, "b").status is Status.APPLIED
            stranger.rollback()
            assert taken.result(10).status is Status.APPLIED
        assert refusals[:2] == [True, True]


class TestMany:
    def test_a_thousand_leases_are_renewed_in_one_statement(
        self, backend: PostgresBackend, count_statements: Callable[[], int]
    ) -> None:
        names = [f"n{number}" for number in range(1000)]
        tokens = [reply.token for reply in backend.execute([Acquire(name, owner(backend), TTL) for name in names])]
        ask(backend, Break("n7"))
        renewals = [Renew(name, owner(backend), token, TTL) for name, token in zip(names, tokens, strict=True)]
        before = count_statements()
        replies = backend.execute(renewals)
        assert count_statements() - before == 1
        assert {reply.status for reply in replies[:7] + replies[8:]} == {Status.APPLIED}
        assert [reply.token for reply in replies] == tokens
        assert replies[7].status is Status.LOST

    @pytest.fixture
    def count_statements(self, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
        """How many statements of renewal there were."""
        counted: list[object] = []
        say = advisory.LockSession.say

        def counting(session: advisory.LockSession, call: Call) -> None:
            if call.statement in (advisory.RENEW, LEASES):
                counted.append(call)
            say(session, call)

        monkeypatch.setattr(advisory.LockSession, "say", counting)
        return lambda: len(counted)
