"""Presence: who is in a room over all processes, what a death leaves behind, and what it costs to sit still."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dref_django import InvalidName, InvalidValue, Presence, Unavailable, ValueTooLarge
from dref_django.attendance import GROUP, attendance_of, lease_of
from dref_django.backends import Backend, Params, get_backend
from dref_django.backends.memory import MemoryBackend
from dref_django.inspection import break_lock
from dref_django.presence import PresenceChange
from dref_django.protocol import Command, Inspect, Renew, Reply, Scan, ScanLeases, Write
from dref_django.testing import ManualClock, isolate
from tests.callers import Caller
from tests.children import PATIENCE, Child
from tests.kinds import installed, make
from tests.processes import wait_until

TTL = 1.0


@pytest.fixture
def redis_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with installed(make("redis", request)) as backend:
        yield backend


@pytest.fixture
def postgres_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with installed(make("postgres", request)) as backend:
        yield backend


def until(room: Presence, members: Sequence[str]) -> None:
    wait_until(lambda: list(room.list()) == sorted(members), f"{members} in the room", PATIENCE)


def entries(backend: Backend) -> int:
    (reply,) = backend.execute([Scan(GROUP + "\x1f")])
    return len(reply.page)


class TestMembers:
    def test_everybody_sees_who_has_joined_and_not_left(self, any_backend: Backend, peer: str, call: Caller) -> None:
        here: Any = Presence("room")
        there: Any = Presence("room", using=peer)
        other: Any = Presence("other")
        assert call(here, "list") == {}
        call(here, "join", "bob")
        call(there, "join", "alice", {"name": "Alice"})
        for room in (here, there):
            assert call(room, "list") == {"alice": {"name": "Alice"}, "bob": {}}
            assert call(room, "count") == 2
        assert call(other, "list") == {}
        assert call(here, "leave", "bob") is True
        assert call(there, "list") == {"alice": {"name": "Alice"}}
        assert call(there, "leave", "alice") is True
        assert call(here, "leave", "alice") is False
        assert call(here, "list") == {}
        assert entries(any_backend) == 0

    def test_who_joins_twice_stays_until_the_second_leave(self, any_backend: Backend, peer: str) -> None:
        here, there = Presence("room"), Presence("room", using=peer)
        here.join("alice", {"tab": 1})
        here.join("alice", {"tab": 2})
        there.join("alice", {"tab": 2})
        assert here.list() == {"alice": {"tab": 2}}
        for room in (here, there):
            room.leave("alice")
            assert room.count() == 1
        here.leave("alice")
        assert there.count() == 0

    def test_many_members_join_in_a_few_writes(self, any_backend: Backend) -> None:
        room = Presence("room")
        writes = 0
        aexecute = any_backend.aexecute

        async def counted(commands: Sequence[Command], **options: Any) -> list[Reply]:
            nonlocal writes
            writes += any(isinstance(command, Write) for command in commands)
            return await aexecute(commands, **options)

        async def join_all() -> None:
            await asyncio.gather(*(room.ajoin(f"member-{number:04}") for number in range(1000)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(any_backend, "aexecute", counted)
            asyncio.run(join_all())
        assert room.count() == 1000
        assert writes < 500

    def test_many_rooms_of_one_process(self, any_backend: Backend) -> None:
        rooms = [Presence(f"room-{number}") for number in range(250)]

        async def join_all() -> None:
            await asyncio.gather(*(room.ajoin("alice") for room in rooms))
            assert [await room.acount() for room in rooms[::50]] == [1] * 5
            await asyncio.gather(*(room.aleave("alice") for room in rooms))

        asyncio.run(join_all())
        assert entries(any_backend) == 0

    def test_mistakes_are_refused_at_the_call(self) -> None:
        with isolate():
            room = Presence("room")
            with pytest.raises(InvalidName):
                room.join("")
            with pytest.raises(InvalidValue, match="info is a dict that JSON can hold"):
                room.join("alice", {"at": object()})
            with pytest.raises(InvalidName):
                Presence("")
            with pytest.raises(ValueError, match="ttl"):
                Presence("room", ttl=0.5)
            assert room.list() == {}

    def test_room_that_outgrows_a_value_refuses_the_next_member_and_keeps_the_others(self) -> None:
        backend = MemoryBackend(Params(key_prefix="test-presence-size", max_value_size=200))
        with installed(backend):
            room = Presence("room")
            room.join("alice", {"text": "a" * 100})
            with pytest.raises(ValueTooLarge, match="room"):
                room.join("bob", {"text": "b" * 100})
            assert list(room.list()) == ["alice"]
            room.leave("alice")
            room.join("bob", {"text": "b" * 100})


class TestChanges:
    def test_begins_with_who_is_there_and_tells_each_change(self, any_backend: Backend, peer: str) -> None:
        here, there = Presence("room"), Presence("room", using=peer)
        here.join("alice")
        with there.changes(timeout=PATIENCE) as changes:
            assert next(changes) == PresenceChange({"alice": {}}, frozenset({"alice"}), frozenset())
            there.join("bob", {"x": 1})
            assert next(changes) == PresenceChange({"alice": {}, "bob": {"x": 1}}, frozenset({"bob"}), frozenset())
            here.leave("alice")
            assert next(changes) == PresenceChange({"bob": {"x": 1}}, frozenset(), frozenset({"alice"}))

    async def test_is_an_asynchronous_iterator_too(self, any_backend: Backend) -> None:
        room = Presence("room")
        async with room.changes(timeout=PATIENCE) as changes:
            assert (await anext(changes)).members == {}
            await room.ajoin("alice")
            assert (await anext(changes)).joined == {"alice"}

    def test_ends_after_the_timeout_and_when_closed(self, any_backend: Backend) -> None:
        changes = Presence("room").changes(timeout=0.05)
        assert [change.members for change in changes] == [{}]
        changes.close()
        assert list(changes) == []


class TestDeath:
    def test_killed_process_takes_its_thousand_members_along_within_the_lease(self, served_backend: Backend) -> None:
        room = Presence("room", ttl=TTL)
        room.join("survivor")
        program = (
            "import asyncio\n"
            "async def main():\n"
            f"    room = Presence('room', ttl={TTL})\n"
            "    await asyncio.gather(*(room.ajoin(f'member-{number}') for number in range(1000)))\n"
            "asyncio.run(main())\n"
            "say('joined')\n"
            "next(orders())\n"
        )
        with Child(program, served_backend) as child, room.changes(timeout=PATIENCE) as changes:
            child.hears("joined")
            while len(next(changes).members) < 1001:
                pass
            assert room.count() == 1001
            child.kill()
            change = next(changes)
            assert (list(change.members), len(change.left)) == (["survivor"], 1000)
        assert list(room.list()) == ["survivor"]
        assert entries(served_backend) == 1

    def test_what_died_unseen_is_swept_by_the_next_process_that_takes_part(self, redis_backend: Backend) -> None:
        program = f"Presence('deserted', ttl={TTL}).join('alice')\nsay('joined')\nnext(orders())\n"
        with Child(program, redis_backend) as child:
            child.hears("joined")
            child.kill()
        until(Presence("deserted"), [])
        assert entries(redis_backend) == 1
        Presence("room").join("bob")
        assert entries(redis_backend) == 1  # bob's
        assert Presence("room").count() == 1

    def test_process_that_ends_by_itself_is_gone_at_once(self, postgres_backend: Backend) -> None:
        room = Presence("room", ttl=30)
        program = "Presence('room', ttl=30).join('alice')\nsay('joined')\nnext(orders())\n"
        with Child(program, postgres_backend) as child, room.changes(timeout=PATIENCE) as changes:
            child.hears("joined")
            while list(next(changes).members) != ["alice"]:
                pass
            child.tell("end")
            assert child.ends() == 0
            assert next(changes).left == {"alice"}

    def test_frozen_process_says_everything_anew_when_it_goes_on(self, redis_backend: Backend) -> None:
        room = Presence("room", ttl=TTL)
        program = f"Presence('room', ttl={TTL}).join('alice')\nsay('joined')\nnext(orders())\n"
        with Child(program, redis_backend) as child, room.changes(timeout=PATIENCE) as changes:
            child.hears("joined")
            while list(next(changes).members) != ["alice"]:
                pass
            child.freeze()
            assert next(changes).left == {"alice"}
            child.thaw()
            assert next(changes).joined == {"alice"}

    def test_lost_lease_is_replaced_and_nobody_is_forgotten(self, any_backend: Backend) -> None:
        room = Presence("room", ttl=TTL)
        room.join("alice")
        mine = attendance_of(any_backend, room.ttl)
        seat = mine._seat
        assert break_lock(seat, kind="presence")
        until(room, ["alice"])
        room.join("bob")
        until(room, ["alice", "bob"])
        (reply,) = any_backend.execute([Inspect(lease_of(seat))])
        assert reply.lease is None

    def test_forked_child_begins_without_members(self, redis_backend: Backend) -> None:
        program = (
            "import os\n"
            "room = Presence('room')\n"
            "room.join('parent')\n"
            "if os.fork() == 0:\n"
            "    left = room.leave('parent')\n"
            "    room.join('child')\n"
            "    say('child', left, list(room.list()))\n"
            "    os._exit(0)\n"
            "os.wait()\n"
            "room.join('later')\n"
            "say('parent', sorted({'parent', 'later'} - set(room.list())))\n"
        )
        with Child(program, redis_backend) as child:
            assert child.hears("child") == [False, ["child", "parent"]]
            assert child.hears("parent") == [[]]


class TestCost:
    @pytest.mark.parametrize("members", [1, 1000])
    def test_members_that_sit_still_cost_one_renewal_for_all(self, members: int) -> None:
        clock = ManualClock()
        sent: list[Command] = []
        with isolate(clock=clock), pytest.MonkeyPatch.context() as patch:
            backend, room = get_backend(), Presence("room")

            async def join_all() -> None:
                await asyncio.gather(*(room.ajoin(f"member-{number}") for number in range(members)))

            asyncio.run(join_all())
            execute, aexecute = backend.execute, backend.aexecute

            def spied(commands: Sequence[Command], **options: Any) -> list[Reply]:
                sent.extend(commands)
                return execute(commands, **options)

            async def aspied(commands: Sequence[Command], **options: Any) -> list[Reply]:
                sent.extend(commands)
                return await aexecute(commands, **options)

            patch.setattr(backend, "execute", spied)
            patch.setattr(backend, "aexecute", aspied)
            for _ in range(30):
                clock.advance(1)
            renewals = [command for command in sent if isinstance(command, Renew)]
            assert len(renewals) == len(sent) <= 30
            assert renewals
            assert room.count() == members


class TestBackEndAway:
    def test_join_that_cannot_be_written_has_not_happened_and_leaving_is_made_up_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dref_django.attendance.RETRY", 0.01)
        with isolate():
            backend, room = get_backend(), Presence("room")
            room.join("alice")
            aexecute = backend.aexecute

            async def away(commands: Sequence[Command], **options: Any) -> list[Reply]:
                raise Unavailable("the server is away")

            with monkeypatch.context() as patch:
                patch.setattr(backend, "aexecute", away)
                with pytest.raises(Unavailable):
                    room.join("bob")
                with pytest.raises(Unavailable):
                    room.leave("alice")
            assert backend.aexecute == aexecute
            until(room, [])

    def test_settings_that_change_end_it_here(self, caplog: pytest.LogCaptureFixture) -> None:
        with isolate():
            backend = get_backend()
            Presence("room").join("alice")
        (reply,) = backend.execute([ScanLeases("presence:")])
        assert not reply.page
        with isolate():
            assert Presence("room").list() == {}
        assert "presence could not be written" not in caplog.text


def test_page_of_the_docs_runs() -> None:
    path = Path(__file__).parent.parent / "docs" / "presence.md"
    program = path.read_text().partition("```python\n")[2].partition("```")[0]
    with isolate():
        exec(compile(program, os.fspath(path), "exec"), {})  # noqa: S102
