"""All file work of the store: the real disk, and one in memory for flush profile `memory`. POSIX-only calls live here.

Reads of a mapped file come from a read-only map; writes always go through pwrite: a write into a mapped hole on a full
disk would be a SIGBUS. A file is created at its full length, sparse; `reserve` sees to it that a later write has its
space.
"""

import contextlib
import errno
import mmap
import os
import shutil
from pathlib import Path
from typing import Protocol

from rmq_store.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows: no fcntl; msvcrt would lock a region too, but nothing is claimed there yet
    fcntl = None  # type: ignore[assignment]  # the module's absence is the value


class File(Protocol):
    """An open file of fixed length."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`, into the page cache. Raises OSError."""

    def sync(self) -> None:
        """Returns when what was written is on stable storage. Raises OSError; a failed sync is final."""

    def reserve(self, offset: int, size: int) -> None:
        """Space for later writes. Raises OSError (ENOSPC)."""

    def data(self, offset: int) -> list[tuple[int, int]]:
        """Where something else than zeros may be, from `offset` on: (start, end), in order.

        All at once: reading reserved space brings it into the page cache, and ext4 tells that as data.
        """

    def close(self) -> None:
        """Gives the descriptor and the map back."""


class Disk(Protocol):
    """A directory tree of such files. Paths are relative, with `/`."""

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """Opens a file, creating it (and its directory) with `size` zero bytes where it is missing."""

    def size(self, path: str) -> int | None:
        """A file's length, None where there is no such file."""

    def list(self, folder: str) -> list[str]:
        """Names of the entries of a folder, sorted; empty where there is no such folder."""

    def remove(self, path: str) -> None:
        """Deletes a file, then its folder and that one's where they are empty."""

    def sync_folder(self, folder: str) -> None:
        """Makes entries of a folder durable."""

    def free_bytes(self) -> int:
        """Room left for us on the file system."""


class _RealFile:
    def __init__(self, fd: int, size: int, *, mapped: bool) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ) if mapped else None

    def read(self, offset: int, size: int) -> bytes:
        if self._map is not None:
            return self._map[offset : offset + size]
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        done = os.pwrite(self._fd, data, offset)
        while done < len(data):
            done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)

    def sync(self) -> None:
        os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)

    def reserve(self, offset: int, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, offset, size)

    def data(self, offset: int) -> list[tuple[int, int]]:
        size = os.fstat(self._fd).st_size
        if not hasattr(os, "SEEK_DATA"):
            return [(offset, size)] if offset < size else []
        ranges: list[tuple[int, int]] = []
        while offset < size:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
                offset = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a file system that cannot tell
                    ranges.append((offset, size))
                break
            ranges.append((start, offset))
        return ranges

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        os.close(self._fd)


class RealDisk:
    """Files under one data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            _make_folder(root)
        except OSError as error:
            raise StoreError(
                f"cannot make the data directory {root}: {error.strerror}; choose another with --data"
            ) from None

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """See Disk.open. The new file's length and its folder entry are durable on return."""
        full = self.root / path
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(full, flags)
        except FileNotFoundError:
            fd = self._create(full, flags, size)
        if os.fstat(fd).st_size < size:  # a crash fell between its making and its length, or it was cut off
            self._complete(fd, full, size)
        return _RealFile(fd, os.fstat(fd).st_size, mapped=mapped)

    def _create(self, full: Path, flags: int, size: int) -> int:
        _make_folder(full.parent)
        fd = os.open(full, flags | os.O_CREAT, 0o644)
        self._complete(fd, full, size)
        return fd

    def _complete(self, fd: int, full: Path, size: int) -> None:
        """A file that could not be made durable is not there: the next try must not take it for one that is."""
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
            _sync_folder(full.parent)
        except OSError:
            os.close(fd)
            full.unlink()
            raise

    def size(self, path: str) -> int | None:
        """See Disk.size."""
        try:
            return (self.root / path).stat().st_size
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> list[str]:
        """See Disk.list."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, path: str) -> None:
        """See Disk.remove."""
        full = self.root / path
        full.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone already
            full.parent.rmdir()
            full.parent.parent.rmdir()

    def sync_folder(self, folder: str) -> None:
        """See Disk.sync_folder."""
        _sync_folder(self.root / folder)

    def free_bytes(self) -> int:
        """See Disk.free_bytes."""
        return shutil.disk_usage(self.root).free


def _make_folder(folder: Path) -> None:
    """With its parents, where they are missing; all their entries are durable on return."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def put_text(path: Path, text: str) -> None:
    """A small file whole or as it was before, and durable on return. Raises OSError."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """A folder with all that is in it, as far as that can be deleted; what went does not come back. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder; NTFS journals its entries
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class DirectoryLock:
    """Keeps a second store, or an Apache broker, out of a data directory (facts: store.md 1.5).

    Java's FileChannel.tryLock is fcntl F_SETLK on the byte range [0, 1) of `lock`, so ours is the same. Such a lock is
    the process's, and goes with any descriptor that it closes: a store in this very process is kept out by a flock on
    `rmq/lock`, before it can touch the other.
    """

    def __init__(self, root: Path) -> None:
        """Raises StoreError where it is held, OSError where the files can't be made."""
        self._root = root
        self._fds: list[int] = []
        _make_folder(root / "rmq")
        try:
            self._take(root / "rmq" / "lock", whole=True)
            self._take(root / "lock", whole=False)
            os.pwrite(self._fds[-1], b"lock", 0)
        except (OSError, StoreError):
            self.release()
            raise

    def _take(self, path: Path, *, whole: bool) -> None:
        self._fds.append(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644))
        if fcntl is None:
            return
        flags = fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            if whole:
                fcntl.flock(self._fds[-1], flags)
            else:
                fcntl.lockf(self._fds[-1], flags, 1, 0)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise StoreError(
                f"{self._root} is in use by another broker (its `lock` file is held); "
                "stop that one or give this one another --data"
            ) from None

    def release(self) -> None:
        """Lets others in."""
        while self._fds:
            os.close(self._fds.pop())


class _MemoryFile:
    def __init__(self, size: int) -> None:
        self.size = size
        self._data = bytearray()  # grows as written: what was never written reads as zeros

    def read(self, offset: int, size: int) -> bytes:
        found = bytes(self._data[offset : offset + size])
        wanted = max(0, min(size, self.size - offset))
        return found + bytes(wanted - len(found))

    def write(self, offset: int, data: bytes) -> None:
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def sync(self) -> None:
        pass

    def reserve(self, offset: int, size: int) -> None:
        pass

    def data(self, offset: int) -> list[tuple[int, int]]:
        return [(offset, len(self._data))] if offset < len(self._data) else []

    def close(self) -> None:
        pass


class MemoryDisk:
    """No file at all: what flush profile `memory` runs on."""

    def __init__(self) -> None:
        self._files: dict[str, _MemoryFile] = {}

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """See Disk.open."""
        del mapped
        return self._files.setdefault(path, _MemoryFile(size))

    def size(self, path: str) -> int | None:
        """See Disk.size; the length given at creation."""
        file = self._files.get(path)
        return None if file is None else file.size

    def list(self, folder: str) -> list[str]:
        """See Disk.list."""
        start = folder + "/" if folder else ""
        paths = list(self._files)  # at once: the worker may be deleting one
        return sorted({path[len(start) :].split("/")[0] for path in paths if path.startswith(start)})

    def remove(self, path: str) -> None:
        """See Disk.remove."""
        self._files.pop(path, None)

    def sync_folder(self, folder: str) -> None:
        """Nothing to do."""

    def free_bytes(self) -> int:
        """Unlimited: the log's own size limit rules."""
        return 1 << 62
