"""A file is only there after a power cut if its folder was synced; so is what was deleted only then gone."""

import errno
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from rmq_store import disk as disk_module
from rmq_store.checkpoint import Checkpoint
from rmq_store.disk import RealDisk, put_text
from rmq_store.segment import FOLDER
from tests.store.support import Rig

TOPIC = "t"


@pytest.fixture
def synced() -> Iterator[list[Path]]:
    """The folders that were synced, in order."""
    folders: list[Path] = []
    sync = disk_module._sync_folder

    def note(folder: Path) -> None:
        folders.append(folder)
        sync(folder)

    with mock.patch.object(disk_module, "_sync_folder", note):
        yield folders


def test_a_new_data_directory_is_synced_with_its_parents(tmp_path: Path, synced: list[Path]) -> None:
    """Each folder that had to be made has its entry in the one above."""
    RealDisk(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}


def test_a_new_file_is_synced_with_its_folders(tmp_path: Path, synced: list[Path]) -> None:
    """Up to the last folder that was there; a file that is there costs nothing."""
    disk = RealDisk(tmp_path)
    disk.open("x/y/0", 10).close()
    assert set(synced) == {tmp_path, tmp_path / "x", tmp_path / "x" / "y"}
    synced.clear()
    disk.open("x/y/0", 10).close()
    assert synced == []


def test_a_file_that_got_no_length_is_synced_as_a_new_one(tmp_path: Path, synced: list[Path]) -> None:
    """Who died before its length was set has not synced its entry either."""
    (tmp_path / "f").touch()
    RealDisk(tmp_path).open("f", 10).close()
    assert synced == [tmp_path]


def test_a_file_whose_entry_cannot_be_synced_is_not_there(tmp_path: Path) -> None:
    """Or the next try would take it for one that is safe."""
    disk = RealDisk(tmp_path)
    error = OSError(errno.EIO, "no")
    with mock.patch.object(disk_module, "_sync_folder", side_effect=error), pytest.raises(OSError, match="no"):
        disk.open("f", 10)
    assert disk.size("f") is None


def test_a_start_syncs_the_entries_of_the_log(tmp_path: Path, synced: list[Path]) -> None:
    """The process before may have been killed between the making of a segment and the sync of its folder."""
    Rig(tmp_path).close()
    synced.clear()
    rig = Rig(tmp_path)
    assert {tmp_path, tmp_path / FOLDER} <= set(synced)
    rig.close()


def test_a_checkpoint_syncs_the_entries_of_queue_files_that_were_there(tmp_path: Path, synced: list[Path]) -> None:
    """Once in a process's life: it makes its own files durable itself. After a failure once more."""
    rig = Rig(tmp_path)
    rig.send(TOPIC)
    rig.close()
    folder = tmp_path / "consumequeue" / TOPIC / "0"
    rig = Rig(tmp_path)
    for expected in ({tmp_path, folder, folder.parent, folder.parent.parent}, set()):
        synced.clear()
        rig.send(TOPIC)
        rig.save()
        assert set(synced) == expected
    rig.close()


def test_a_checkpoint_that_failed_leaves_nothing_taken_for_synced(tmp_path: Path, synced: list[Path]) -> None:
    """The next one syncs the folders anew."""
    rig = Rig(tmp_path)
    rig.send(TOPIC)
    with mock.patch.object(Checkpoint, "commit", side_effect=OSError(errno.EIO, "no")):
        rig.save()
    synced.clear()
    rig.send(TOPIC)
    rig.save()
    assert tmp_path / "consumequeue" / TOPIC / "0" in synced
    rig.close()


def test_a_discarded_checkpoint_stays_away(tmp_path: Path, synced: list[Path]) -> None:
    """Come back, it could fit a log that has meanwhile grown to where it claims to have been."""
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.discard()
    checkpoint.close()
    assert synced == [tmp_path]


def test_a_small_file_is_whole_or_as_it_was(tmp_path: Path, synced: list[Path]) -> None:
    """And its name is durable."""
    path = tmp_path / "format"
    put_text(path, "1\n")
    with mock.patch("os.fsync", side_effect=OSError(errno.EIO, "no")), pytest.raises(OSError, match="no"):
        put_text(path, "2\n")
    assert (path.read_text(), synced) == ("1\n", [tmp_path])
