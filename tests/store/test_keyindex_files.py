"""The key index's files: what is in them, restarts, damage, retention."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from rmq_store import keyfile
from rmq_store.disk import RealDisk
from rmq_store.flush import Mode
from rmq_store.keyfile import Table, key_hash, walk
from rmq_store.record import Record
from tests.store.keyrig import files, find, newest_first, opened, put, put_many, write_all


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A store of 60 messages, whose index has files, and which was stopped."""
    with opened(tmp_path / "data") as rig:
        put_many(rig, 60)
        write_all(rig)
    assert len(files(tmp_path / "data")) >= 2
    return tmp_path / "data"


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
