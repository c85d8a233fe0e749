"""What a process held that died without a word: free at once where its death is certain, kept where it is not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dref_django.backends.raft import lock as lock_module
from dref_django.backends.raft import peers
from dref_django.backends.raft.lock import LOCK_FILE, HostLock
from dref_django.backends.raft.peers import Peer
from tests.lock_faults.holders import Holder
from tests.raft.clusters import Cluster

TTL = 600.0
"""Seconds: a test that waits for the end of a lease fails."""


@pytest.fixture
def start(stack: ExitStack) -> Callable[[Cluster, int], Holder]:
    """A process at a node."""

    def start(cluster: Cluster, node: int = 0) -> Holder:
        return stack.enter_context(closing(Holder(cluster.environment(node))))

    return start


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def at_home(tmp_path: Path, start: Callable[[Cluster, int], Holder]) -> Iterator[Callable[[], Holder]]:
    """Processes of one machine, whose node is the whole cluster; the first to take a lock hosts it."""
    with Cluster(tmp_path, size=0) as cluster:
        yield lambda: start(cluster, 0)


class TestLocksOfTheDead:
    def test_client_is_killed(self, at_home: Callable[[], Holder]) -> None:
        host, holder, waiter = at_home(), at_home(), at_home()
        host.acquire("h", "other", ttl=TTL)
        first = holder.acquire("c", "a", ttl=TTL)
        waiter.wait_for("w", "a", ttl=TTL)
        holder.kill()
        assert waiter.expect("acquired", "w")["token"] > first["token"]
        host.tell("check", "h")
        assert host.expect("checked", "h")["held"], "what others hold stays theirs"

    def test_host_is_killed_and_a_client_goes_on(self, at_home: Callable[[], Holder]) -> None:
        host = at_home()
        first = host.acquire("h", "a", ttl=TTL)
        holder, waiter = at_home(), at_home()
        holder.acquire("c", "b", ttl=TTL)
        waiter.wait_for("w", "a", ttl=TTL)
        host.kill()
        assert waiter.expect("acquired", "w")["token"] > first["token"]
        holder.tell("release", "c")
        holder.expect("released", "c")  # it lost its host, and nothing else

    def test_host_is_killed_and_started_again(self, at_home: Callable[[], Holder]) -> None:
        host = at_home()
        first = host.acquire("h", "a", ttl=TTL)
        host.kill()
        assert at_home().acquire("again", "a", ttl=TTL)["token"] > first["token"]

    def test_host_that_was_a_client_before_is_killed(self, at_home: Callable[[], Holder]) -> None:
        host = at_home()
        host.acquire("h", "b", ttl=TTL)
        second = at_home()
        first = second.acquire("s", "a", ttl=TTL)
        host.kill()
        second.acquire("again", "b", ttl=TTL)
        second.kill()
        assert at_home().acquire("last", "a", ttl=TTL)["token"] > first["token"]

    def test_dead_client_of_a_follower(self, tmp_path: Path, start: Callable[[Cluster, int], Holder]) -> None:
        with Cluster(tmp_path) as cluster:
            cluster.start_all()
            follower = (cluster.leader() + 1) % 3
            holder, waiter = start(cluster, follower), start(cluster, cluster.leader())
            first = holder.acquire("c", "a", ttl=TTL)
            waiter.wait_for("w", "a", ttl=TTL)
            holder.kill()
            assert waiter.expect("acquired", "w")["token"] > first["token"]


class TestPeer:
    @pytest.fixture
    def visitor(self, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
        """A process, and this end of its connection."""
        path = tmp_path / "door"
        source = f"import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); sys.stdin.read()"
        with closing(socket.socket(socket.AF_UNIX)) as door:
            door.bind(str(path))
            door.listen()
            with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE) as process:
                connected, _ = door.accept()
                with closing(connected):
                    yield process, connected

    async def test_killed_process_has_ended_and_another_has_not(
        self, visitor: tuple[subprocess.Popen[bytes], socket.socket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process, connected = visitor
        with closing(Peer.behind(connected)) as peer:
            monkeypatch.setattr(peers, "DYING", 0.01)
            assert not await peer.has_ended()
            monkeypatch.setattr(peers, "DYING", 30)
            process.kill()
            assert await peer.has_ended()

    async def test_of_the_network_nothing_is_known(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as client:
            for connected in (client, None):
                assert not await asyncio.wait_for(Peer.behind(connected).has_ended(), peers.DYING / 2)


class TestNotes:
    def take(self, directory: Path) -> HostLock:
        lock = HostLock.take(directory)
        assert lock is not None
        return lock

    def die(self, directory: Path, *sessions: int) -> bytes:
        """What a holder's file says that noted these sessions, and died."""
        with self.take(directory) as lock:
            for session in sessions:
                lock.note(session)
            note = (directory / LOCK_FILE).read_bytes()
        (directory / LOCK_FILE).write_bytes(note)
        return note

    def left(self, directory: Path) -> set[int]:
        with self.take(directory) as lock:
            return set(lock.left)

    def test_who_dies_leaves_its_session_and_who_goes_leaves_none(self, tmp_path: Path) -> None:
        self.die(tmp_path, 123, 456)
        assert self.left(tmp_path) == {456}
        assert self.left(tmp_path) == {456}, "nobody has closed it yet"
        with self.take(tmp_path) as lock:
            lock.note(789)
            lock.settle(456)
        assert self.left(tmp_path) == set()

    def test_shorter_note_over_a_longer_one(self, tmp_path: Path) -> None:
        longer, shorter = self.die(tmp_path / "one", 123456789), self.die(tmp_path / "other", 1)
        (tmp_path / "one" / LOCK_FILE).write_bytes(shorter + longer[len(shorter) :])  # died before it cut the rest off
        assert self.left(tmp_path / "one") == {1}

    @pytest.mark.parametrize(
        "spoil", [lambda note: note[:-1], lambda note: note.replace(b" 456 ", b" 45 "), lambda _: b"\xff\n"]
    )
    def test_damaged_note_says_nothing(self, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
        note = self.die(tmp_path, 456)
        (tmp_path / LOCK_FILE).write_bytes(spoil(note))
        assert self.left(tmp_path) == set()

    def test_what_cannot_be_noted_is_left_to_its_lease(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def is_full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", is_full)
        assert self.die(tmp_path, 456) == b""

    def test_note_of_another_boot_or_machine_is_not_believed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.die(tmp_path / "data", 456)
        other = tmp_path / "boot_id"
        other.write_text("another")
        monkeypatch.setattr(lock_module, "BOOT_ID", other)
        assert self.left(tmp_path / "data") == set()
        monkeypatch.setattr(lock_module, "BOOT_ID", tmp_path / "missing")
        assert self.die(tmp_path / "data", 456) == b"", "a system that does not tell"
