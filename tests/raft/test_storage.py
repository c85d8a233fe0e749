"""The node's file: what was saved is there after any crash, and what is not as it was saved is refused."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dref_django.backends.raft import rows, storage
from dref_django.backends.raft.core.messages import Entry, EntryKind, HardState, Members, Snapshot
from dref_django.backends.raft.storage import DiskFull, Storage, StorageError
from tests.children import ROOT
from tests.servers import janitor

State = tuple[HardState, tuple[Entry, ...], Snapshot | None]
PATIENCE = 20.0
FRAME = 24 + 4096


@pytest.fixture(autouse=True)
def _small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAL_PAGES", 60)
    monkeypatch.setattr(storage, "WAL_ROOM", 60 * FRAME)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raft.db"


@pytest.fixture
def store(path: Path) -> Iterator[Storage]:
    with closing(Storage.open(path, "shop")) as store:
        yield store


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data or b"entry %d" % index)


def log(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def snapshot(index: int, term: int = 1, data: bytes = b"state") -> Snapshot:
    return Snapshot(index, term, Members(frozenset({"a", "b"}), frozenset({"c"})), data)


def state(store: Storage) -> State:
    return store.hard_state, tuple(store.entries()), store.snapshot()


def reopened(path: Path) -> State:
    with closing(Storage.open(path, "shop")) as store:
        return state(store)


def copy(store: Storage, to: Path) -> Path:
    """The files as a crash at this moment leaves them."""
    to.mkdir(parents=True)
    for name in (store.path.name, store.path.name + "-wal"):
        shutil.copy(store.path.with_name(name), to / name)
    return to / store.path.name


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def descriptors_of(path: Path) -> list[Path]:
    """Of this process."""
    return [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(path)]


def end_of_log(store: Storage) -> int:
    """Behind the last frame whose salts are those in the header; then come zeros, or frames of earlier rounds."""
    content = wal_of(store.path).read_bytes()
    end = 32
    while content[end + 8 : end + 16] == content[16:24]:
        end += FRAME
    return end


def go_round(store: Storage) -> None:
    """Begins the write-ahead log at its start again, over a round of twenty transactions."""
    for _ in range(20):
        store.note("filling", b"x" * 3000)
    storage._checkpoint(store._db())


class TestSaving:
    def test_new_file_is_empty_and_has_a_random_node_id(self, path: Path, tmp_path: Path) -> None:
        with closing(Storage.open(path, "shop")) as store, closing(Storage.open(tmp_path / "b.db", "shop")) as other:
            assert state(store) == (HardState(), (), None)
            assert store.node_id
            assert store.node_id != other.node_id

    def test_node_id_is_kept(self, path: Path) -> None:
        Storage.open(path, "shop", "chosen").close()
        with closing(Storage.open(path, "shop")) as store:
            assert store.node_id == "chosen"
            assert store.cluster == "shop"

    def test_everything_is_there_again(self, store: Storage, path: Path) -> None:
        store.save(HardState(3, "b", 1), None, log(1, 4, 3))
        store.save(None, None, [Entry(5, 3, EntryKind.MEMBERS, b"m"), Entry(6, 4, EntryKind.NOOP, b"")])
        before = state(store)
        assert before[0] == HardState(3, "b", 1)
        assert [each.index for each in before[1]] == [1, 2, 3, 4, 5, 6]
        store.close()
        assert reopened(path) == before

    def test_kinds_come_back_as_kinds(self, store: Storage, path: Path) -> None:
        store.save(None, None, [Entry(1, 1, EntryKind.MEMBERS, b"")])
        store.close()
        assert reopened(path)[1][0].kind is EntryKind.MEMBERS

    def test_truncated_entries_are_replaced(self, store: Storage, path: Path) -> None:
        store.save(None, None, log(1, 5))
        store.save(None, 3, log(3, 4, term=2))
        assert state(store)[1] == (*log(1, 2), *log(3, 4, term=2))
        store.close()
        assert reopened(path)[1] == (*log(1, 2), *log(3, 4, term=2))

    @pytest.mark.parametrize("entries", [log(3, 3), log(2, 3), [entry(1), entry(3)]])
    def test_hole_or_overlap_is_a_mistake_and_changes_nothing(self, store: Storage, entries: list[Entry]) -> None:
        store.save(HardState(1), None, log(1, 1) if entries[0].index != 1 else [])
        before = state(store)
        if entries[0].index == 2:
            entries = log(1, 2)
        with pytest.raises(ValueError, match="do not follow"):
            store.save(HardState(2), None, entries)
        assert state(store) == before

    def test_notes_are_kept(self, store: Storage, path: Path) -> None:
        assert store.noted("addresses") is None
        store.note("addresses", b"one")
        store.note("addresses", b"two")
        store.close()
        with closing(Storage.open(path, "shop")) as again:
            assert again.noted("addresses") == b"two"

    def test_each_commit_is_synced(self, store: Storage) -> None:
        """2: FULL. In WAL mode that is one fsync a commit; NORMAL (1) would be none."""
        assert store._db().execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._db().execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_is_the_owners_alone(self, store: Storage, path: Path) -> None:
        assert [file.stat().st_mode & 0o077 for file in (path, wal_of(path), path.parent)] == [0, 0, 0]

    def test_write_ahead_log_is_written_over_and_does_not_grow(self, store: Storage, path: Path) -> None:
        sizes = {wal_of(path).stat().st_size}
        for index in range(1, 75):
            store.save(HardState(1, "a", index - 1), None, [entry(index)])
            sizes.add(wal_of(path).stat().st_size)
        assert max(sizes) - min(sizes) < 10 * FRAME
        assert end_of_log(store) < max(sizes) // 2  # it went round

    def test_closed_file_is_one_file(self, store: Storage, path: Path) -> None:
        store.save(HardState(1))
        store.close()
        assert [each.name for each in path.parent.iterdir()] == ["raft.db"]
        with pytest.raises(StorageError, match="closed"):
            store.save(HardState(2))


class TestSnapshots:
    def test_entries_after_a_matching_snapshot_stay(self, store: Storage, path: Path) -> None:
        store.save(HardState(1, "a", 4), None, log(1, 9))
        store.save(None, None, (), snapshot(4))
        store.close()
        assert reopened(path) == (HardState(1, "a", 4), tuple(log(5, 9)), snapshot(4))

    def test_log_that_contradicts_a_snapshot_goes(self, store: Storage, path: Path) -> None:
        store.save(None, None, log(1, 9))
        store.save(HardState(2, "", 4), None, (), snapshot(4, term=2))
        store.save(None, None, log(5, 6, term=2))
        store.close()
        assert reopened(path)[1:] == (tuple(log(5, 6, term=2)), snapshot(4, term=2))

    def test_log_that_ends_before_a_snapshot_goes(self, store: Storage, path: Path) -> None:
        store.save(None, None, log(1, 3))
        store.save(None, 11, log(11, 12, term=2), snapshot(10, term=2))
        store.close()
        assert reopened(path)[1:] == (tuple(log(11, 12, term=2)), snapshot(10, term=2))

    def test_compaction_keeps_some_entries_for_slow_followers(self, store: Storage, path: Path) -> None:
        store.save(None, None, log(1, 9))
        store.compact(snapshot(6), keep=2)
        assert state(store)[1] == tuple(log(5, 9))
        store.close()
        assert reopened(path)[1:] == (tuple(log(5, 9)), snapshot(6))

    def test_second_snapshot_replaces_the_first(self, store: Storage, path: Path) -> None:
        store.save(None, None, log(1, 9))
        store.compact(snapshot(3))
        store.compact(snapshot(6, data=b"newer"))
        store.close()
        assert reopened(path)[1:] == (tuple(log(7, 9)), snapshot(6, data=b"newer"))

    def test_older_snapshot_is_a_mistake(self, store: Storage) -> None:
        store.save(None, None, log(1, 9))
        store.compact(snapshot(6))
        with pytest.raises(ValueError, match="older"):
            store.compact(snapshot(5))
        assert state(store)[1:] == (tuple(log(7, 9)), snapshot(6))

    def test_what_a_snapshot_covers_cannot_be_truncated(self, store: Storage) -> None:
        store.save(None, None, log(1, 9))
        store.compact(snapshot(6), keep=6)
        with pytest.raises(ValueError, match="part of the snapshot"):
            store.save(None, 6)


WRITER = """
import random, sys
from dref_django.backends.raft import storage
from dref_django.backends.raft.core.messages import Entry, EntryKind, HardState, Members, Snapshot
storage.WAL_PAGES = 8
store, dice = storage.Storage.open(sys.argv[1], "shop"), random.Random(int(sys.argv[2]))
index = store.last_index
while True:
    entries = [Entry(index + n, 1, EntryKind.COMMAND, b"%d" % (index + n)) for n in range(1, dice.randint(2, 6))]
    store.save(HardState(1, "a", index), None, entries)
    index = entries[-1].index
    if dice.random() < 0.1:
        store.compact(Snapshot(index - 2, 1, Members(), b"s" * 20_000), 10)
    print(index, flush=True)
"""


class TestCrashes:
    def test_killed_writer_loses_nothing_that_it_was_told_is_saved(self, path: Path) -> None:
        dice = random.Random(7)
        acknowledged = 0
        for seed in range(3):
            command = [sys.executable, "-c", WRITER, str(path), str(seed)]
            writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            janitor().watch_process(writer.pid)
            assert writer.stdout is not None
            lines = iter(writer.stdout)
            for _ in range(dice.randint(20, 100)):
                acknowledged = int(next(lines))
            os.kill(writer.pid, signal.SIGKILL)
            for line in lines:  # written before it died
                acknowledged = int(line) if line.endswith("\n") else acknowledged
            writer.stdout.close()
            writer.wait(PATIENCE)
            janitor().forget_process(writer.pid)
            with closing(Storage.open(path, "shop")) as store:
                assert store.last_index >= acknowledged
                assert store.hard_state.commit <= store.last_index
                assert all(each.data == b"%d" % each.index for each in store.entries())

    @pytest.mark.parametrize("rounds", [0, 1, 2])
    def test_torn_write_ahead_log_gives_a_state_that_once_was(
        self, store: Storage, tmp_path: Path, rounds: int
    ) -> None:
        """The header lies in one sector, and is whole: the new one or, with nothing behind it, that of before."""
        for _ in range(rounds):
            go_round(store)
        before = wal_of(store.path).read_bytes()
        states, ends = [state(store)], [0]
        for index in range(1, 6):
            store.save(HardState(index, "a", index - 1), None, log(index, index, index))
            states.append(state(store))
            ends.append(end_of_log(store))
        whole = wal_of(store.path).read_bytes()
        dice = random.Random(1)
        for number, length in enumerate([0, 32, 33, *ends, *(dice.randrange(32, ends[-1]) for _ in range(25))]):
            torn = copy(store, tmp_path / str(number))
            wal_of(torn).write_bytes(whole[:length] + before[length:])
            survived = sum(1 for end in ends if end <= length) - 1
            assert reopened(torn) == states[survived], length

    def test_log_that_was_cut_off_gives_a_state_that_once_was(self, store: Storage, tmp_path: Path) -> None:
        store.save(HardState(1), None, log(1, 1))
        states, middle = [state(store)], end_of_log(store)
        store.save(HardState(2), None, log(2, 2))
        states.append(state(store))
        for number, length in enumerate([middle, middle + 1, end_of_log(store) - 1, end_of_log(store)]):
            torn = copy(store, tmp_path / str(number))
            os.truncate(wal_of(torn), length)
            assert reopened(torn) == states[length == end_of_log(store)], length

    def test_garbage_at_the_end_is_a_torn_write(self, store: Storage, tmp_path: Path) -> None:
        store.save(HardState(1), None, log(1, 5))
        torn = copy(store, tmp_path / "torn")
        with wal_of(torn).open("r+b") as file:
            file.seek(end_of_log(store))
            file.write(random.Random(3).randbytes(10_000))
        assert reopened(torn) == state(store)

    def test_node_goes_on_after_a_torn_write(self, store: Storage, tmp_path: Path) -> None:
        for index in range(1, 4):
            store.save(HardState(1), None, log(index, index))
        torn = copy(store, tmp_path / "torn")
        os.truncate(wal_of(torn), end_of_log(store) - 1)
        with closing(Storage.open(torn, "shop")) as again:
            again.save(HardState(2), None, log(3, 4, term=2))
        assert reopened(torn) == (HardState(2), (*log(1, 2), *log(3, 4, term=2)), None)


class TestDamage:
    @pytest.mark.parametrize("rounds", [0, 1])
    def test_flipped_bits_in_the_write_ahead_log_are_found(self, store: Storage, tmp_path: Path, rounds: int) -> None:
        for _ in range(rounds):
            go_round(store)
        states = [state(store)]
        ends = [0]
        for index in range(1, 7):
            store.save(HardState(index, "a", index - 1), None, log(index, index, index))
            states.append(state(store))
            ends.append(end_of_log(store))
        before_last = ends[-2]
        dice = random.Random(5)
        frame_headers = [32 + 4120 * number + field for number in range(4) for field in range(0, 24, 2)]
        refused = 0
        for number, place in enumerate(
            [*range(0, 32, 2), *frame_headers, *(dice.randrange(ends[-1]) for _ in range(40))]
        ):
            damaged = copy(store, tmp_path / str(number))
            flip(wal_of(damaged), place, dice.randrange(8))
            try:
                found = reopened(damaged)
            except StorageError:
                refused += 1
            else:
                # Damage within the last transaction cannot be told from a torn write of it.
                assert found == states[-2] if place >= before_last else states[-1], place
        assert refused > 60

    def test_commit_mark_that_was_wiped_out_is_found(self, store: Storage, tmp_path: Path) -> None:
        for index in range(1, 4):
            store.save(HardState(1), None, log(index, index))
        damaged = copy(store, tmp_path / "damaged")
        content = bytearray(wal_of(damaged).read_bytes())
        marks = [at + 4 for at in range(32, len(content), 24 + 4096) if any(content[at + 4 : at + 8])]
        content[marks[-2] : marks[-2] + 4] = bytes(4)
        wal_of(damaged).write_bytes(content)
        with pytest.raises(StorageError, match=r"write-ahead log .* is damaged"):
            Storage.open(damaged, "shop")

    def test_flipped_bits_in_the_database_are_found(self, store: Storage, tmp_path: Path) -> None:
        store.save(HardState(2, "a", 3), None, [entry(index, data=b"x" * 150) for index in range(1, 60)])
        store.compact(snapshot(20, data=b"y" * 9000), keep=5)
        store.note("addresses", b"z" * 100)
        before = state(store)
        store.close()
        dice = random.Random(11)
        size = store.path.stat().st_size
        refused = 0
        for _ in range(80):
            damaged = tmp_path / "damaged.db"
            shutil.copy(store.path, damaged)
            flip(damaged, dice.randrange(size), dice.randrange(8))
            try:
                found = reopened(damaged)
            except StorageError:
                refused += 1
            else:
                assert found == before
            wal_of(damaged).unlink(missing_ok=True)
        assert refused > 25

    def test_what_is_refused_is_not_kept_open(self, store: Storage, tmp_path: Path) -> None:
        store.save(HardState(2, "a", 3), None, log(1, 50))
        store.close()
        refused = 0
        for place in range(100):  # the header: what is in the way of the first settings, too
            damaged = tmp_path / "damaged.db"
            shutil.copy(store.path, damaged)
            flip(damaged, place, 6)
            try:
                Storage.open(damaged, "shop").close()
            except StorageError:
                refused += 1
                assert not descriptors_of(damaged), place
            wal_of(damaged).unlink(missing_ok=True)
        assert refused > 20

    @pytest.mark.parametrize("length", [0, 50, 4096, -1])
    def test_cut_off_database_is_refused(self, store: Storage, length: int) -> None:
        store.save(HardState(2, "a", 3), None, log(1, 50))
        store.close()
        os.truncate(store.path, length if length >= 0 else store.path.stat().st_size - 4096)
        before = store.path.read_bytes()
        with pytest.raises(StorageError, match="joins as a new member"):
            Storage.open(store.path, "shop")
        assert store.path.read_bytes() == before

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM log WHERE position = 3",
            "DELETE FROM log WHERE position = 5",
            "DELETE FROM state",
            "UPDATE state SET term = term - 1",
            "UPDATE state SET vote = 'b'",
            "UPDATE state SET vote = x'00'",
            "UPDATE log SET term = 2 WHERE position = 2",
            "UPDATE log SET data = x'00' WHERE position = 2",
            "UPDATE log SET data = 'text' WHERE position = 2",
            "UPDATE snapshot SET data = x'00'",
            "UPDATE meta SET value = x'00'",
            "DELETE FROM meta",
            "DROP TABLE snapshot",
        ],
    )
    def test_rows_that_someone_changed_are_refused(self, store: Storage, statement: str) -> None:
        store.save(HardState(2, "a", 3), None, log(1, 5))
        store.compact(snapshot(2), keep=2)
        store.close()
        with closing(sqlite3.connect(store.path)) as connection, connection:
            connection.execute(statement)
        with pytest.raises(StorageError, match="damaged or not ours"):
            Storage.open(store.path, "shop")

    def test_copy_without_its_write_ahead_log_is_refused(self, store: Storage, tmp_path: Path) -> None:
        store.save(HardState(1), None, log(1, 5))
        copied = copy(store, tmp_path / "copy")
        wal_of(copied).unlink()
        with pytest.raises(StorageError, match="write-ahead log is missing"):
            Storage.open(copied, "shop")

    def test_write_ahead_log_without_its_database_is_refused(self, store: Storage, tmp_path: Path) -> None:
        store.save(HardState(1), None, log(1, 5))
        copied = copy(store, tmp_path / "copy")
        copied.unlink()
        with pytest.raises(StorageError, match="is missing"):
            Storage.open(copied, "shop")
        assert not copied.exists()


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


class TestRefused:
    def test_another_cluster(self, store: Storage) -> None:
        store.close()
        with pytest.raises(StorageError, match="belongs to the cluster 'shop', not to 'blog'"):
            Storage.open(store.path, "blog")

    def test_another_node(self, store: Storage) -> None:
        store.close()
        with pytest.raises(StorageError, match="belongs to the node"):
            Storage.open(store.path, "shop", "somebody else")

    def test_later_layout(self, store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        store.close()
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute(f"PRAGMA user_version = {rows.LAYOUT + 1}")
        with pytest.raises(StorageError, match="later version of dref_django"):
            Storage.open(store.path, "shop")

    def test_other_programs_database_stays_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "db.sqlite3"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE polls (id INTEGER)")
        before = path.read_bytes()
        with pytest.raises(StorageError, match="no file of dref_django"):
            Storage.open(path, "shop")
        assert path.read_bytes() == before

    def test_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("remember the milk\n" * 100)
        with pytest.raises(StorageError, match="damaged or not ours"):
            Storage.open(path, "shop")

    def test_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="DATA_DIR"):
            Storage.open(tmp_path / "file" / "raft.db", "shop")

    def test_second_opener_in_another_process(self, store: Storage) -> None:
        program = (
            "import sys\n"
            "from dref_django.backends.raft.storage import Storage, StorageError\n"
            "try:\n"
            "    Storage.open(sys.argv[1], 'shop')\n"
            "except StorageError as error:\n"
            "    print(error)\n"
        )
        command = [sys.executable, "-c", program, str(store.path)]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "in use by another process" in said
        store.save(HardState(1))

    def test_second_opener_in_this_process(self, store: Storage) -> None:
        with pytest.raises(StorageError, match="in use"):
            Storage.open(store.path, "shop")
        store.save(HardState(1))


class TestAfterTrouble:
    @pytest.mark.parametrize(("cluster", "node"), [("blog", None), ("shop", "somebody else")])
    def test_file_of_a_killed_node_is_whole_after_somebody_else_was_refused(
        self, store: Storage, tmp_path: Path, cluster: str, node: str | None
    ) -> None:
        store.save(HardState(1), None, log(1, 5))
        killed = copy(store, tmp_path / "killed")
        for _ in range(2):
            with pytest.raises(StorageError, match="belongs to"):
                Storage.open(killed, cluster, node)
        assert reopened(killed) == state(store)

    def test_node_that_could_not_write_writes_no_more_and_is_whole_when_it_starts_again(self, store: Storage) -> None:
        store.save(HardState(1), None, log(1, 5))
        before = state(store)
        store._db().execute("PRAGMA query_only = ON")
        with pytest.raises(StorageError, match="This node must stop"):
            store.save(HardState(2))
        store._db().execute("PRAGMA query_only = OFF")
        with pytest.raises(StorageError, match="not written any more"):
            store.save(HardState(2))
        assert state(store) == before
        store.close()
        assert reopened(store.path) == before

    def test_node_that_could_not_even_say_that_it_closes_is_whole(self, store: Storage) -> None:
        store.save(HardState(1), None, log(1, 5))
        before = state(store)
        store._db().execute("PRAGMA query_only = ON")
        store.close()
        assert reopened(store.path) == before


class TestFullDisk:
    def test_nothing_is_saved_and_later_it_works_again(self, store: Storage) -> None:
        store.save(HardState(1, "a", 0), None, log(1, 3))
        before = state(store)
        (pages,) = store._db().execute("PRAGMA page_count").fetchone()
        store._db().execute(f"PRAGMA max_page_count = {pages}")
        big = [entry(4, data=b"x" * 100_000)]
        with pytest.raises(DiskFull, match="no room"):
            store.save(HardState(2, "a", 0), None, big)
        assert state(store) == before
        store._db().execute("PRAGMA max_page_count = 1000000")
        store.save(HardState(2, "a", 0), None, big)
        after = state(store)
        store.close()
        assert reopened(store.path) == after


FORKING = """
import os, sys
from dref_django.backends.raft.core.messages import Entry, EntryKind, HardState
from dref_django.backends.raft.storage import Storage, StorageError
store = Storage.open(sys.argv[1], "shop")
store.save(HardState(1), None, [Entry(1, 1, EntryKind.COMMAND, b"before")])
if (child := os.fork()) == 0:
    try:
        store.save(HardState(2))
    except StorageError as error:
        print(error, flush=True)
    del store
    sys.exit()
os.waitpid(child, 0)
assert os.path.getsize(sys.argv[1] + "-wal") > 0
store.save(HardState(1), None, [Entry(2, 1, EntryKind.COMMAND, b"after")])
os.kill(os.getpid(), 9)
"""


def test_forked_child_leaves_the_file_to_its_parent(path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "is closed" in done.stdout
    assert [each.data for each in reopened(path)[1]] == [b"before", b"after"]
