"""Files of fixed length, with room reserved; and a lock that keeps everyone else out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmq_store.disk import DirectoryLock, Disk, MemoryDisk, RealDisk
from rmq_store.errors import StoreError
from tests.processes import started
from tests.store.support import Rig

# What Java's FileChannel.tryLock(0, 1, false) does, in another process.
HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
print("held", flush=True)
sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from rmq_store.disk import DirectoryLock
from rmq_store.errors import StoreError
try:
    DirectoryLock(Path(sys.argv[1]))
except StoreError as error:
    print("refused:", error)
else:
    print("taken")
"""


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """Both kinds keep the same promises."""
    return RealDisk(tmp_path) if request.param == "real" else MemoryDisk()


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_has_its_full_length_and_reads_zeros_until_written(disk: Disk, mapped: bool) -> None:
    """A read at the end is short; a write shows at once."""
    file = disk.open("a/b/0", 10_000, mapped=mapped)
    assert (disk.size("a/b/0"), file.read(9_990, 100), file.data(0)) == (10_000, bytes(10), [])
    file.write(5_000, b"hello")
    assert (file.read(4_999, 7), file.read(20_000, 5)) == (b"\0hello\0", b"")
    [(start, end)] = file.data(0)
    assert 0 <= start <= 5_000 < 5_005 <= end <= 10_000
    assert [end for _, end in file.data(5_004)] == [end]
    file.reserve(0, 10_000)
    file.sync()
    file.close()
    assert disk.open("a/b/0", 10_000).read(5_000, 5) == b"hello"


def test_folders_are_listed_in_order_and_go_with_their_last_file(disk: Disk) -> None:
    """A folder that is not there is empty."""
    for path in ("a/x/2", "a/x/1", "a/y/1", "c"):
        disk.open(path, 1).close()
    assert (disk.list("a"), disk.list("a/x"), disk.list("nowhere"), disk.size("a/x/9")) == (
        ["x", "y"],
        ["1", "2"],
        [],
        None,
    )
    disk.remove("a/x/1")
    disk.remove("a/x/2")
    disk.remove("a/x/2")
    assert disk.list("a") == ["y"]
    disk.remove("a/y/1")
    assert "a" not in disk.list("")


def test_a_file_that_got_no_length_before_a_crash_gets_it_now(tmp_path: Path) -> None:
    """Apache refuses a queue file of another length."""
    (tmp_path / "f").touch()
    RealDisk(tmp_path).open("f", 6_000_000).close()
    assert (tmp_path / "f").stat().st_size == 6_000_000


def test_a_data_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    """Here a file stands in its way."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot make the data directory .* choose another with --data"):
        Rig(tmp_path / "file" / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    """And says nothing of another broker."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"cannot use"):
        Rig(tmp_path)


def test_what_stands_where_the_lock_should_be_is_one_clear_line(tmp_path: Path) -> None:
    """A folder, for example."""
    (tmp_path / "lock").mkdir()
    with pytest.raises(StoreError, match=r"cannot use .* choose another directory with --data"):
        Rig(tmp_path)


# -- lock ------------------------------------------------------------------------------------------------------------


def test_a_second_store_on_a_directory_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    """In the same process too, where the operating system's lock alone would let it in, and be lost with it."""
    rig = Rig(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match="is in use by another broker"):
            Rig(tmp_path)
    assert "refused" in _python(TRY, str(tmp_path))
    rig.close()
    Rig(tmp_path).close()


def test_a_store_held_by_another_process_is_refused(tmp_path: Path) -> None:
    """Until that one is gone, however it went."""
    hold = HOLD.replace("sys.argv[1]", "sys.argv[1] + '/lock'")
    with started([sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="is in use by another broker") as refused:
            Rig(tmp_path)
        assert "\n" not in str(refused.value)
        other.kill()
        other.wait(30)
    Rig(tmp_path).close()


def test_our_lock_keeps_a_java_broker_out(tmp_path: Path) -> None:
    """It takes byte 0 of `lock`, and so do we; the file holds what Apache writes there."""
    lock = DirectoryLock(tmp_path)
    assert "BlockingIOError" in _python(HOLD, str(tmp_path / "lock"))
    lock.release()
    assert (tmp_path / "lock").read_bytes() == b"lock"  # not earlier: to open and close it here would lose the lock
    assert "held" in _python(HOLD, str(tmp_path / "lock"))


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input="", capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


# -- format ----------------------------------------------------------------------------------------------------------


def test_a_store_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    """One line that says what to do; the lock is free again."""
    Rig(tmp_path).close()
    (tmp_path / "rmq" / "format").write_text("99\n")
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"holds store format 99 of another version .* use that version, or another"
        ):
            Rig(tmp_path)
    assert (tmp_path / "rmq" / "format").read_text() == "99\n"
    (tmp_path / "rmq" / "format").write_text("")  # a crash fell between its making and its writing
    Rig(tmp_path).close()
