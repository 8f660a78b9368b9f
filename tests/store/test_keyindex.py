"""The key index: what a search finds, whatever became of the files; and that no slice does more than it may."""

import asyncio
import contextlib
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_store import keyfile, keyindex
from rmq_store.disk import Disk, RealDisk
from rmq_store.flush import Mode
from rmq_store.journal import TopicDrop
from rmq_store.keyfile import Table, key_hash, walk
from rmq_store.keyindex import SLICE_UNITS, TooManySearches
from rmq_store.record import SYS_FLAG_PREPARED, SYS_FLAG_ROLLBACK, Record, encode_properties
from tests.store.support import Rig, WatchedDisk, draft

BODY = bytes(3000)  # about 20 messages a segment, and so a file
BIG = 1 << 40


def properties(message_id: str, keys: str = "") -> bytes:
    """A message's, encoded."""
    return encode_properties({"UNIQ_KEY": message_id, **({"KEYS": keys} if keys else {}), "TAGS": "a"})


def put(rig: Rig, message_id: str, keys: str = "", topic: str = "t", body: bytes = b"body") -> int:
    """Appends one message, which can be read then; its position."""
    rig.send(topic, body=body, properties=properties(message_id, keys))
    position = rig.store.log.last[0]
    rig.turn()
    return position


def put_many(rig: Rig, count: int, first: int = 0) -> None:
    """Messages m<n>, each with the keys `all` and k<n % 3>."""
    for number in range(first, first + count):
        put(rig, f"m{number}", f"all k{number % 3}", body=BODY)


def start_find(
    rig: Rig, key: str, topic: str = "t", limit: int = 1000, bytes_max: int = BIG
) -> "asyncio.Future[list[Record]]":
    """A search that has only begun."""
    return rig.store.keys.find([(topic, key)], lambda found: found.topic == topic, limit=limit, bytes_max=bytes_max)


def find(rig: Rig, key: str, topic: str = "t", limit: int = 1000, bytes_max: int = BIG) -> list[str]:
    """Ids of what is found, in order."""
    found = rig.wait(start_find(rig, key, topic, limit, bytes_max))
    assert isinstance(found, list)
    return [record.decode_properties()["UNIQ_KEY"] for record in found]


def newest_first(count: int, first: int = 0) -> list[str]:
    """The ids of so many messages from a number on."""
    return [f"m{number}" for number in reversed(range(first, first + count))]


@contextlib.contextmanager
def opened(root: Path | None, disk: Disk | None = None, **options: object) -> Iterator[Rig]:
    """A store for a while."""
    rig = Rig(root, disk, **options)
    yield rig
    rig.close()


def files(root: Path) -> list[Path]:
    """Those of the index, by position."""
    return sorted((root / keyfile.FOLDER).glob("*"))


def write_all(rig: Rig) -> None:
    """Until all that can be in files is."""
    find(rig, "nothing")
    rig.until(lambda: not rig.store.keys._busy)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A store of 60 messages, whose index has files, and which was stopped."""
    with opened(tmp_path / "data") as rig:
        put_many(rig, 60)
        write_all(rig)
    assert len(files(tmp_path / "data")) >= 2
    return tmp_path / "data"


# -- what is found -----------------------------------------------------------------------------------------------------


def test_a_message_is_found_by_its_id_and_by_each_of_its_keys() -> None:
    """UNIQ_KEY, and the words of KEYS."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "one", "red blue  red")
        put(rig, "two", "blue")
        assert [find(rig, key) for key in ("one", "red", "blue", "green", "")] == [
            ["one"],
            ["one"],
            ["two", "one"],
            [],
            [],
        ]


def test_a_key_belongs_to_its_topic() -> None:
    """The same key elsewhere is another key."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "here", "k")
        put(rig, "there", "k", topic="u")
        assert (find(rig, "k"), find(rig, "k", topic="u"), find(rig, "k", topic="v")) == (["here"], ["there"], [])


@pytest.mark.parametrize("flag", [SYS_FLAG_PREPARED, SYS_FLAG_ROLLBACK])
def test_half_messages_roll_backs_and_the_journal_have_no_entry(flag: int) -> None:
    """Nobody may read them."""
    with opened(None, mode=Mode.MEMORY) as rig:
        rig.topic("t")
        hidden = msgspec.structs.replace(draft("t", 0, properties=properties("hidden")), sys_flag=flag)
        rig.store.log.append(hidden, 0, 0)
        rig.store.flusher.touch()
        rig.turn()
        put(rig, "seen")
        assert (find(rig, "hidden"), find(rig, "seen")) == ([], ["seen"])
        assert rig.store.keys._table is not None
        assert rig.store.keys._table.count == 1


def test_the_newest_come_first_and_only_as_many_as_are_wanted() -> None:
    """Across files and the table in memory."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 50)
        assert find(rig, "all") == newest_first(50)
        assert find(rig, "all", limit=7) == newest_first(7, 43)
        assert find(rig, "k1", limit=2) == ["m49", "m46"]


def test_bodies_end_an_answer_but_one_always_fits() -> None:
    """The message that goes beyond the limit is the last."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 10)
        assert find(rig, "all", bytes_max=len(BODY) + 1) == ["m9", "m8"]
        assert find(rig, "all", bytes_max=1) == ["m9"]


def test_a_message_that_no_queue_points_to_is_not_found() -> None:
    """Its topic was deleted, and another of that name begun."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "old", "k")
        rig.store.apply(TopicDrop("t"))
        put(rig, "new", "k")
        assert (find(rig, "k"), find(rig, "old")) == (["new"], [])


def test_what_is_not_safe_is_not_found(tmp_path: Path) -> None:
    """As everywhere."""
    disk = WatchedDisk(RealDisk(tmp_path))
    with opened(tmp_path, disk=disk, mode=Mode.DURABLE) as rig:
        rig.wait(rig.store.when_safe(rig.send("t", properties=properties("first"))))
        disk.gate.clear()
        rig.send("t", properties=properties("second"))
        rig.turn()
        assert (find(rig, "first"), find(rig, "second")) == (["first"], [])
        disk.gate.set()


def test_keys_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash only says where to look."""
    monkeypatch.setattr(keyindex, "key_hash", lambda topic, key: 7)
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "a", "x y")
        put(rig, "b", "x")

        def has_y(found: Record) -> bool:
            return "y" in found.decode_properties().get("KEYS", "").split()

        found = rig.wait(rig.store.keys.find([("t", "y")], has_y, limit=9, bytes_max=BIG))
        assert isinstance(found, list)
        assert [one.decode_properties()["UNIQ_KEY"] for one in found] == ["a"]


def test_several_names_make_one_answer() -> None:
    """In order of their positions."""
    with opened(None, mode=Mode.MEMORY) as rig:
        for number, topic in enumerate("tutut"):
            put(rig, f"m{number}", "k", topic=topic)
        found = rig.wait(rig.store.keys.find([("t", "k"), ("u", "k")], lambda _: True, limit=4, bytes_max=BIG))
        assert isinstance(found, list)
        assert [one.decode_properties()["UNIQ_KEY"] for one in found] == newest_first(4, 1)


_message = st.tuples(st.sampled_from("tu"), st.lists(st.sampled_from("abcdef"), max_size=3), st.integers(0, 9000))


@settings(max_examples=30, deadline=None)
@given(messages=st.lists(_message, max_size=60), look_at=st.sets(st.integers(0, 59)), limit=st.integers(1, 20))
def test_it_finds_what_a_dictionary_would(
    messages: list[tuple[str, list[str], int]], look_at: set[int], limit: int
) -> None:
    """Whatever is sent, and whenever someone looks."""
    naive: dict[tuple[str, str], list[str]] = {}
    with opened(None, mode=Mode.MEMORY) as rig:
        for number, (topic, keys, size) in enumerate(messages):
            put(rig, f"m{number}", " ".join(keys), topic, bytes(size))
            for key in {f"m{number}", *keys}:
                naive.setdefault((topic, key), []).insert(0, f"m{number}")
            if number in look_at:
                assert find(rig, "a", topic) == naive.get((topic, "a"), [])
        for topic, key in [(topic, key) for topic in "tu" for key in [*"abcdef", "m0", "m59"]]:
            assert find(rig, key, topic, limit) == naive.get((topic, key), [])[:limit]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_looks_as_it_is_drawn() -> None:
    """Byte for byte: other versions read it."""
    table = Table(5000, 4)
    table.add(0x1111111100000002, 5000)
    table.add(0x2222222200000006, 5100)  # the same slot
    table.add(0x3333333300000001, 5200)
    table.end = 5300
    head = struct.pack(">8sQQII", b"RMQKEYS1", 5000, 5300, 3, 4)
    slots = struct.pack(">4I", 0, 3, 2, 0)
    entries = struct.pack(">9I", 0x11111111, 0, 0, 0x22222222, 100, 1, 0x33333333, 200, 0)
    crc = struct.pack(">I", zlib.crc32(head + slots + entries))
    assert table.file_bytes() == head + crc + slots + entries
    assert list(walk(table, 0x1111111100000002)) == [None, 5000]
    assert list(walk(table, 0x2222222200000006)) == [5100, None]
    assert list(walk(table, 0x1111111100000003)) == []


def test_the_hash_never_changes() -> None:
    """Files outlive versions."""
    assert key_hash(b"orders", b"k") == 0xBE8166D22347F68D


def test_a_file_that_was_checked_is_what_was_written(indexed: Path) -> None:
    """Files follow each other without a gap."""
    disk = RealDisk(indexed)
    known = [keyfile.check(disk, int(path.name)) for path in files(indexed)]
    spans = [(one.start, one.end) for one in known if one is not None]
    assert len(spans) == len(known)
    assert spans[0][0] == 0
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]


# -- restart and damage ------------------------------------------------------------------------------------------------


def test_a_restart_goes_on_where_the_files_end(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not made again, and the messages behind them are found."""
    before = {path: path.stat().st_mtime_ns for path in files(indexed)}
    end = keyfile.end_of(RealDisk(indexed), int(files(indexed)[-1].name))
    with opened(indexed) as rig:
        begun: list[int] = []
        pass_record = rig.store.keys._pass_record

        def noting(table: Table) -> int:
            begun.append(table.end)
            return pass_record(table)

        monkeypatch.setattr(rig.store.keys, "_pass_record", noting)
        put_many(rig, 1, 60)
        assert find(rig, "all") == newest_first(61)
        assert min(begun) == end
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_nothing_is_read_before_serving(indexed: Path) -> None:
    """But for the ends of the last files."""
    with opened(indexed) as rig:
        assert len(rig.store.keys._unchecked) == len(files(indexed))
        assert rig.store.keys._table is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _zero_end(path: Path) -> None:
    """As a crash leaves a file whose last blocks were not written."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "flipped": _flip,
    "torn": _zero_end,
    "zero": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"#!/bin/sh\n" * 100),
    "another's": lambda path: path.write_bytes(path.with_name(path.name).read_bytes()[::-1]),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_made_anew(indexed: Path, damage: str, which: int) -> None:
    """Wherever it lies; the others stay."""
    paths = files(indexed)
    whole = [path.read_bytes() for path in paths]
    DAMAGES[damage](paths[which])
    with opened(indexed) as rig:
        assert find(rig, "all") == newest_first(60)
        assert find(rig, "m3") == ["m3"]
        write_all(rig)
    assert [path.read_bytes() for path in files(indexed)] == whole


def test_a_file_that_goes_while_we_run_is_made_anew(indexed: Path) -> None:
    """Someone tidied up."""
    with opened(indexed) as rig:
        assert find(rig, "m3") == ["m3"]
        for path in files(indexed):
            path.unlink()
        assert find(rig, "m3") == ["m3"]
        write_all(rig)
        assert files(indexed)


def test_of_two_files_that_overlap_one_goes(indexed: Path) -> None:
    """What another writer may have left; the newer one stays."""
    start = int(files(indexed)[-1].name)
    table = Table(start - 1000, 256)
    table.end = start + 1000
    other = indexed / keyfile.path_of(table.start)
    other.write_bytes(table.file_bytes())
    with opened(indexed) as rig:
        assert find(rig, "all") == newest_first(60)
    assert not other.exists()


def test_names_that_are_not_ours_are_left_alone(indexed: Path) -> None:
    """They hold nothing that we look for."""
    other = indexed / keyfile.FOLDER / "notes.txt"
    other.write_text("mine")
    with opened(indexed) as rig:
        assert find(rig, "all") == newest_first(60)
    assert other.read_text() == "mine"


def test_a_file_that_knows_more_log_than_there_is_goes_before_anything_is_written(indexed: Path) -> None:
    """A power cut took the log's end, and other messages come to lie there."""
    saved = [(path, path.read_bytes()) for path in files(indexed)]
    shutil.rmtree(indexed)
    with opened(indexed) as rig:
        put(rig, "alone")
    (indexed / keyfile.FOLDER).mkdir(exist_ok=True)
    for path, data in saved:
        path.write_bytes(data)
    with opened(indexed) as rig:
        assert files(indexed) == []
        put_many(rig, 60)
        assert find(rig, "all") == newest_first(60)
        assert find(rig, "alone") == ["alone"]


def test_damaged_log_is_passed_over(indexed: Path) -> None:
    """What lies behind it is found."""
    (first, *_) = files(indexed)
    first.unlink()
    log = indexed / "commitlog" / f"{0:020d}"
    data = bytearray(log.read_bytes())
    data[300:9000] = bytes(8700)
    log.write_bytes(data)
    with opened(indexed) as rig:
        found = find(rig, "all")
        assert found == newest_first(len(found), 60 - len(found))
        assert 50 < len(found) < 60


def test_a_size_that_leads_astray_loses_only_its_record(indexed: Path) -> None:
    """The search for the next one starts right behind the damaged head."""
    (first, *_) = files(indexed)
    first.unlink()
    with opened(indexed) as rig:
        positions = [record.position for record in rig.store.log.scan(0) if isinstance(record, Record)]
    log = indexed / "commitlog" / f"{0:020d}"
    data = bytearray(log.read_bytes())
    data[positions[5] : positions[5] + 4] = struct.pack(">I", positions[7] - positions[5])
    log.write_bytes(data)
    with opened(indexed) as rig:
        assert len(find(rig, "all")) == 59


# -- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [False, True])
def test_files_go_with_their_log(tmp_path: Path, memory: bool) -> None:
    """And what is left is found."""
    with opened(None if memory else tmp_path, mode=Mode.MEMORY if memory else Mode.FAST) as rig:
        put_many(rig, 40)
        rig.roll()
        put_many(rig, 40, 40)
        write_all(rig)
        assert len(find(rig, "all")) == 80
        rig.retain()
        begin = rig.store.log.begin
        assert begin > 0
        kept = find(rig, "all")
        assert 0 < len(kept) < 80
        assert kept == newest_first(len(kept), 80 - len(kept))
        rig.store._worker.submit(int).result()
        assert all(file.end > begin for file in rig.store.keys._files)
        on_disk = {int(name) for name in rig.store.disk.list(keyfile.FOLDER)}
        assert on_disk <= {file.start for file in rig.store.keys._files}


def test_a_file_is_searched_while_it_is_written() -> None:
    """In memory, until the worker is done."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 10)
        find(rig, "m1")
        index = rig.store.keys
        assert index._table is not None
        index._finish(index._table)
        assert find(rig, "m1") == ["m1"]
        assert index._unsaved is not None
        index.drop_before(index._unsaved.end)
        assert not index._files


def test_a_table_that_retention_overtook_is_begun_anew() -> None:
    """It stands for nothing that is there."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "gone", "all")
        find(rig, "gone")
        put_many(rig, 30)
        rig.roll()
        put_many(rig, 5, 30)
        rig.retain()
        assert find(rig, "gone") == []
        found = find(rig, "all")
        assert found[:5] == newest_first(5, 30)


# -- slices ------------------------------------------------------------------------------------------------------------


def counted(rig: Rig) -> tuple[list[int], list[int]]:
    """Costs of each slice's pieces in all, and the largest piece of each."""
    index = rig.store.keys
    run, piece = index._run, index._piece
    sums: list[int] = []
    largest: list[int] = []

    def counting_run() -> None:
        sums.append(0)
        largest.append(0)
        run()

    def counting_piece() -> int:
        cost = piece()
        sums[-1] += cost
        largest[-1] = max(largest[-1], cost)
        return cost

    index._run, index._piece = counting_run, counting_piece  # type: ignore[method-assign]  # to count
    return sums, largest


def test_no_slice_does_more_than_it_may() -> None:
    """Not where one message has thousands of keys, nor where one key has thousands of messages."""
    with opened(None, mode=Mode.MEMORY, segment_bytes=1 << 20) as rig:
        for number in range(2000):
            rig.send("t", properties=properties(f"m{number}", "all"))
        rig.send("t", properties=properties("many", " ".join(f"{number:x}" for number in range(3000))))
        rig.turn()
        sums, largest = counted(rig)
        assert len(find(rig, "all", limit=1500)) == 1500
        assert find(rig, "bb7") == ["many"]
        assert len(sums) > 10
        assert max(largest) <= SLICE_UNITS // 2
        assert max(sums) < SLICE_UNITS + max(largest)


def test_others_get_their_turn_between_slices() -> None:
    """One slice a turn of the loop."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 200)
        sums, _ = counted(rig)
        search = start_find(rig, "all")
        turns = 0
        while not search.done():
            rig.turn()
            turns += 1
        assert len(sums) <= turns + 1


def test_a_send_does_no_work_for_the_index() -> None:
    """And none is done while sends go on; 200 ms after the last one it is."""
    with opened(None, mode=Mode.MEMORY) as rig:
        index = rig.store.keys
        put_many(rig, 10)
        index._run()  # the timer's time has come, but something was appended
        assert index._table is None
        index._run()
        assert index._table is not None
        rig.until(lambda: index._reached() == rig.store.log.end)


def test_it_goes_on_beside_other_work_once_much_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a search would have to read it all."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 10)
        monkeypatch.setattr(keyindex, "BEHIND_BYTES_MAX", 20_000)
        rig.store.keys._run()
        assert rig.store.log.end - rig.store.keys._reached() <= 20_000


def test_idle_it_waits_for_nothing() -> None:
    """No timer where all is done."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 3)
        rig.until(lambda: rig.store.keys._timer is None)
        assert rig.store.keys._reached() == rig.store.log.end


# -- who waits ---------------------------------------------------------------------------------------------------------


def test_a_search_that_is_cancelled_ends() -> None:
    """The next one has its turn."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 20)
        first, second = start_find(rig, "all"), start_find(rig, "m3")
        first.cancel()
        assert len(rig.wait(second)) == 1  # type: ignore[arg-type]  # a list
        assert not rig.store.keys._searches


def test_a_stop_ends_every_search() -> None:
    """Cancelled: there is no answer any more."""
    rig = Rig(None, mode=Mode.MEMORY)
    put_many(rig, 3)
    search = start_find(rig, "all")
    rig.close()
    assert search.cancelled()


def test_searches_have_a_limit() -> None:
    """Beyond it the caller is told at once."""
    with opened(None, mode=Mode.MEMORY) as rig:
        waiting = [start_find(rig, "m") for _ in range(keyindex.SEARCHES_MAX)]
        with pytest.raises(TooManySearches):
            rig.wait(start_find(rig, "m"))
        for search in waiting:
            rig.wait(search)


def test_where_no_file_can_be_written_searches_say_so_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table stays in memory, so memory does not grow, and nothing is lost."""
    disk = WatchedDisk(RealDisk(tmp_path))
    with opened(tmp_path, disk=disk) as rig:
        put_many(rig, 60)
        disk.broken.add(("write", keyfile.FOLDER))
        with pytest.raises(OSError, match="No space left"):
            find(rig, "all")
        assert rig.store.keys._unsaved is not None
        assert len(rig.store.keys._files) == 1
        disk.broken.clear()
        assert find(rig, "all") == newest_first(60)


def test_a_queue_that_cannot_be_read_fails_the_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is served."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "m")

        def broken(position: int) -> None:
            raise OSError("gone")

        monkeypatch.setattr(rig.store.keys, "_read_at", broken)
        with pytest.raises(OSError, match="gone"):
            find(rig, "m")
        monkeypatch.undo()
        assert find(rig, "m") == ["m"]
